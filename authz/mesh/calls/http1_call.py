"""One HTTP/1.1 request, byte for byte as it was asked for, and its answer.

No client library writes the request: they all quote, normalise or refuse some of what a test of the path rules needs
to send. The answer is Envoy's, and is read by the standard library.
"""

from __future__ import annotations

import http.client
import io
from typing import TYPE_CHECKING, Any, cast

from authz.mesh.calls.wire import MAX_BODY_BYTES, Connection, Deadline, Endpoint, WireAnswer
from authz.mesh.errors import NoAnswerError

if TYPE_CHECKING:
    import socket

    Headers = tuple[tuple[bytes, bytes], ...]

_CHUNK_BYTES = 65536


def call_http1(
    endpoint: Endpoint,
    *,
    method: bytes,
    path: bytes,
    host: bytes | None,
    headers: Headers,
    body: bytes | None,
    timeout_s: float,
) -> WireAnswer:
    """Send one request on a connection of its own and read the answer; what came before a cut is given too.

    `host` None sends no Host header but those among `headers`.
    """
    with Connection(endpoint, Deadline(timeout_s), protocols=["http/1.1"]) as connection:
        connection.send(_request(method=method, path=path, host=host, headers=headers, body=body))
        return _answer(connection, method.decode("latin-1"))


def _request(*, method: bytes, path: bytes, host: bytes | None, headers: Headers, body: bytes | None) -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1"]
    if host is not None:
        lines.append(b"host: " + host)
    lines += [name + b": " + value for name, value in headers]
    names = {name.lower() for name, _ in headers}
    if body is not None and not names & {b"content-length", b"transfer-encoding"}:
        lines.append(b"content-length: " + str(len(body)).encode())
    return b"\r\n".join([*lines, b"", body or b""])


def _answer(connection: Connection, method: str) -> WireAnswer:
    # HTTPResponse wants a socket for its makefile() only.
    response = http.client.HTTPResponse(cast("socket.socket", _Readable(connection)), method=method)
    try:
        response.begin()
    except (http.client.HTTPException, ValueError) as error:
        raise NoAnswerError(f"what was answered is no HTTP/1.1: {type(error).__name__}") from error
    tunnel = method == "CONNECT" and response.status == http.client.OK
    body = b"" if tunnel else _body(response)
    return WireAnswer(status=response.status, headers=tuple(response.getheaders()), body=body)


def _body(response: http.client.HTTPResponse) -> bytes:
    received = bytearray()
    try:
        while len(received) < MAX_BODY_BYTES and (chunk := response.read1(_CHUNK_BYTES)):
            received += chunk
    except (http.client.HTTPException, NoAnswerError):
        # Cut in the middle: a window may close while an answer streams. What came is what there is.
        return bytes(received)
    return bytes(received)


class _Readable(io.RawIOBase):
    """A connection as a stream to read from."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, _CHUNK_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._connection.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)
