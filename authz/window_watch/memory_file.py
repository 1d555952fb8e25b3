"""What a watch has told and has still to tell, on disk: one folder for each URL, one watch at a time in it.

    STATE/windows/<hash of the URL>/memory.json    replaced as a whole, on disk before anything is sent
    STATE/windows/<hash of the URL>/lock           held (flock) while a watch runs: once for the mesh, not once a watch

# INVARIANT (at least once): an announcement is here before it is sent, and is taken from what waits only after it was
# taken: a watch that is killed at any time sends it again, with the same id. (A disk that takes nothing more does not
# keep a running watch from telling.)
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING, Final

from authz.insight.announcement import MAX_MEMORY_BYTES, Memory
from authz.insight.errors import InsightError
from authz.window_watch.errors import WindowWatchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: below the state directory of a mesh; `authz.mesh.state_directory` knows that it is not its own
FOLDER: Final = "windows"
_MEMORY, _LOCK = "memory.json", "lock"


class MemoryFile:
    """The memory of the watch for one URL."""

    def __init__(self, state: Path, url: str) -> None:
        self._folder = state / FOLDER / hashlib.sha256(url.encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; raises WindowWatchError where another watch does, or where it cannot be made."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise WindowWatchError(f"{self._folder}: {_reason(error)}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise WindowWatchError(
                    f"{self._folder}: another `authz windows watch` runs for this URL; one is enough for the whole mesh"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def read(self, now_ns: int) -> Memory:
        """Read it; a new one, from now on, where there is none; raises WindowWatchError where it is damaged."""
        path = self._folder / _MEMORY
        try:
            with path.open("rb") as file:
                return Memory.from_json(file.read(MAX_MEMORY_BYTES + 1))
        except FileNotFoundError:
            return Memory(since_ns=now_ns)
        except OSError as error:
            raise WindowWatchError(f"{path}: {_reason(error)}") from error
        except InsightError as error:
            raise WindowWatchError(f"{path}: {error}; remove it to begin anew: ends since then are not told") from error

    def write(self, memory: Memory) -> None:
        """Replace it, on disk when this returns; raises WindowWatchError."""
        path = self._folder / _MEMORY
        draft = path.with_name(f"{_MEMORY}.draft")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123 the descriptor has its mode from the start
                file.write(memory.to_json().encode())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise WindowWatchError(f"{path}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return (error.strerror or "it cannot be used").lower()
