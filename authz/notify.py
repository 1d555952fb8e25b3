"""How a process tells whoever started it that it serves: systemd's notification protocol.

The supervisor puts the path of a datagram socket into `NOTIFY_SOCKET` and reads lines such as `READY=1` from it. A
process that nobody waits for runs the same: without the variable nothing is sent, and a supervisor that has gone, or
does not read, is no reason to stop serving.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import contextlib
import os
import socket

#: a supervisor that does not empty its socket delays its children by no more than this
_PATIENCE_S = 1.0


def notify(text: str) -> None:
    """Send lines such as `READY=1` to the socket that `NOTIFY_SOCKET` names, if any; `@` starts an abstract name."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(_PATIENCE_S)
        sender.connect(address)
        sender.send(text.encode())
