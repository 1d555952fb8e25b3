"""Notices that a policy folder may hold something else than before; what it holds is a compiler's business.

The folder is watched (inotify and its like) and, for file systems that tell nothing, listed every `RESCAN_S`, as what
reads it lists it; what reads policies is not loaded.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import watchfiles

from authz.policy_listing import PolicyFolderError, policy_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.policy_listing import FolderEntry

#: how often the folder is listed even when nothing was told
RESCAN_S: Final = 2.0


class FolderWatch:
    """Calls `changed`, from a thread of its own, after each change since its construction; it ends with the process."""

    def __init__(self, folder: str, *, changed: Callable[[], None]) -> None:
        self._folder = folder
        self._changed = changed
        self._seen = listing(folder)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="policies", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def _follow(self) -> None:
        while True:
            try:
                self._look()
                for _ in wake_ups(self._folder, self._stop):
                    self._look()
            except (OSError, RuntimeError):
                # The folder itself may be gone, or replaced: it is listed without being told until it is back.
                self._stop.wait(RESCAN_S)

    def _look(self) -> None:
        seen = listing(self._folder)
        # What cannot be listed is read each time: reading it says why, and that it is no longer so.
        if seen is None or seen != self._seen:
            self._seen = seen
            self._changed()


def wake_ups(folder: str, stop: threading.Event) -> Iterator[object]:
    """Wake up when something changed below a folder, and every `RESCAN_S`; raises OSError or RuntimeError.

    Every wake-up, told or timed, ends in the same question: is the listing another one?
    """
    return watchfiles.watch(
        folder,
        stop_event=stop,
        watch_filter=None,
        debounce=50,
        step=20,
        rust_timeout=int(RESCAN_S * 1000),
        yield_on_timeout=True,
        raise_interrupt=False,
    )


def listing(folder: str) -> tuple[FolderEntry, ...] | None:
    """List what decides whether a folder must be read again; None where it cannot be listed."""
    try:
        return policy_files(folder)
    except PolicyFolderError:
        return None  # reading it says why
