"""Servers of bundles for tests: what answers whatever it is told to, and our own endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from authz.federation.bundle_endpoint import BundleEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from authz.federation.endpoint_certificate import EndpointCertificate
    from authz.identity.authority import Authority, IssuedSvid
    from authz.identity.bundle import Bundle
    from authz.identity.spiffe_id import SpiffeId

#: gets the request's first line and what the answer is written to
Answer = "Callable[[str, asyncio.StreamWriter], Awaitable[None]]"
NAME = "localhost"


def web_certificate(authority: Authority, *names: str, age: timedelta = timedelta()) -> IssuedSvid:
    """Give a server's certificate as the web has them, by an authority of the test's own."""
    return authority.issue_server_certificate(names or (NAME,), datetime.now(UTC) - age, timedelta(hours=1))


def svid_of(authority: Authority, spiffe_id: SpiffeId, *, age: timedelta = timedelta()) -> IssuedSvid:
    return authority.issue_x509_svid(spiffe_id, datetime.now(UTC) - age, timedelta(hours=1))


def server_tls(certificate: IssuedSvid | bytes) -> ssl.SSLContext:
    """Give the TLS of a server with this certificate, or with a PEM chain and its key."""
    pem = certificate if isinstance(certificate, bytes) else certificate.certificate_pem + certificate.key_pem
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def ok(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 307) -> bytes:
    return f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


class Site:
    """A TLS server that answers with given bytes, or as a function does; `asked` are the requests' first lines.

    It has the same port each time that it runs.
    """

    def __init__(
        self, tls: ssl.SSLContext, answer: bytes | Callable[[str, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.headers: list[bytes] = []
        self.handshakes = 0
        self._tls = tls
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}/bundle"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Site]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handshakes += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            self.asked.append(line.decode())
            self.headers.append(rest)
            if isinstance(self.answer, bytes):
                writer.write(self.answer)
            else:
                await self.answer(line.decode(), writer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(
    bundle: Callable[[], Bundle], certificate: EndpointCertificate, *, path: str = "/", **limits: float
) -> AsyncIterator[str]:
    """Run our own endpoint; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    endpoint = BundleEndpoint(bundle=bundle, certificate=certificate, path=path, **limits)  # type: ignore[arg-type]
    task = asyncio.create_task(endpoint.run(listener))
    try:
        yield f"https://{NAME}:{port}{path}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
