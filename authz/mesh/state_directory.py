"""The state directory of a mesh: who may use it, where its files are, and how it is left clean.

    STATE/lock              held (flock) by the supervisor for its whole life; says which process it is
    STATE/state.json        the running mesh (:mod:`authz.mesh.state`), replaced atomically
    STATE/svids/NAME/       certificate, key and bundle of each workload, removed with the mesh
    STATE/authorities/      certificates of the authorities: no keys
    STATE/envoy/            the Envoys' configurations
    STATE/sidecars/NAME/    each sidecar's own state
    STATE/windows/          what `authz windows watch` has told; no part of a mesh
    STATE/hub/              what the hub was sent, kept when the mesh has gone
    STATE/logs/ decisions/  kept when the mesh has gone; decision logs are continued by the next one

It is 0700. Unix sockets live in a directory of their own below the temporary directory, because their paths must be
short (unix(7): 107 bytes).

# INVARIANT (one mesh): only the holder of the lock writes or removes anything in the state directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.mesh.errors import MeshError, cause
from authz.mesh.process_mark import ProcessMark, end_processes, mark_of
from authz.mesh.state import MAX_STATE_BYTES, MeshState
from authz.proxy.addresses import MAX_UNIX_PATH_BYTES
from authz.sidecar.latest_instant import FILE_NAMES as LATEST_INSTANTS

if TYPE_CHECKING:
    from collections.abc import Iterator

#: below the current folder, so that every project has its own mesh
DEFAULT_STATE: Final = ".authz/mesh"
RUNTIME_PREFIX: Final = "authz-mesh-"

_LOCK, _STATE = "lock", "state.json"
_MAX_LOCK_BYTES = 256
#: what a mesh makes anew each time, and takes away when it ends
_OF_ONE_MESH = ("svids", "authorities", "envoy")
#: what `authz windows watch` keeps here, before and after any mesh
_OF_OTHERS = ("windows",)
#: `/NAME.sidecar.notify`, for a DNS label
_LONGEST_SOCKET_NAME_BYTES = 1 + 63 + len(".stand_in.notify")
_ORPHAN_GRACE_S = 2.0


class StateDirectory:
    """A folder that at most one mesh uses at a time; it need not exist."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(path or DEFAULT_STATE).absolute()
        self.shown = path or DEFAULT_STATE
        self._locked_inode: int | None = None

    @property
    def logs(self) -> Path:
        """Where each process of the mesh writes what it has to say."""
        return self.path / "logs"

    def supervisor(self) -> ProcessMark | None:
        """Give the living process that runs a mesh here, None if there is none."""
        try:
            with (self.path / _LOCK).open("rb") as lock:
                data = json.loads(lock.read(_MAX_LOCK_BYTES))
            mark = ProcessMark(pid=int(data["pid"]), started=int(data["started"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return mark if mark.pid > 1 and mark.lives() else None

    def read(self) -> MeshState | None:
        """Read the record of the mesh; None if there is none, MeshError if it is damaged."""
        path = self.path / _STATE
        try:
            with path.open("rb") as file:
                return MeshState.from_json(file.read(MAX_STATE_BYTES + 1))
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return None
        except OSError as error:
            raise MeshError(f"{self.shown}/{_STATE}: cannot be read: {cause(error)}") from error
        except MeshError as error:
            raise MeshError(f"{self.shown}/{_STATE}: {error}") from error

    def write(self, state: MeshState) -> None:
        """Replace the record of the mesh; a reader sees the old one or the new one.

        Does nothing where the directory has been removed, and perhaps made anew by another mesh, since it was locked.
        """
        if self._is_lost():
            return
        new = self.path / f"{_STATE}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 the descriptor has its mode from the start
            file.write(state.to_json())
        new.replace(self.path / _STATE)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory and hold its lock; raises MeshError if another mesh does, or if it is not ours to use."""
        self._make()
        fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(fd)
            self._locked_inode = os.fstat(fd).st_ino
            own = mark_of(os.getpid())
            if own is not None:
                os.pwrite(fd, json.dumps({"pid": own.pid, "started": own.started}).encode(), 0)
            try:
                yield
            finally:
                # The file stays: another process may wait for this very inode. What it says does not.
                os.ftruncate(fd, 0)
        finally:
            self._locked_inode = None
            os.close(fd)

    def is_there(self) -> bool:
        """Whether the directory with its lock still exists; while the lock is held, whether it is still that one."""
        try:
            inode = (self.path / _LOCK).stat().st_ino
        except OSError:
            return False
        return self._locked_inode in (None, inode)

    def _is_lost(self) -> bool:
        return self._locked_inode is not None and not self.is_there()

    def make_folders(self, *, accept_clock: bool = False) -> None:
        """Make the folders of one mesh, empty but for the decision logs; the lock must be held.

        What sidecars have kept of the clock stays, too, unless it is accepted as it is.
        """
        if not accept_clock:
            self._forget_sidecars()
        for name in (*_OF_ONE_MESH, "logs", *(["sidecars"] if accept_clock else [])):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (*_OF_ONE_MESH, "logs", "sidecars", "decisions"):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)

    def _forget_sidecars(self) -> None:
        """Take away the sidecars' own state but for the latest instants that they have seen."""
        sidecars = self.path / "sidecars"
        for kept in sidecars.glob("*/*"):
            if kept.name not in LATEST_INSTANTS:
                shutil.rmtree(kept) if kept.is_dir() and not kept.is_symlink() else kept.unlink(missing_ok=True)

    def left_behind(self) -> bool:
        """Whether there is a record: while no supervisor lives, of a mesh that was killed."""
        return (self.path / _STATE).exists()

    def clean(self) -> int:
        """Take away what a mesh has left: processes, sockets, keys, record; the lock must be held.

        Gives the number of processes that had outlived their supervisor. Does nothing where the directory is no longer
        the one that was locked: what stands there is another mesh's.
        """
        if self._is_lost():
            return 0
        ended = 0
        with contextlib.suppress(MeshError):  # a damaged record names nobody
            state = self.read()
            if state is not None:
                marks = [process.mark for process in state.processes if process.mark is not None]
                ended = end_processes(marks, grace_s=_ORPHAN_GRACE_S)
                _remove_runtime_directory(state.runtime_directory)
        for name in _OF_ONE_MESH:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (_STATE, f"{_STATE}.new"):
            (self.path / name).unlink(missing_ok=True)
        return ended

    def _make(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            found = self.path.stat()
            if found.st_uid != os.geteuid():
                raise MeshError(f"the state directory `{self.shown}` belongs to another user")
            if not self.is_there() and any(entry.name not in _OF_OTHERS for entry in self.path.iterdir()):
                raise MeshError(f"the state directory `{self.shown}` holds other things: give an empty or a new folder")
            if stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
                self.path.chmod(stat.S_IRWXU)
        except OSError as error:
            raise MeshError(f"the state directory `{self.shown}` cannot be used: {cause(error)}") from error

    def _take(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise MeshError(f"the state directory `{self.shown}` cannot be locked: {cause(error)}") from error
            holder = self.supervisor()
            who = "" if holder is None else f" (process {holder.pid})"
            raise MeshError(
                f"a mesh already uses the state directory `{self.shown}`{who}: "
                f"`authz mesh down --state {self.shown}` stops it, another --state runs one beside it"
            ) from error


def make_runtime_directory(temporary: str | None = None) -> str:
    """Make the folder for the unix sockets of one mesh, 0700 and short enough for any of them.

    It is in `temporary`, by default the system's temporary directory, or in /tmp where that has too long a path.
    """
    places = [temporary or tempfile.gettempdir(), "/tmp"]  # noqa: S108 mkdtemp makes a private folder in it
    for place in places:
        longest = len(os.fsencode(place)) + 1 + len(RUNTIME_PREFIX) + 8 + _LONGEST_SOCKET_NAME_BYTES
        if longest <= MAX_UNIX_PATH_BYTES:
            return tempfile.mkdtemp(prefix=RUNTIME_PREFIX, dir=place)
    raise MeshError(f"the temporary directory `{places[0]}` has too long a path for unix sockets: set TMPDIR")


def _remove_runtime_directory(path: str) -> None:
    # Only what make_runtime_directory can have made is ever removed, whatever the record says.
    if Path(path).name.startswith(RUNTIME_PREFIX) and not Path(path).is_symlink():
        shutil.rmtree(path, ignore_errors=True)
