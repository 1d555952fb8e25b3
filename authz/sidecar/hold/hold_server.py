"""The hold server: one gRPC stream for each held call, from Envoy's ext_proc filter, for as long as the call lasts.

envoy/service/ext_proc/v3/external_processor.proto
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, TypeAlias

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2

from authz import unix_socket
from authz.decision import Reason
from authz.sidecar.errors import HoldError
from authz.sidecar.hold import reply
from authz.sidecar.listening_socket import created_with_mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.hold.held_call import HeldCall

    Request: TypeAlias = external_processor_pb2.ProcessingRequest
    Response: TypeAlias = external_processor_pb2.ProcessingResponse
    Context: TypeAlias = grpc.aio.ServicerContext[Request, Response]

_log = logging.getLogger(__name__)

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
METHOD: Final = "Process"
#: one header and the trailers of an answer, of which Envoy takes at most 60 KiB
MAX_MESSAGE_BYTES: Final = 128 * 1024
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Envoy asks twice a second whether somebody is there (authz.proxy.hold_filter); gRPC takes that for an attack, and
    # ends the connection with all that it holds, unless it is told not to.
    ("grpc.http2.max_ping_strikes", 0),
)
#: Envoy ends the stream of a call that was cut at once
_AFTER_CUT_S: Final = 1.0


class HoldServer:
    """Serves on a unix socket; `claim` and `end` are asked and told of each call."""

    def __init__(
        self,
        socket: str,
        *,
        claim: Callable[[bytes, Callable[[Reason], None]], HeldCall | None],
        end: Callable[[HeldCall], None],
    ) -> None:
        self._socket = socket
        self._claim = claim
        self._end = end
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen; raises an AuthzError where the socket cannot be listened on."""
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handler(),))
        unix_socket.clear(self._socket)
        try:
            with created_with_mode():
                server.add_insecure_port(f"unix:{self._socket}")
        except RuntimeError as error:
            raise HoldError(f"{self._socket}: cannot listen on this socket") from error
        await server.start()
        self._server = server

    def _handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                METHOD: grpc.stream_stream_rpc_method_handler(
                    self._process,
                    request_deserializer=external_processor_pb2.ProcessingRequest.FromString,
                    response_serializer=external_processor_pb2.ProcessingResponse.SerializeToString,
                )
            },
        )

    async def _process(self, _: object, context: Context) -> None:
        """Hold one call: until Envoy ends the stream, or the call is cut."""
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        decision_id = reply.decision_id_of(first)
        cut: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()

        def end(reason: Reason) -> None:
            if not cut.done():
                cut.set_result(reason)

        call = self._claim(decision_id, end)
        if call is None:
            _log.error("a call comes to be held that no worker has told of; it is refused")
            await self._cut(context, Reason.INTERNAL_ERROR, decision_id)
            return
        try:
            if not cut.done():
                await context.write(reply.BEGINS)
            await self._hold(context, cut)
            if cut.done():
                await self._cut(context, cut.result(), decision_id)
        finally:
            self._end(call)

    @staticmethod
    async def _hold(context: Context, cut: asyncio.Future[Reason]) -> None:
        """Wait for the end of the call, or for its cut."""
        while not cut.done():
            heard = asyncio.ensure_future(context.read())
            await asyncio.wait((heard, cut), return_when=asyncio.FIRST_COMPLETED)
            if not heard.done():
                heard.cancel()
                return
            message = heard.result()
            if message is grpc.aio.EOF:
                return
            if message.WhichOneof("request") == "response_trailers":
                await context.write(reply.TRAILERS)

    @staticmethod
    async def _cut(context: Context, reason: Reason, decision_id: bytes) -> None:
        """End the call; whatever Envoy makes of the words, the stream does not end in peace."""
        await context.write(reply.cut(reason, decision_id))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AFTER_CUT_S):
                while await context.read() is not grpc.aio.EOF:
                    pass
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the call has lost its grant")
