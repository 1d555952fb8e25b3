"""A small server of the check path's HTTP/2, in a process of its own: echoes what it is asked, and is healthy.

    .venv/bin/python -m tests.support.http2_server PORT [TABLE_BYTES]

Prints its port when it listens (0 asks for any); SIGTERM drains it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

from authz.sidecar.check.http2.grpc import Service
from authz.sidecar.check.http2.health import HEALTH_CHECK, health_check
from authz.sidecar.check.http2.server import Http2Server
from tests.support.http2_frames import CHECK

DRAIN_S = 5.0


ECHO = Service(
    {CHECK: lambda message: message, HEALTH_CHECK: health_check(lambda name: None if name else True)},
    max_message_bytes=1024 * 1024,
)


async def serve(service: Service, port: int, table_bytes: int) -> None:
    server = Http2Server(service, failed=lambda error: sys.stderr.write(f"{error!r}\n"), table_bytes=table_bytes)
    listening = socket.create_server(("127.0.0.1", port))
    await server.serve(listening)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    await stopped.wait()
    await server.drain(within_s=DRAIN_S)


if __name__ == "__main__":
    asyncio.run(serve(ECHO, int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 0))
