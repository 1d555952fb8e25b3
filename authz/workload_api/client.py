"""A client of any SPIFFE Workload API: streams of X.509-SVIDs with bundles, and of JWT bundles.

It connects, judges what comes (`received`), and tells three things apart: a message that holds, a source that cannot
be reached or refuses for now (tried again, ever later, or as soon as the same source begins to answer another
stream), and one that never will answer such a call (given up). What became of earlier messages is for who is told.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from authz.identity.errors import quoted
from authz.workload_api.endpoint import grpc_target
from authz.workload_api.errors import WorkloadApiError
from authz.workload_api.messages import FETCH_JWT_BUNDLES, FETCH_X509_SVID, SECURITY_HEADER
from authz.workload_api.received import (
    MAX_MESSAGE_BYTES,
    InvalidMessageError,
    ReceivedJwtBundles,
    ReceivedX509,
    received_jwt_bundles,
    received_x509,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.workload_api.messages import Method, X509SVIDResponse

#: Pauses between attempts: doubled each time, and spread, so that a restarted agent does not meet all at once.
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
#: What an agent that hangs does not answer is asked again; SPIRE answers within milliseconds.
FIRST_ANSWER_S: Final = 30.0
_SPREAD: Final = 0.3

#: Workload Endpoint 6: these say that the call itself is wrong, and asking again would be, too.
_FINAL: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED})

_Received_contra = TypeVar("_Received_contra", contravariant=True)
_Value = TypeVar("_Value")
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class Follower(Protocol[_Received_contra]):
    """Who is told what a Workload API says, in the client's loop; none of its methods may wait."""

    def received(self, value: _Received_contra) -> None:
        """Take the whole truth of now, in the place of what was said before."""

    def withdrawn(self, why: str) -> None:
        """Take in that the workload has nothing any more, or not yet: PermissionDenied (5.2.1)."""

    def faulty(self, why: str) -> None:
        """Take in that nothing new can be known for now; what was said last stands."""


class WorkloadApiClient:
    """Follows one Workload API; belongs to the loop that it is used in."""

    def __init__(self, endpoint: str, *, chance: Callable[[], float] = random.random) -> None:
        """Take the socket (:func:`grpc_target`); raises WorkloadApiError where it is none."""
        self._endpoint = endpoint
        self._target = grpc_target(endpoint)
        self._chance = chance
        self._waiting: set[asyncio.Event] = set()

    async def follow_x509(self, follower: Follower[ReceivedX509]) -> None:
        """Tell a follower of the X.509-SVIDs and bundles until cancelled; raises WorkloadApiError where given up."""
        await self._follow(FETCH_X509_SVID, _read_x509, follower)

    async def follow_jwt_bundles(self, follower: Follower[ReceivedJwtBundles]) -> None:
        """Tell a follower of the JWT bundles until cancelled; raises WorkloadApiError where given up."""
        await self._follow(FETCH_JWT_BUNDLES, received_jwt_bundles, follower)

    async def _follow(
        self,
        method: Method[_Request, _Response],
        read: Callable[[_Response], _Value],
        follower: Follower[_Value],
    ) -> None:
        stream = _Stream(self._target, method, read, follower, self._ask_again)
        failures = 0
        while True:
            say, why = follower.faulty, "the stream has ended"
            try:
                await stream.follow()
            except grpc.aio.AioRpcError as error:
                code = error.code()
                why = f"{code.name}: {quoted((error.details() or 'no word why').strip())}"
                if code in _FINAL:
                    raise WorkloadApiError(f"{self._endpoint}: {method.name} is refused for good: {why}") from error
                if code is grpc.StatusCode.PERMISSION_DENIED:
                    say = follower.withdrawn
            except TimeoutError:
                why = f"no answer within {FIRST_ANSWER_S:.0f} s"
            say(f"{self._endpoint}: {why}")
            failures = 0 if stream.has_answered else failures + 1
            await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        pause_s: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures, 16))
        pause_s *= 1 + _SPREAD * self._chance()
        if not failures:
            # What has just answered is not asked sooner: two streams that answer and end would not let each other rest.
            await asyncio.sleep(pause_s)
            return
        answered = asyncio.Event()
        self._waiting.add(answered)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(answered.wait(), pause_s)
        finally:
            self._waiting.discard(answered)

    def _ask_again(self) -> None:
        """Have the streams that failed asked again now: their source answers."""
        for answered in self._waiting:
            answered.set()


class _Stream(Generic[_Response, _Value]):
    """One call after the other, each on a connection of its own: gRPC's own pauses would add to ours."""

    def __init__(
        self,
        target: str,
        method: Method[_Request, _Response],
        read: Callable[[_Response], _Value],
        follower: Follower[_Value],
        answers: Callable[[], None],
    ) -> None:
        self._target = target
        self._path = method.path
        self._request = method.request().SerializeToString()
        self._response: type[_Response] = method.response
        self._read = read
        self._follower = follower
        self._answers = answers
        self.has_answered = False

    async def follow(self) -> None:
        """Read one stream to its end; `has_answered` says whether it has said anything that counts."""
        self.has_answered = False
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            # A proxy that the environment names is none for a socket of this machine.
            ("grpc.enable_http_proxy", 0),
            ("grpc.default_authority", "localhost"),
        ]
        async with grpc.aio.insecure_channel(self._target, options=options) as channel:
            call = channel.unary_stream(self._path)(self._request, metadata=[SECURITY_HEADER])
            # Workload API 4.3: the first message comes without delay, the others when there is something to say.
            first = await asyncio.wait_for(call.read(), FIRST_ANSWER_S)
            message = first
            while message is not grpc.aio.EOF:
                self._take(message)
                message = await call.read()

    def _take(self, content: bytes) -> None:
        try:
            value = self._read(self._response.FromString(content))
        except DecodeError:
            # The error might quote the message, and the message holds a key.
            self._follower.faulty("the Workload API sent what is no message of its")
            return
        except InvalidMessageError as error:
            self._follower.faulty(str(error))
            return
        if not self.has_answered:
            self.has_answered = True
            self._answers()
        self._follower.received(value)


def _read_x509(message: X509SVIDResponse) -> ReceivedX509:
    return received_x509(message, datetime.now(UTC))
