"""The connection of one call to an Envoy of the mesh, and what comes back on it.

Plain TCP to a Service's outbound listener; mTLS 1.3 to an inbound one. On mTLS the peer is whoever the SPIFFE ID in its
certificate says, not a host name: chain by the bundle, then exactly that ID (X509-SVID 5.2, 6.1).
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from authz.mesh.errors import NoAnswerError
from authz.proxy.addresses import TcpAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.proxy.addresses import Address

#: What is kept of an answer's body; an endless stream must not fill the memory.
MAX_BODY_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WireAnswer:
    """An answer as it was received; `grpc_status` is None unless gRPC was spoken."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    grpc_status: int | None = None

    def joined_headers(self) -> dict[str, str]:
        """Give the headers by lower-case name, repeats joined by `, `."""
        joined: dict[str, str] = {}
        for name, value in self.headers:
            key = name.lower()
            joined[key] = f"{joined[key]}, {value}" if key in joined else value
        return joined


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """Files with the caller's SVID, its key and the callee's bundle; and the one SPIFFE ID that may answer."""

    certificate: str
    key: str
    bundle: str
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a call goes first, `HOST:PORT` or `unix:PATH`; `what` is how the user knows it."""

    address: str
    what: str
    tls: ClientTls | None = None


class Deadline:
    """An instant until which something must be done, however many waits it takes."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s
        self._timeout_s = timeout_s

    def left_s(self) -> float:
        """Give the time that is left; raises NoAnswerError when there is none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise NoAnswerError(f"no end of the answer within {self._timeout_s:g} s")
        return left


class Connection:
    """A connected stream that reads and writes bytes until a deadline; whatever goes wrong is a NoAnswerError."""

    def __init__(self, endpoint: Endpoint, deadline: Deadline, *, protocols: Iterable[str]) -> None:
        """Connect; `protocols` are offered by ALPN on TLS."""
        self._what = endpoint.what
        self._deadline = deadline
        try:
            self._socket = _connected(parse_address(endpoint.address), timeout_s=deadline.left_s())
        except OSError as error:
            raise self._no_answer(error) from error
        if endpoint.tls is not None:
            self._secure(endpoint.tls, protocols)

    def send(self, data: bytes) -> None:
        """Send all of the bytes."""
        try:
            self._socket.settimeout(self._deadline.left_s())
            self._socket.sendall(data)
        except OSError as error:
            raise self._no_answer(error) from error

    def receive(self, size: int = 65536) -> bytes:
        """Give the next bytes, empty at the end of the stream."""
        try:
            self._socket.settimeout(self._deadline.left_s())
            return self._socket.recv(size)
        except OSError as error:
            raise self._no_answer(error) from error

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _secure(self, tls: ClientTls, protocols: Iterable[str]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # an SVID names no host; its URI is compared below
        plain = self._socket
        try:
            context.load_verify_locations(cafile=tls.bundle)
            context.load_cert_chain(tls.certificate, tls.key)
            context.set_alpn_protocols(list(protocols))
            plain.settimeout(self._deadline.left_s())
            secured = context.wrap_socket(plain)
        except OSError as error:  # an SSLError is one
            plain.close()
            raise self._no_answer(error) from error
        self._socket = secured
        certificate: dict[str, Any] = secured.getpeercert() or {}
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
        if names != [tls.peer]:
            secured.close()
            raise NoAnswerError(f"{self._what} is not `{tls.peer}`")

    def _no_answer(self, error: OSError) -> NoAnswerError:
        if isinstance(error, TimeoutError):
            return NoAnswerError(f"{self._what} has not answered in time")
        why = getattr(error, "reason", None) or error.strerror or str(error)
        return NoAnswerError(f"{self._what} does not answer: {str(why).lower()}")


def _connected(address: Address, *, timeout_s: float) -> socket.socket:
    if isinstance(address, TcpAddress):
        return socket.create_connection((address.host, address.port), timeout=timeout_s)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address.path)
    except OSError:
        connection.close()
        raise
    return connection
