"""The ext_authz service on grpcio: a transport in front of a function from bytes to bytes.

It knows nothing of policies. More checks at once than `MAX_CONCURRENT_CHECKS` are refused by grpcio with
RESOURCE_EXHAUSTED, which Envoy turns into a refusal: memory stays bounded.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from authz.sidecar.check.question import MAX_MESSAGE_BYTES
from authz.sidecar.errors import SidecarError
from authz.sidecar.listening_socket import clear, created_with_mode

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE: Final = "envoy.service.auth.v3.Authorization"
WORKER_THREADS: Final = 8
MAX_CONCURRENT_CHECKS: Final = 1024


class GrpcioServer:
    """Serves `answer` on a unix socket from `start` until `stop`."""

    def __init__(self, *, answer: Callable[[bytes], bytes], socket_path: str) -> None:
        self._path = socket_path
        self._inode = 0
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=WORKER_THREADS, thread_name_prefix="check"),
            maximum_concurrent_rpcs=MAX_CONCURRENT_CHECKS,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                # Envoy pings every 0.5 s to notice a hung server: that is no misuse
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )
        handler = grpc.unary_unary_rpc_method_handler(lambda message, _context: answer(message))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Check": handler}),))

    def start(self) -> None:
        """Listen; raises SidecarError where the socket cannot be had."""
        clear(self._path)
        try:
            with created_with_mode():
                self._server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise SidecarError(f"{self._path}: cannot listen on this socket") from error
        self._server.start()
        self._inode = Path(self._path).stat().st_ino

    def is_reachable(self) -> bool:
        """Whether the socket that clients connect to is still this server's own."""
        try:
            return Path(self._path).stat().st_ino == self._inode
        except OSError:
            return False

    def stop(self, grace_s: float) -> None:
        """Take no new checks, give those under way so many seconds, and leave no socket."""
        self._server.stop(grace_s).wait()
        if self.is_reachable():
            Path(self._path).unlink(missing_ok=True)
