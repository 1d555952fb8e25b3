"""The SDS server: Envoy's secrets over gRPC on a unix socket, pushed the moment that they change.

Whoever can connect gets a private key: the socket has mode 0600, and the kernel says who connects: the sidecar's own
user, or root. Runs in control's services' loop. Envoy keeps what it has when this server is gone, and comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError, Message

from authz.identity.errors import quoted
from authz.sidecar.control.sds_exchange import DeltaExchange, SdsRequestError, SotwExchange, Verdict, fetched
from authz.sidecar.control.sds_resources import SdsResources
from authz.sidecar.errors import SidecarError
from authz.workload_api.peer_front import PeerFront

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from authz.workload_api.peer import Peer

_log = logging.getLogger(__name__)

SERVICE: Final = "envoy.service.secret.v3.SecretDiscoveryService"
SOCKET_MODE: Final = 0o600
#: The first request of an Envoy names every extension it has: 60 KiB of them with Envoy 1.40.
MAX_REQUEST_BYTES: Final = 1024 * 1024
#: Two streams for each cluster and listener that wants secrets, of one Envoy.
MAX_STREAMS: Final = 10_000
#: how often the socket is looked at: it may have been taken away
_LOOK_S: Final = 1.0

_Request = TypeVar("_Request", bound=Message)
_Response_co = TypeVar("_Response_co", bound=Message, covariant=True)
_Request_contra = TypeVar("_Request_contra", bound=Message, contravariant=True)


class _Exchange(Protocol[_Request_contra, _Response_co]):
    def requested(self, request: _Request_contra, resources: SdsResources, /) -> _Response_co | None: ...

    def changed(self, resources: SdsResources, /) -> _Response_co | None: ...


class SdsServer:
    """Serves what `replace` was given last, on a socket, from `run` on."""

    name = "sds"

    def __init__(self, path: str, *, judged: Callable[[Verdict], None]) -> None:
        """Take the socket's path; `judged` is told, in the loop, of each ACK and NACK."""
        self._path = path
        self._judged = judged
        self._resources = SdsResources()
        self._changes: set[asyncio.Event] = set()

    def replace(self, resources: SdsResources) -> None:
        """Serve these from now on; called in the loop."""
        self._resources = resources
        for changed in self._changes:
            changed.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; raises an AuthzError where the socket cannot be had, or was taken away."""
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_ping_strikes", 0),
            ]
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        front = PeerFront(server)
        await front.start()
        try:
            front.listen(self._path, mode=SOCKET_MODE, admit=_is_ours)
            inode = _inode(self._path)
            ready()
            while _inode(self._path) == inode:  # noqa: ASYNC110 nobody tells of a file that is taken away
                await asyncio.sleep(_LOOK_S)
            raise SidecarError(f"{self._path}: the socket was taken away")
        finally:
            await front.stop()

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        return {
            "StreamSecrets": grpc.stream_stream_rpc_method_handler(self._stream_secrets),
            "DeltaSecrets": grpc.stream_stream_rpc_method_handler(self._delta_secrets),
            "FetchSecrets": grpc.unary_unary_rpc_method_handler(self._fetch_secrets),
        }

    async def _stream_secrets(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        await self._serve(requests, context, discovery_pb2.DiscoveryRequest, SotwExchange(self._take))

    async def _delta_secrets(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        await self._serve(requests, context, discovery_pb2.DeltaDiscoveryRequest, DeltaExchange(self._take))

    async def _fetch_secrets(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            answer = fetched(discovery_pb2.DiscoveryRequest.FromString(request), self._resources)
        except (DecodeError, SdsRequestError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _said(error))
            raise  # abort does, and the types do not say so
        content: bytes = answer.SerializeToString()
        return content

    async def _serve(
        self,
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext,
        kind: type[_Request],
        exchange: _Exchange[_Request, Message],
    ) -> None:
        changed = asyncio.Event()
        self._changes.add(changed)
        iterator = requests.__aiter__()
        reading: asyncio.Future[bytes] = asyncio.ensure_future(iterator.__anext__())
        waiting: asyncio.Future[bool] = asyncio.ensure_future(changed.wait())
        try:
            while True:
                await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
                if reading.done():
                    answer = exchange.requested(kind.FromString(reading.result()), self._resources)
                    reading = asyncio.ensure_future(iterator.__anext__())
                else:
                    changed.clear()
                    answer = exchange.changed(self._resources)
                    waiting = asyncio.ensure_future(changed.wait())
                if answer is not None:
                    await context.write(answer.SerializeToString())
        except StopAsyncIteration:
            pass
        except (DecodeError, SdsRequestError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _said(error))
        finally:
            self._changes.discard(changed)
            for task in (reading, waiting):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.gather(reading, waiting, return_exceptions=True)

    def _take(self, verdict: Verdict) -> None:
        if verdict.fault is not None:
            _log.error("envoy refuses %s, and keeps what it has: %s", ", ".join(verdict.names), quoted(verdict.fault))
        self._judged(verdict)


def _is_ours(peer: Peer) -> bool:
    return peer.uid in {0, os.geteuid()}


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, SdsRequestError) else "not a request of SDS"


def _inode(path: str) -> int:
    try:
        return Path(path).lstat().st_ino
    except OSError:
        return 0
