"""A client's end of one connection in memory, with a clock that stands still unless it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.sidecar.check.http2.connection import Connection
from authz.sidecar.check.http2.grpc import GrpcError, Service, Status
from authz.sidecar.check.http2.health import HEALTH_CHECK, health_check
from tests.support.http2_frames import (
    CHECK,
    EMPTY_TABLE,
    HANDSHAKE,
    Answered,
    Heard,
    block,
    grpc_fields,
    headers,
    heard,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz.sidecar.check.http2.grpc import Begin

MAX_MESSAGE_BYTES = 1024 * 1024
FAILS = "/test/Fails"
REFUSES = "/test/Refuses"
LARGE = "/test/Large"
LARGE_ANSWER = bytes(range(256)) * 400


def fails(_message: bytes) -> bytes:
    raise RuntimeError("a secret that nobody else learns")


def refuses(_message: bytes) -> bytes:
    raise GrpcError(Status.INVALID_ARGUMENT, "50 % wrong: é\n")


class Peer:
    """Says bytes to a connection; `asked` are the messages that the echo method was called with."""

    def __init__(
        self,
        *,
        handshake: bytes = HANDSHAKE,
        quick: bool = False,
        echo: Callable[[bytes], bytes] = lambda message: message,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        known: dict[bytes, object] | None = None,
        table_bytes: int = 0,
        stay_open: Mapping[str, Begin] | None = None,
    ) -> None:
        """Shake hands; with `quick` also make calls 1 and 3, so that call 5 may take the quick way."""
        self.now_s = 1000.0
        self.asked: list[bytes] = []
        self.failures: list[Exception] = []
        self.is_serving: bool | None = True
        self.known = {} if known is None else known

        def asked(message: bytes) -> bytes:
            self.asked.append(message)
            return echo(message)

        service = Service(
            {
                CHECK: asked,
                FAILS: fails,
                REFUSES: refuses,
                LARGE: lambda _message: LARGE_ANSWER,
                HEALTH_CHECK: health_check(lambda name: None if name else self.is_serving),
            },
            max_message_bytes=max_message_bytes,
            stay_open=stay_open or {},
        )
        self.connection = Connection(
            service=service,
            known=self.known,  # type: ignore[arg-type] what is in it is the connection's business
            clock=lambda: self.now_s,
            failed=self.failures.append,
            table_bytes=table_bytes,
        )
        self.said = bytearray(self.connection.start())
        self.say(handshake)
        if quick:
            empties = headers(1, raw=EMPTY_TABLE + block(grpc_fields()), end=True)
            learns = headers(3, grpc_fields(), end=True)
            self.say(empties + learns)

    def say(self, *pieces: bytes) -> Heard:
        """Say it in these chunks; give everything heard so far."""
        for each in pieces:
            self.said += self.connection.receive(each)
            while self.connection.held:
                self.said += self.connection.receive(b"")
        return self.heard

    def wait(self, seconds: float) -> Heard:
        """Let time pass, as a loop's timer would see it."""
        self.now_s += seconds
        if self.now_s >= self.connection.due_s:
            self.said += self.connection.expire()
        return self.heard

    def drain(self) -> Heard:
        self.said += self.connection.drain()
        return self.heard

    @property
    def heard(self) -> Heard:
        return heard(self.said)

    def of(self, stream_id: int) -> Answered:
        return self.heard.of(stream_id)


def first(fields: tuple[tuple[str, str], ...] | None = None) -> bytes:
    """Give the block that the first request after the acknowledgement begins with (RFC 9113 4.3.1)."""
    return EMPTY_TABLE + block(grpc_fields() if fields is None else fields)
