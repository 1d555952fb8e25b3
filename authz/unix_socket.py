"""Unix sockets to listen on: made with their mode, and taken over only where nobody answers.

# INVARIANT (private from the start): a socket has at no instant more permissions than it was asked for. The mode is set
# on the socket before it is bound (unix(7): the file gets the socket's own mode, narrowed by the umask), so neither the
# umask, which belongs to every thread of the process, nor the file is changed to be narrower afterwards.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final

from authz.errors import AuthzError

#: sockaddr_un(7): sun_path has 108 bytes, the last of them 0
MAX_SOCKET_PATH_BYTES: Final = 107
#: more connections than this wait in the kernel for nobody
_BACKLOG: Final = 1024
#: a server that does not take a connection within this time does not answer
_PATIENCE_S: Final = 1.0


class UnixSocketError(AuthzError):
    """A unix socket cannot be listened on."""


def listening(path: str, *, mode: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Listen on a new unix socket of this mode, without waiting in `accept`; raises UnixSocketError."""
    clear(path, kind=kind)
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        listener.setblocking(False)
        os.fchmod(listener.fileno(), mode)  # INVARIANT (private from the start)
        listener.bind(path)
        Path(path).chmod(mode)  # what the umask has narrowed
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UnixSocketError(f"{path}: cannot listen on this socket: {(error.strerror or '').lower()}") from error
    return listener


def remove(path: str, *, inode: int) -> None:
    """Remove a socket's file, unless another one stands in its place by now."""
    with contextlib.suppress(OSError):
        if Path(path).lstat().st_ino == inode:
            Path(path).unlink()


def clear(path: str, *, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    """Remove a socket that nobody answers on; raises UnixSocketError where somebody does, or where it is no socket."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise UnixSocketError(
            f"{path}: a unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes; use a shorter one"
        )
    directory = Path(path).parent
    if not directory.is_dir():
        raise UnixSocketError(f"{path}: there is no folder `{directory}` to put the socket in")
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UnixSocketError(f"{path}: is there already and is no socket")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.settimeout(_PATIENCE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
        except OSError as error:
            raise UnixSocketError(f"{path}: is there already, and is not ours to replace: {error.strerror}") from error
    raise UnixSocketError(f"{path}: another server answers on this socket; stop it first")
