"""Damages sessions of held calls: the hold's server never fails, and no call is freed that it holds.

Run by `make proof-http2`, or by hand: `python -m tests.conformance.mutated_holds --sessions 100000 --seed 0`.

A call is freed where Envoy would let it go on though nobody can cut it any more: its stream ends with status 0 without
Envoy's having ended it, it is told that it begins and nobody holds it, or it is cut and hears nothing. Envoy's own ends
are read once more from the same bytes, by a reader of frames of a few lines.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from envoy.service.ext_proc.v3 import external_processor_pb2
from google.protobuf.message import DecodeError

from authz.decision import Reason
from authz.sidecar.check.http2.connection import Connection
from authz.sidecar.hold.hold_server import PROCESS
from tests.conformance.mutated_sessions import frames_in
from tests.support import http2_frames as http2
from tests.support.held_service import TRAILERS, UNKNOWN, HeldService, begins
from tests.support.http2_frames import Frame, grpc_fields, message
from tests.support.http2_mutations import mutated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.http2_frames import Answered, Heard

#: sessions that mutations begin with, and calls in each
SESSIONS, CALLS = 40, 8
#: every so many sessions open no more than this window, so that last words wait until it is wider
NARROW, NARROW_BYTES = 2, 40
WIDER = http2.settings({4: 2**20})
PROGRESS_S = 30.0
_Response = external_processor_pb2.ProcessingResponse


@dataclass(slots=True, kw_only=True)
class Told:
    """How many sessions there were, what became of their calls, and what is wrong."""

    sessions: int = 0
    held: int = 0
    #: of those that were held: ended by their client or its connection, and cut by the hold
    ended: int = 0
    cut: int = 0
    wrong: list[str]


class Damage:
    """Says damaged sessions to the hold's server, and judges what it makes of them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generator = Random(seed)  # noqa: S311 a seed makes the run the same again
        self._sessions = [self._session(narrow=not number % NARROW) for number in range(SESSIONS)]
        self.told = Told(wrong=[])

    def more(self, count: int) -> None:
        """Say so many more damaged sessions."""
        for _ in range(count):
            number = self.told.sessions
            self.told.sessions += 1
            original = self._sessions[number % SESSIONS]
            said = mutated(original, self._generator, near=[at for at, _ in frames_in(original)])
            for fault in self.faults(said):
                self.told.wrong.append(f"seed {self._seed}, session {number}: {fault}: {said!r}")

    def faults(self, said: bytes) -> Iterator[str]:
        """Say a session, cut what is held then, and give what is wrong with what came of it."""
        held, failures = HeldService(), list[Exception]()
        connection = Connection(service=held.service, known={}, clock=lambda: 1000.0, failed=failures.append)
        written = connection.start() + connection.receive(said)
        while connection.held:
            written += connection.receive(b"")
        claimed, ended = len(held.claims), held.ends
        running = len(held.held)
        for call in tuple(held.held.values()):
            call.refuse(Reason.NO_POLICY)
        written += connection.said()
        if not connection._unread and connection._block is None:  # else what is said now is the rest of a frame
            written += connection.receive(WIDER)
            if held.held and not connection.finished:
                yield f"{len(held.held)} calls do not hear that they are cut"
        heard = http2.heard(written)
        yield from freed(said, heard, claimed=claimed)
        if connection.finished and not heard.goaway:
            yield "the connection ends without a word"
        connection.lost()
        if held.held or held.ends != claimed:
            yield f"{claimed} calls were held, {held.ends} have ended"
        yield from (f"a fault of the program: {each!r}" for each in failures)
        self.told.held += claimed
        self.told.ended += ended
        self.told.cut += running

    def _session(self, *, narrow: bool) -> bytes:
        generator = self._generator
        said = [http2.PREFACE, http2.settings({4: NARROW_BYTES} if narrow else {}), http2.SETTINGS_ACK]
        for number in range(CALLS):
            stream_id = 2 * number + 1
            block = http2.block(grpc_fields(PROCESS))
            said.append(http2.headers(stream_id, raw=block if number else http2.EMPTY_TABLE + block))
            decision_id = UNKNOWN if not generator.randrange(4) else generator.randbytes(16).hex().encode()
            said.append(http2.data(stream_id, message(begins(decision_id))))
            earlier = 2 * generator.randrange(number + 1) + 1
            match generator.randrange(6):
                case 0:
                    said.append(http2.data(earlier, message(TRAILERS)))
                case 1:
                    said.append(http2.data(earlier, message(TRAILERS)) + http2.data(earlier, b"", end=True))
                case 2:
                    said.append(http2.headers(earlier, (("x", "y"),), end=True))
                case 3:
                    said.append(http2.rst_stream(earlier))
                case _:
                    pass
        return b"".join(said)


def freed(said: bytes, heard: Heard, *, claimed: int) -> Iterator[str]:
    """Give the calls that Envoy would let go on unheld."""
    begun = 0
    by_client = {frame.stream_id for _, frame in frames_in(said) if _ends(frame)}
    for stream_id, told in heard.streams.items():
        words = list(words_of(told))
        begun += "request_headers" in words
        is_cut = "immediate_response" in words
        if told.ended and told.grpc_status == 0 and (is_cut or stream_id not in by_client):
            yield f"stream {stream_id} ends in peace"
        if "request_headers" in words[1:] or (is_cut and words[-1] != "immediate_response"):
            yield f"stream {stream_id} hears {words}"
    if begun > claimed:
        yield f"{begun} calls begin, {claimed} are held"


def words_of(told: Answered) -> Iterator[str]:
    """Give the kinds of the whole messages that a stream has heard."""
    at, body = 0, told.body
    while len(body) - at >= 5:
        end = at + 5 + int.from_bytes(body[at + 1 : at + 5], "big")
        if end > len(body):
            return
        try:
            yield _Response.FromString(body[at + 5 : end]).WhichOneof("response") or "nothing"
        except DecodeError:
            yield "no message"
        at = end


def _ends(frame: Frame) -> bool:
    return frame.kind in {http2.DATA, http2.HEADERS} and bool(frame.flags & http2.END_STREAM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable()  # what the hold says of calls that no worker has told of
    damage = Damage(given.seed)
    told, said = damage.told, time.monotonic()
    while told.sessions < given.sessions and not told.wrong:
        damage.more(min(1000, given.sessions - told.sessions))
        if time.monotonic() - said >= PROGRESS_S:
            said = time.monotonic()
            print(f"{told.sessions} damaged sessions, {told.held} calls held", flush=True)
    if told.wrong:
        print("\n".join(told.wrong[:1]), file=sys.stderr)
        return 1
    print(
        f"{told.sessions} damaged sessions, seed {given.seed}: {told.held} calls held, none freed; {told.ended} ended"
        f" by their client, {told.cut} cut by the hold"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
