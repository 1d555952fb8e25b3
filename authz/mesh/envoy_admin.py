"""Asking an Envoy over its admin socket: whether it is ready, and what it has counted."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from authz.mesh.calls.http1_call import call_http1
from authz.mesh.calls.wire import Endpoint

_PATIENCE_S = 1.0
_COUNTERS_PATIENCE_S = 10.0
_REQUEST = b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n"
_STATUS_LINE_BYTES = 15


async def envoy_is_ready(admin_socket: str) -> bool:
    """Whether the Envoy whose admin socket this is answers and says that it is ready."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(admin_socket)
            try:
                writer.write(_REQUEST)
                return _says_yes(await reader.readline())
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return False


def envoy_is_ready_now(admin_socket: str) -> bool:
    """Do the same where no event loop runs."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE_S)
            connection.connect(admin_socket)
            connection.sendall(_REQUEST)
            return _says_yes(connection.recv(_STATUS_LINE_BYTES))
    except OSError:
        return False


def envoy_counters(admin_socket: str, containing: str) -> dict[str, int]:
    """Give the counters and gauges whose names contain a text; raises NoAnswerError if the Envoy does not say."""
    answer = call_http1(
        Endpoint(address=f"unix:{admin_socket}", what="the envoy's admin"),
        method=b"GET",
        path=b"/stats",
        host=b"admin",
        headers=((b"connection", b"close"),),
        body=None,
        timeout_s=_COUNTERS_PATIENCE_S,
    )
    pairs = (line.rpartition(": ") for line in answer.body.decode("utf-8", "replace").splitlines())
    return {name: int(value) for name, _, value in pairs if containing in name and value.isdecimal()}


def _says_yes(status_line: bytes) -> bool:
    words = status_line.split()
    return len(words) > 1 and words[1] == b"200"
