"""Whatever listens on the addresses of a namespace: HTTPS sites where they are expected; the rest is counted."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import queue
    import ssl
    from collections.abc import Collection

    from tests.support.network_namespaces import Namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCall:
    """What a site got: at which address, for which name of TLS, version and cipher, and the head of the request."""

    address: str
    sni: str | None
    tls: tuple[str | None, str | None]
    head: str


class Internet:
    """Listens on every address of a namespace, on some ports; `sites` are the addresses at which somebody answers.

    `strangers` counts the connections to all other addresses: they are taken, counted and closed.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        ports: Collection[int],
        sites: Collection[str] = (),
        tls: ssl.SSLContext | None = None,
        seen: queue.SimpleQueue[SeenCall] | None = None,
    ) -> None:
        self.strangers: Counter[str] = Counter()
        self._sites = sites
        self._tls = tls
        self._seen = seen
        with namespace.entered():
            self._listeners = [
                socket.create_server((address, port), family=family, dualstack_ipv6=False)
                for port in ports
                for family, address in ((socket.AF_INET, ""), (socket.AF_INET6, "::"))
            ]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            address = str(ipaddress.ip_address(connection.getsockname()[0].partition("%")[0]))
            if address in self._sites:
                threading.Thread(target=self._serve, args=[connection, address], daemon=True).start()
            else:
                self.strangers[address] += 1
                connection.close()

    def _serve(self, connection: socket.socket, address: str) -> None:
        names: list[str | None] = []
        # Who goes, or breaks off the handshake, ends its own connection only.
        with contextlib.suppress(OSError), connection:
            if self._tls is None or self._seen is None:
                return
            self._tls.sni_callback = lambda _socket, name, _context: names.append(name)
            with self._tls.wrap_socket(connection, server_side=True) as encrypted:
                data = b""
                while b"\r\n\r\n" not in data:
                    more = encrypted.recv(65536)
                    if not more:
                        return
                    data += more
                head = data.partition(b"\r\n\r\n")[0].decode("latin-1")
                tls = encrypted.version(), (encrypted.cipher() or (None,))[0]
                self._seen.put(SeenCall(address=address, sni=names[-1] if names else None, tls=tls, head=head))
                encrypted.sendall(_answer(head))
                if "/stay" in head.partition("\r\n")[0]:
                    encrypted.recv(1)

    def __enter__(self) -> Self:
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=[listener], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _answer(head: str) -> bytes:
    target = head.split(" ")[1]
    if target.startswith("/redirect?"):
        place = target.partition("?")[2]
        return f"HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
