"""Checks straight at a server: as many as were asked for are asked, and each answer is counted once, as what it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from envoy.service.auth.v3 import external_auth_pb2

from authz.decision import Decision, Reason
from authz.sidecar.check.answer import answer_bytes
from tests.bench.check_path.flood import Asking, Question, Tally, flood, questions
from tests.bench.check_path.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADER_BYTES,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    grpc_message,
)

if TYPE_CHECKING:
    from pathlib import Path


def refusal(reason: Reason) -> bytes:
    return answer_bytes(decision=Decision(reason=reason, policy=None, revision=""), decision_id="", call=None)


def allowance() -> bytes:
    response = external_auth_pb2.CheckResponse()
    response.ok_response.SetInParent()
    response.dynamic_metadata.update({"reason": Reason.ALLOWED.value})
    return bytes(response.SerializeToString())


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.sent += data

    def close(self) -> None:
        pass

    def asked(self) -> list[int]:
        """Give the streams that were asked on so far."""
        at, found = len(PREFACE), []
        while at < len(self.sent):
            length_and_kind, _, stream = FRAME_HEADER.unpack_from(self.sent, at)
            if length_and_kind & 0xFF == HEADERS:
                found.append(stream)
            at += HEADER_BYTES + (length_and_kind >> 8)
        return found


def answered(stream: int, message: bytes | None) -> bytes:
    data = b"" if message is None else frame(DATA, 0, stream, grpc_message(message))
    return data + frame(HEADERS, END_HEADERS | END_STREAM, stream, b"")


def settings(streams: int) -> bytes:
    return frame(SETTINGS, 0, 0, MAX_CONCURRENT_STREAMS.to_bytes(2, "big") + streams.to_bytes(4, "big"))


def talked(*said: bytes, count: int = 10, streams: int = 10) -> tuple[Wire, Tally, bool]:
    """Let a server say something; gives what was asked, what was counted, and whether it has ended."""

    async def talk() -> tuple[Wire, Tally, bool]:
        tally, wire = Tally(), Wire()
        asking = Asking([Question(before=b"", after=b"")], streams=streams, count=count, tally=tally)
        asking.connection_made(wire)
        for data in said:
            asking.data_received(data)
        return wire, tally, asking.ended.done()

    return asyncio.run(talk())


def test_nothing_is_asked_before_the_server_has_spoken() -> None:
    assert talked()[0].asked() == []


def test_no_more_is_under_way_than_either_side_allows() -> None:
    assert talked(settings(2))[0].asked() == [1, 3]
    assert talked(settings(100), streams=3)[0].asked() == [1, 3, 5]
    assert talked(settings(2), answered(3, allowance()))[0].asked() == [1, 3, 5]


def test_a_server_that_wants_no_table_of_headers_is_told_so_once() -> None:
    sent = talked(settings(2))[0].sent
    blocks = sent.split(b"\x83\x86")[:-1]
    assert [block.endswith(b"\x20") for block in blocks] == [True, False]


def test_each_answer_is_counted_as_what_it_is() -> None:
    said = [
        answered(1, allowance()), answered(3, refusal(Reason.OVERLOADED)), answered(5, refusal(Reason.CLOSED)),
        answered(7, None), frame(RST_STREAM, 0, 9, bytes(4)),
    ]  # fmt: skip
    _, tally, ended = talked(settings(100), b"".join(said), count=5)
    assert (tally.allowed, tally.refused, tally.other, tally.failed) == (1, 1, 1, 2)
    assert (tally.answers, ended) == (5, True)


def test_bytes_may_come_one_by_one() -> None:
    said = settings(100) + answered(1, allowance()) + answered(3, allowance())
    _, tally, ended = talked(*(said[at : at + 1] for at in range(len(said))), count=2)
    assert (tally.allowed, tally.answers, ended) == (2, 2, True)


def test_after_goodbye_nothing_is_asked() -> None:
    wire, _, ended = talked(settings(1), frame(GOAWAY, 0, 0, bytes(8)), answered(1, allowance()))
    assert (wire.asked(), ended) == ([1], True)


def test_what_is_under_way_when_a_connection_ends_has_failed() -> None:
    async def talk() -> Tally:
        tally = Tally()
        asking = Asking([Question(before=b"", after=b"")], streams=3, count=9, tally=tally)
        asking.connection_made(Wire())
        asking.data_received(settings(100))
        asking.connection_lost(None)
        await asking.ended
        return tally

    assert asyncio.run(talk()).failed == 3


def test_a_server_is_asked_as_often_as_was_said(tmp_path: Path) -> None:
    path = str(tmp_path / "check.sock")
    command = [sys.executable, "-m", "tests.bench.check_path.floor", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        tally = flood([path], questions(2), streams=50, connections=2, count=1_000)
        process.terminate()
    assert (tally.other, tally.answers, len(tally.took_s)) == (1_000, 1_000, 1_000)


def test_two_checks_differ_in_their_request_id_alone() -> None:
    (question,) = questions(1)
    one, two = (external_auth_pb2.CheckRequest.FromString(question.numbered(number)) for number in (1, 2))
    assert one != two
    for request, number in ((one, 1), (two, 2)):
        ids = [each for each in request.attributes.request.http.header_map.headers if each.key == "x-request-id"]
        assert [each.raw_value for each in ids] == [b"%032x" % number]
        ids[0].raw_value = b""
    assert one == two


def test_no_two_callers_show_one_certificate() -> None:
    assert len({question.before + question.after for question in questions(5)}) == 5


@pytest.mark.parametrize(("share", "ms"), [(0.5, 2.0), (0.99, 4.0), (1.0, 4.0)])
def test_a_share_of_all_answers_came_within_a_time(share: float, ms: float) -> None:
    tally = Tally()
    tally.took_s.extend([0.004, 0.001, 0.003, 0.002])
    assert tally.worst_ms(share) == pytest.approx(ms)
