"""Checks straight at the sockets of a server, so many under way at once, each of them another one.

What comes back is told apart by what stands in it: allowed, refused as `overloaded`, another answer, or
failed without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from array import array
from dataclasses import dataclass, field as dataclass_field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.request import Direction
from tests.bench.check_path.frames import (
    ACK,
    DATA,
    DEFAULT_WINDOW_BYTES,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADER_BYTES,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_STEP_BYTES,
    WINDOW_UPDATE,
    field,
    frame,
    greeting,
    grpc_message,
    window_update,
)
from tests.bench.check_path.question import ASKED, TRUST_DOMAIN, WORKLOAD, identity
from tests.support.check_request import check_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

METHOD = b"/envoy.service.auth.v3.Authorization/Check"
_HEAD = (
    b"\x83\x86"  # POST, http
    + field(b":path", METHOD)
    + field(b":authority", b"authz")
    + field(b"te", b"trailers")
    + field(b"content-type", b"application/grpc")
)
#: said once, before the first header block, to who wants no table of headers (RFC 7541 4.2)
_NO_TABLE = b"\x20"
_MARK = "f" * 32
LIFETIME = timedelta(hours=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A CheckRequest but for its request id, which is written between its two parts."""

    before: bytes
    after: bytes

    def numbered(self, number: int) -> bytes:
        return self.before + b"%032x" % number + self.after


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came back, and after how long."""

    allowed: int = 0
    refused: int = 0
    other: int = 0
    failed: int = 0
    took_s: array[float] = dataclass_field(default_factory=lambda: array("d"))

    @property
    def answers(self) -> int:
        return self.allowed + self.refused + self.other + self.failed

    def add(self, more: Tally) -> None:
        """Count what another run came to as well."""
        self.allowed += more.allowed
        self.refused += more.refused
        self.other += more.other
        self.failed += more.failed

    def worst_ms(self, share: float = 1.0) -> float:
        """Give the time that this share of all answers came within."""
        ordered = sorted(self.took_s)
        return ordered[max(0, round(share * len(ordered)) - 1)] * 1e3 if ordered else 0.0


def questions(count: int) -> list[Question]:
    """Give so many checks of a call that is allowed, each with a certificate of its own and 16 headers."""
    now = datetime.now(UTC)
    authority = Authority.generate(TrustDomain.parse(TRUST_DOMAIN), now, LIFETIME)
    asked = ASKED[Direction.INBOUND]
    headers = (("x-request-id", _MARK.encode()), *((f"x-header-{number}", b"of usual length") for number in range(12)))
    found = []
    for _ in range(count):
        svid = authority.issue_x509_svid(SpiffeId.parse(identity(asked.caller)), now, LIFETIME)
        message = check_request(
            headers=headers,
            path=asked.path,
            host=asked.host,
            certificate_pem=svid.certificate_pem,
            extensions={"service": WORKLOAD},
        ).SerializeToString()
        before, _, after = message.partition(_MARK.encode())
        found.append(Question(before=before, after=after))
    return found


class Asking(asyncio.Protocol):
    """One connection that keeps so many checks under way until it has asked `count` or is told to stop."""

    def __init__(self, asked: Sequence[Question], *, streams: int, count: int, tally: Tally) -> None:
        self._questions = asked
        self._streams = streams
        self._left = count
        self._tally = tally
        self._unread = b""
        self._stream = -1
        self._window_bytes = DEFAULT_WINDOW_BYTES
        self._used_bytes = 0
        self._began: dict[int, float] = {}
        self._bodies: dict[int, bytes] = {}
        self._may_ask = False
        self.ended = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """Ask no more; it ends with the last answer."""
        self._left = 0
        self._end_if_done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(PREFACE + greeting())

    def connection_lost(self, _: Exception | None) -> None:
        self._tally.failed += len(self._began)
        self._began.clear()
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        data = self._unread + data
        at, end, out = 0, len(data), []
        now_s = time.perf_counter()
        while end - at >= HEADER_BYTES:
            length_and_kind, flags, stream = FRAME_HEADER.unpack_from(data, at)
            begin = at + HEADER_BYTES
            after = begin + (length_and_kind >> 8)
            if after > end:
                break
            kind = length_and_kind & 0xFF
            if kind == DATA:
                self._used_bytes += after - begin
                self._bodies[stream] = self._bodies.get(stream, b"") + data[begin:after]
            if kind in {DATA, HEADERS}:
                if flags & END_STREAM:
                    self._finish(stream, now_s)
            else:
                self._control(kind, flags, stream, data[begin:after], out)
            at = after
        self._unread = data[at:]
        if self._used_bytes >= WINDOW_STEP_BYTES:
            out.append(window_update(self._used_bytes))
            self._used_bytes = 0
        self._ask(out, now_s)
        if out:
            self._transport.write(b"".join(out))
        self._end_if_done()

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, out: list[bytes]) -> None:
        if kind == SETTINGS and not flags & ACK:
            for place in range(0, len(payload), 6):
                if int.from_bytes(payload[place : place + 2], "big") == MAX_CONCURRENT_STREAMS:
                    self._streams = min(self._streams, int.from_bytes(payload[place + 2 : place + 6], "big"))
            out.append(frame(SETTINGS, ACK, 0, b""))
            self._may_ask = True
        elif kind == PING and not flags & ACK:
            out.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and not stream:
            self._window_bytes += int.from_bytes(payload, "big")
        elif kind == RST_STREAM and self._began.pop(stream, None) is not None:
            self._tally.failed += 1
        elif kind == GOAWAY:
            self._left = 0

    def _ask(self, out: list[bytes], now_s: float) -> None:
        while self._may_ask and self._left and len(self._began) < self._streams:
            message = self._questions[self._left % len(self._questions)].numbered(self._left)
            body = grpc_message(message)
            if len(body) > self._window_bytes:
                return
            self._left -= 1
            self._window_bytes -= len(body)
            self._stream += 2
            head = _HEAD if self._stream > 1 else _NO_TABLE + _HEAD
            out += (frame(HEADERS, END_HEADERS, self._stream, head), frame(DATA, END_STREAM, self._stream, body))
            self._began[self._stream] = now_s

    def _finish(self, stream: int, now_s: float) -> None:
        began_s = self._began.pop(stream, None)
        if began_s is None:
            return
        body = self._bodies.pop(stream, b"")
        tally = self._tally
        tally.took_s.append(now_s - began_s)
        if b"allowed" in body:
            tally.allowed += 1
        elif b"overloaded" in body:
            tally.refused += 1
        elif body:
            tally.other += 1
        else:
            tally.failed += 1

    def _end_if_done(self) -> None:
        if not self._left and not self._began and not self.ended.done():
            self.ended.set_result(None)
            self._transport.close()


def flood(
    sockets: Sequence[str],
    asked: Sequence[Question],
    *,
    streams: int,
    connections: int = 1,
    count: int | None = None,
    seconds: float | None = None,
) -> Tally:
    """Ask on each socket over so many connections until each has asked its share of `count`, or for so long."""
    each = 2**62 if count is None else -(-count // (len(sockets) * connections))
    return asyncio.run(_flood(sockets, asked, streams=streams, connections=connections, each=each, seconds=seconds))


async def _flood(
    sockets: Sequence[str],
    asked: Sequence[Question],
    *,
    streams: int,
    connections: int,
    each: int,
    seconds: float | None,
) -> Tally:
    loop, tally = asyncio.get_running_loop(), Tally()
    asking = []
    for path in sockets:
        for _ in range(connections):
            _, protocol = await loop.create_unix_connection(
                lambda: Asking(asked, streams=streams, count=each, tally=tally), path
            )
            asking.append(protocol)
    if seconds is not None:
        await asyncio.sleep(seconds)
        for protocol in asking:
            protocol.stop()
    await asyncio.gather(*(protocol.ended for protocol in asking))
    return tally


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this process on one core for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
