"""The unix sockets that Envoy asks on: one a worker, made with their mode, taken over only where nobody answers.

`--socket PATH` is the first worker's; the others' are `PATH.2`, `PATH.3` and so on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: sockaddr_un(7): sun_path has 108 bytes, the last of them 0
MAX_SOCKET_PATH_BYTES: Final = 107
#: the group may ask as well as the owner: Envoy often runs as another user of the same group
SOCKET_MODE: Final = 0o660
_BACKLOG: Final = 1024


def worker_sockets(path: str, workers: int) -> tuple[str, ...]:
    """Give the paths of the workers' sockets."""
    return (path, *(f"{path}.{number}" for number in range(2, workers + 1)))


class ListeningSocket:
    """A socket that listens from its construction on; raises SidecarError where it cannot be had."""

    def __init__(self, path: str) -> None:
        clear(path)
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        try:
            with created_with_mode():
                self.socket.bind(path)
            self.socket.listen(_BACKLOG)
            self._inode = Path(path).stat().st_ino
        except OSError as error:
            self.socket.close()
            raise SidecarError(f"{path}: cannot listen on this socket: {error.strerror}") from error

    @property
    def path(self) -> str:
        """Where clients connect."""
        return self._path

    def is_reachable(self) -> bool:
        """Whether the socket that clients connect to is still this one."""
        try:
            return Path(self._path).stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Listen no more, and leave no socket."""
        if self.is_reachable():
            Path(self._path).unlink(missing_ok=True)
        self.socket.close()


@contextlib.contextmanager
def created_with_mode() -> Iterator[None]:
    """Create sockets with SOCKET_MODE meanwhile: there is no instant at which others may connect."""
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        yield
    finally:
        os.umask(before)


def clear(path: str) -> None:
    """Remove a socket that nobody answers on; raises SidecarError where somebody does, or where it is no socket."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise SidecarError(f"{path}: a unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes; use a shorter one")
    directory = Path(path).parent
    if not directory.is_dir():
        raise SidecarError(f"{path}: there is no folder `{directory}` to put the socket in")
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SidecarError(f"{path}: is there already and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            Path(path).unlink(missing_ok=True)
            return
    raise SidecarError(f"{path}: another server answers on this socket; stop it first")
