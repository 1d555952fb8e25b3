"""The unix sockets that Envoy asks on: one a worker, made with their mode, taken over only where nobody answers.

`--socket PATH` is the first worker's; the others' are `PATH.2`, `PATH.3` and so on.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz import unix_socket
from authz.sidecar.errors import SidecarError
from authz.unix_socket import UnixSocketError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: the group may ask as well as the owner: Envoy often runs as another user of the same group
SOCKET_MODE: Final = 0o660


def worker_sockets(path: str, workers: int) -> tuple[str, ...]:
    """Give the paths of the workers' sockets."""
    return (path, *(f"{path}.{number}" for number in range(2, workers + 1)))


class ListeningSocket:
    """A socket that listens from its construction on; raises SidecarError where it cannot be had."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self.socket = unix_socket.listening(path, mode=SOCKET_MODE)
            self._inode = Path(path).stat().st_ino
        except UnixSocketError as error:
            raise SidecarError(str(error)) from error
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
        unix_socket.remove(self._path, inode=self._inode)
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
    try:
        unix_socket.clear(path)
    except UnixSocketError as error:
        raise SidecarError(str(error)) from error
