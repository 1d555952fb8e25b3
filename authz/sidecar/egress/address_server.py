"""The gRPC server that Envoy asks where a call to a ThirdParty may go; runs in the loop of control's services.

It speaks ext_authz (envoy/service/auth/v3), as the check servers do, on a socket of its own: names take as long as a
resolver takes, and no check waits for that. Where it is gone, calls to ThirdParties get a bare 503, and nothing else
notices.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Final

import grpc
from envoy.service.auth.v3 import external_auth_pb2

from authz.sidecar.check.question import MAX_MESSAGE_BYTES
from authz.sidecar.egress.resolution import ResolutionError
from authz.sidecar.errors import CheckMessageError
from authz.workload_api.peer_front import PeerFront

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.egress.address_answer import AddressAnswers
    from authz.workload_api.peer import Peer

_log = logging.getLogger(__name__)

SERVICE: Final = "envoy.service.auth.v3.Authorization"
#: under way at once; each is a call that waits for a name
MOST_CALLS: Final = 1000
#: only the user whose sidecar this is may have names resolved
_SOCKET_MODE: Final = 0o600
_ROOT: Final = 0
_LOG_INTERVAL_S: Final = 10.0


class AddressServer:
    """Serves on a unix socket of mode 0600."""

    name = "egress"

    def __init__(self, socket: str, answers: AddressAnswers) -> None:
        self._socket = socket
        self._answers = answers
        self._said_s = -_LOG_INTERVAL_S
        self._unanswered = 0

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; raises an AuthzError where the socket cannot be listened on."""
        server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)], maximum_concurrent_rpcs=MOST_CALLS
        )
        check = grpc.unary_unary_rpc_method_handler(
            self._check, request_deserializer=external_auth_pb2.CheckRequest.FromString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Check": check}),))
        front = PeerFront(server)
        try:
            await front.start()
            front.listen(self._socket, mode=_SOCKET_MODE, admit=_is_ours)
            ready()
            await asyncio.Event().wait()
        finally:
            await front.stop()

    async def _check(self, request: external_auth_pb2.CheckRequest, context: grpc.aio.ServicerContext) -> bytes:
        try:
            return await self._answers.answer(request)
        except (CheckMessageError, ResolutionError) as error:
            self._say(error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no address")
            raise  # abort does, and the types do not say so

    def _say(self, error: Exception) -> None:
        self._unanswered += 1
        if time.monotonic() - self._said_s >= _LOG_INTERVAL_S:
            self._said_s = time.monotonic()
            _log.warning("a call to a ThirdParty gets a 503: %s (%d so far)", error, self._unanswered)


def _is_ours(peer: Peer) -> bool:
    return peer.uid in {os.geteuid(), _ROOT}
