"""Envoy's access log service: takes the entries of each stream apart by what they are about, and waits for nobody.

Envoy sends as fast as it can and keeps nothing; so does this: a message is read, its entries are handed over, and what
finds no room is a number. There are entries of connections (failed handshakes), of calls (that were cut), and of
every call: those are handed over unread. Each kind has a sink.

Runs in the loop that hosts control's services; sinks are called there and must not block.

envoy/service/accesslog/v3/als.proto
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import grpc
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from authz.proxy.access_log_names import CALLS_LOG
from authz.workload_api.peer_front import PeerFront

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry, TCPAccessLogEntry

    from authz.workload_api.peer import Peer

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
METHOD: Final = "StreamAccessLogs"
#: Envoy's buffer (authz.proxy.access_log.BUFFER_BYTES) and one entry more, whose largest part is the names of a
#: certificate: at most 100 KiB of certificates come in a handshake (BoringSSL's limit), and each name stands once
MAX_MESSAGE_BYTES: Final = 1024 * 1024
#: what of a kind waits for the next look at it, of some hundred bytes each: seconds of the worst flood of handshakes
MOST_WAITING: Final = 10_000
#: only the user whose sidecar this is may write into its records
_SOCKET_MODE: Final = 0o600
_ROOT: Final = 0

Entry = TypeVar("Entry")
Value = TypeVar("Value")


class Heard(Generic[Entry, Value]):
    """What was heard of and not looked at: one thread adds entries, another takes what `read` makes of them.

    An entry that is nothing to it is None to `read`.
    """

    def __init__(self, read: Callable[[Entry], Value | None]) -> None:
        self._read = read
        # A deque's append and popleft are atomic; the number is written by one thread and only grows.
        self._waiting: deque[Value] = deque()
        self._unread = self._told_unread = 0

    def add(self, entries: Iterable[Entry]) -> None:
        """Take entries, as many as find room."""
        for entry in entries:
            value = self._read(entry)
            if value is None:
                continue
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(value)
            else:
                self._unread += 1

    def take(self, most: int = MOST_WAITING) -> tuple[list[Value], int]:
        """Give what waits, in the order in which it came, and how many more found no room since the last time."""
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        unread = self._unread
        more, self._told_unread = unread - self._told_unread, unread
        return taken, more


class AccessLogReceiver:
    """The service on a unix socket of mode 0600; `connections` and `calls` get the entries of what they are called.

    `ended` gets the messages of the log of all calls, as they came.
    """

    name = "access log"

    def __init__(
        self,
        socket: str,
        *,
        connections: Callable[[Iterable[TCPAccessLogEntry]], None],
        calls: Callable[[Iterable[HTTPAccessLogEntry]], None],
        ended: Callable[[bytes], None] | None = None,
    ) -> None:
        self._socket = socket
        self._connections = connections
        self._calls = calls
        self._ended = ended

    async def run(self, ready: Callable[[], None]) -> None:
        """Receive until cancelled; raises an AuthzError where the socket cannot be listened on."""
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
        server.add_generic_rpc_handlers((self._handler(),))
        front = PeerFront(server)
        try:
            await front.start()
            front.listen(self._socket, mode=_SOCKET_MODE, admit=_is_ours)
            ready()
            await asyncio.Event().wait()
        finally:
            await front.stop()

    def _handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                METHOD: grpc.stream_unary_rpc_method_handler(
                    self._stream,
                    response_serializer=als_pb2.StreamAccessLogsResponse.SerializeToString,
                )
            },
        )

    async def _stream(
        self, messages: AsyncIterator[bytes], _: grpc.aio.ServicerContext
    ) -> als_pb2.StreamAccessLogsResponse:
        log_name = None
        async for message in messages:
            if log_name == CALLS_LOG and self._ended is not None:
                self._ended(message)
                continue
            try:
                read = als_pb2.StreamAccessLogsMessage.FromString(message)
            except DecodeError:
                continue  # Envoy sends none that is none, and nobody else is let in
            # Only the first message of a stream says which log it is of.
            log_name = log_name or read.identifier.log_name
            if log_name == CALLS_LOG and self._ended is not None:
                self._ended(message)
            else:
                self.take(read)
        return als_pb2.StreamAccessLogsResponse()

    def take(self, message: als_pb2.StreamAccessLogsMessage) -> None:
        """Hand the entries of one message to whom they are for."""
        match message.WhichOneof("log_entries"):
            case "tcp_logs":
                self._connections(message.tcp_logs.log_entry)
            case "http_logs":
                self._calls(message.http_logs.log_entry)
            case _:  # a stream's first message may hold its name alone
                pass


def _is_ours(peer: Peer) -> bool:
    return peer.uid in {os.geteuid(), _ROOT}
