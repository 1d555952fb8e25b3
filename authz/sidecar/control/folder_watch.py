"""Notices that a policy folder may hold something else than before; what it holds is a compiler's business.

The folder is watched (inotify and its like) and, for file systems that tell nothing, listed every `RESCAN_S`. Listed is
whatever stands in it: which of it are policies is not judged here, so nothing that a compiler would see is missed, and
what reads policies need not be loaded.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

import watchfiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: how often the folder is listed even when nothing was told
RESCAN_S: Final = 2.0
#: twice as many as a set may have files; of more, every look finds a change, and a compiler says what is wrong
MAX_ENTRIES: Final = 200_000

#: path, device, inode, size and time of change
_Facts = tuple[str, int, int, int, int]


class FolderWatch:
    """Calls `changed`, from a thread of its own, after each change since its construction; it ends with the process."""

    def __init__(self, folder: str, *, changed: Callable[[], None]) -> None:
        self._folder = folder
        self._changed = changed
        self._seen = _listing(folder)
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
        seen = _listing(self._folder)
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


def _listing(folder: str) -> frozenset[_Facts] | None:
    """List what stands below a folder, links followed to files but not to folders; None where that cannot be done."""
    facts: set[_Facts] = set()
    try:
        for one in _facts_below(folder):
            if len(facts) >= MAX_ENTRIES:
                return None
            facts.add(one)
    except OSError:
        return None
    return frozenset(facts)


def _facts_below(folder: str) -> Iterator[_Facts]:
    for directory, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                path = os.path.join(directory, name)  # noqa: PTH118 a Path for each of 100,000 files would be thrown away
                facts = os.stat(path)  # noqa: PTH116 same
                yield path, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _raise(error: OSError) -> None:
    raise error
