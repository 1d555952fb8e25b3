"""A name server that answers as it is told, and not twice the same where it is told so (RFC 1035 4, over UDP)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.network_namespaces import Namespace

_PORT: Final = 53
_A, _AAAA = 1, 28
_TTL_S: Final = 0


class NameServer:
    """Stands where this machine's resolver looks for one, in a namespace.

    `answers` has, for a name, what its first question gets, its second one and so on; the last one stays. A name that
    begins with `*.` is for all below it.
    """

    def __init__(self, namespace: Namespace) -> None:
        self.answers: dict[str, Sequence[Sequence[str]]] = {}
        self.asked: Counter[str] = Counter()
        self._sockets = []
        with namespace.entered():
            for address in name_servers():
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                listener = socket.socket(family, socket.SOCK_DGRAM)
                listener.bind((address, _PORT))
                self._sockets.append(listener)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                question, whose = listener.recvfrom(4096)
            except OSError:
                return
            if question:
                listener.sendto(self._answer(question), whose)

    def _answer(self, question: bytes) -> bytes:
        at, labels = 12, []
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        name = ".".join(labels).lower()
        (kind,) = struct.unpack("!H", question[at + 1 : at + 3])
        sequence = self.answers.get(name) or self.answers.get(f"*.{name.partition('.')[2]}") or [[]]
        if kind == _A:  # the resolver asks for both kinds at once, for A first
            self.asked[name] += 1
        texts = sequence[min(max(self.asked[name], 1), len(sequence)) - 1]
        addresses = [ipaddress.ip_address(text) for text in texts]
        data = [address.packed for address in addresses if kind == (_A if address.version == 4 else _AAAA)]
        records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, _TTL_S, len(one)) + one for one in data)
        head = question[:2] + struct.pack("!HHHHH", 0x8580, 1, len(data), 0, 0)
        return head + question[12 : at + 5] + records

    def __enter__(self) -> Self:
        for listener in self._sockets:
            threading.Thread(target=self._serve, args=[listener], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._sockets:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def name_servers() -> list[str]:
    """Give the addresses that this machine's resolver asks (resolv.conf(5))."""
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except OSError:
        lines = []
    found = [words[1] for words in map(str.split, lines) if len(words) > 1 and words[0] == "nameserver"]
    return found or ["127.0.0.1"]
