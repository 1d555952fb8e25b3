"""The hold server: one gRPC stream for each held call, from Envoy's ext_proc filter, for as long as the call lasts.

What is said at one time, such as thousands of cuts, leaves in one write for each connection of Envoy's.

envoy/service/ext_proc/v3/external_processor.proto
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from envoy.service.ext_proc.v3 import external_processor_pb2
from google.protobuf.message import DecodeError

from authz import unix_socket
from authz.decision import Reason
from authz.sidecar.check.http2.grpc import GrpcError, Service, Status, status_trailers
from authz.sidecar.check.http2.server import Http2Server
from authz.sidecar.hold import reply
from authz.sidecar.listening_socket import SOCKET_MODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.check.http2.grpc import Speaker
    from authz.sidecar.hold.held_call import HeldCall

    Claim = Callable[[bytes, Callable[[Reason], None]], HeldCall | None]

_log = logging.getLogger(__name__)

PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
#: one header and the trailers of an answer, of which Envoy takes at most 60 KiB
MAX_MESSAGE_BYTES: Final = 128 * 1024
#: Envoy ends the call when it reads the message before; whatever it makes of that, the stream does not end in peace.
_DENIED: Final = status_trailers(Status.PERMISSION_DENIED, "the call has lost its grant")


def hold_service(*, claim: Claim, end: Callable[[HeldCall], None]) -> Service:
    """Give what is served; `claim` and `end` are asked and told of each call."""
    return Service(
        {},
        max_message_bytes=MAX_MESSAGE_BYTES,
        stay_open={PROCESS: lambda speaker: _Processed(speaker, claim=claim, end=end)},
    )


class HoldServer:
    """Serves on a unix socket; `claim` and `end` are asked and told of each call."""

    def __init__(self, socket: str, *, claim: Claim, end: Callable[[HeldCall], None]) -> None:
        self._socket = socket
        self._server = Http2Server(hold_service(claim=claim, end=end), failed=_failed)

    async def start(self) -> None:
        """Listen; raises an AuthzError where the socket cannot be listened on."""
        await self._server.serve(unix_socket.listening(self._socket, mode=SOCKET_MODE))


class _Processed:
    """One call as Envoy tells of it: first its headers, then the trailers of its answer if it has any."""

    __slots__ = ("_call", "_claim", "_decision_id", "_end", "_speaker")

    def __init__(self, speaker: Speaker, *, claim: Claim, end: Callable[[HeldCall], None]) -> None:
        self._speaker = speaker
        self._claim = claim
        self._end = end
        self._decision_id: bytes | None = None
        self._call: HeldCall | None = None

    def heard(self, message: bytes) -> None:
        """Hold the call from its first message on; raises GrpcError."""
        try:
            request = external_processor_pb2.ProcessingRequest.FromString(message)
        except DecodeError as error:
            raise GrpcError(Status.INTERNAL, "the message is no ProcessingRequest") from error
        if self._decision_id is not None:
            if request.WhichOneof("request") == "response_trailers":
                self._speaker.say(reply.TRAILERS)
            return
        self._decision_id = reply.decision_id_of(request)
        self._call = self._claim(self._decision_id, self._cut)
        if self._call is None:
            _log.error("a call comes to be held that no worker has told of; it is refused")
            self._cut(Reason.INTERNAL_ERROR)
        elif self._call.refusal is None:
            self._speaker.say(reply.BEGINS)

    def ended(self) -> None:
        """Hold it no more."""
        if self._call is not None:
            self._end(self._call)

    def _cut(self, reason: Reason) -> None:
        self._speaker.end(reply.cut(reason, self._decision_id or reply.NO_ID), _DENIED)


def _failed(error: Exception) -> None:
    _log.error("a held call ends by a fault of the program: %s: %s", type(error).__name__, error)
