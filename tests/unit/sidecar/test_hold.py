"""The hold without its process: what is told of calls, what becomes of them, and that any bytes are read or refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2
from hypothesis import given, strategies as st

from authz.decision import Reason
from authz.sidecar.errors import HoldError
from authz.sidecar.hold.held_call import ENDED_S, MOST_CALLS, MOST_MESSAGE_BYTES, UNCLAIMED_S, HeldCall, HeldCalls
from authz.sidecar.hold.notice import Notice, RingHold, notice_from
from authz.sidecar.hold.reply import NO_ID, cut
from authz.sidecar.hold.verdict import (
    MOST_AT_ONCE,
    MOST_BYTES_AT_ONCE,
    Rechecked,
    Verdict,
    answer_bytes,
    answer_from,
    batches,
    question_bytes,
    question_from,
)
from authz.sidecar.record_ring import RingConsumer, RingProducer, ring_memory

END_NS = 1_000
EARLIER_NS = 900


def notice(number: int = 0, *, ends_ns: int | None = END_NS) -> Notice:
    return Notice(decision_id=b"%032x" % number, generation=1, checked_ns=5, ends_ns=ends_ns, message=b"m%d" % number)


class Held:
    """One call that Envoy has come for, and the reason for which it was cut."""

    def __init__(self, *, ends_ns: int | None = END_NS) -> None:
        self.cuts: list[Reason] = []
        self.call = HeldCall(notice(ends_ns=ends_ns), 0.0)
        self.call.claim(self.cuts.append)


def test_a_call_that_is_refused_is_cut_once_for_the_first_reason() -> None:
    held = Held()
    held.call.judge(Verdict(reason=Reason.CLOSED))
    held.call.judge(Verdict(reason=Reason.NO_POLICY))
    held.call.judge(Verdict(reason=Reason.ALLOWED))
    assert held.cuts == [held.call.refusal] == [Reason.CLOSED]


def test_a_call_that_another_rule_allows_goes_on() -> None:
    held = Held()
    held.call.judge(Verdict(reason=Reason.OBSERVED, ends_ns=END_NS, then=Reason.CLOSED))
    assert (held.cuts, held.call.new_end) == ([], None)


@pytest.mark.parametrize("ends_ns", [END_NS, None])
def test_an_end_that_comes_sooner_is_kept_and_a_later_one_lengthens_nothing(ends_ns: int | None) -> None:
    held = Held(ends_ns=ends_ns)
    sooner = Verdict(reason=Reason.ALLOWED, ends_ns=EARLIER_NS, then=Reason.DECOMMISSIONED)
    held.call.judge(sooner)
    assert held.call.new_end == (EARLIER_NS, Reason.DECOMMISSIONED)
    held.call.judge(Verdict(reason=Reason.ALLOWED))
    assert held.call.new_end is None
    assert held.cuts == []


def test_a_call_that_was_refused_before_it_came_is_cut_at_once() -> None:
    calls = HeldCalls()
    call = calls.add(notice(), 0.0)
    assert call is not None
    call.refuse(Reason.CLOSED)
    cuts: list[Reason] = []
    assert calls.claim(call.decision_id, cuts.append) is call
    assert cuts == [Reason.CLOSED]


def test_a_call_is_claimed_once_and_an_unknown_one_never() -> None:
    calls = HeldCalls()
    calls.add(notice(), 0.0)
    assert calls.claim(notice().decision_id, _nothing) is not None
    assert calls.claim(notice().decision_id, _nothing) is None
    assert calls.claim(b"0" * 32, _nothing) is None


def test_calls_that_run_come_first_and_those_that_have_ended_last() -> None:
    calls = HeldCalls()
    added = [calls.add(notice(number), 0.0) for number in range(3)]
    assert calls.claim(notice(2).decision_id, _nothing) is added[2]
    assert calls.claim(notice(0).decision_id, _nothing) is added[0]
    assert added[0] is not None
    calls.end(added[0], 1.0)
    assert list(calls) == [added[2], added[1], added[0]]
    assert len(calls) == 2


def test_what_nobody_comes_for_and_what_has_ended_is_forgotten() -> None:
    calls = HeldCalls()
    unclaimed, claimed, ended = (calls.add(notice(number), 0.0) for number in range(3))
    assert claimed is not None
    assert ended is not None
    for call in (claimed, ended):
        calls.claim(call.decision_id, _nothing)
    calls.end(ended, 0.0)
    calls.forget(ENDED_S)
    assert list(calls) == [claimed, unclaimed, ended]
    calls.forget(ENDED_S + 0.1)
    assert list(calls) == [claimed, unclaimed]
    calls.forget(UNCLAIMED_S)
    assert list(calls) == [claimed]


def test_a_call_that_was_cut_is_not_asked_about_again() -> None:
    calls = HeldCalls()
    call = calls.add(notice(), 0.0)
    assert call is not None
    call.refuse(Reason.CLOSED)
    calls.end(call, 0.0)
    assert list(calls) == []


def test_calls_are_bounded() -> None:
    calls = HeldCalls()
    assert all(calls.add(notice(number), 0.0) for number in range(MOST_CALLS))
    assert calls.add(notice(MOST_CALLS), 0.0) is None


def test_what_checks_have_together_is_bounded_and_counted_until_they_are_forgotten() -> None:
    large = bytes(MOST_MESSAGE_BYTES // 4)
    calls = HeldCalls()
    notices = [replace(notice(number), message=large) for number in range(5)]
    ended, cut, running, unclaimed = (calls.add(each, 0.0) for each in notices[:4])
    assert calls.add(notices[4], 0.0) is None
    for each in (ended, cut, running):
        assert each is not None
        assert calls.claim(each.decision_id, _nothing) is each
    assert cut is not None
    assert ended is not None
    cut.refuse(Reason.CLOSED)
    calls.end(cut, 0.0)
    assert calls.add(notices[4], 0.0) is not None, "what was cut counts no more"
    calls.end(ended, 0.0)
    calls.end(ended, 0.0)
    assert calls.add(notices[1], 0.0) is None, "what has just ended is asked about yet"
    calls.forget(ENDED_S + 0.1)
    assert calls.add(notices[1], 0.0) is not None
    assert calls.add(notices[0], 0.0) is None
    assert unclaimed is not None
    calls.forget(UNCLAIMED_S)
    assert list(calls) == [running]
    assert all(calls.add(replace(notice(number), message=large), 0.0) for number in (5, 6, 7))
    assert calls.add(notices[0], 0.0) is None


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize(
    "decision_id", [NO_ID, b"0123456789abcdef" * 2, b'", "reason": "allowed", "a": "bcd', b"\xff" * 32]
)
def test_a_call_that_is_cut_hears_why_and_its_own_id_whatever_that_is(reason: Reason, decision_id: bytes) -> None:
    said = external_processor_pb2.ProcessingResponse.FromString(cut(reason, decision_id)).immediate_response
    headers = {each.header.key: each.header.raw_value for each in said.headers.set_headers}
    assert headers["x-authz-decision-id"] == decision_id
    assert headers["x-authz-reason"] == reason.value.encode()
    told = {"error": "denied", "reason": reason.value, "decision_id": decision_id.decode("latin-1")}
    assert json.loads(said.body) == told
    assert said.details == f"authz_hold_cut:{reason.value}"
    assert said.status.code >= 400


@pytest.mark.parametrize("ends_ns", [None, 0, END_NS])
def test_the_hold_hears_of_a_call_what_its_worker_says(ends_ns: int | None) -> None:
    memory = ring_memory(4096)
    tell = RingHold(RingProducer(memory, wake=lambda: None), generation=7)
    assert tell(b"d" * 32, 11, ends_ns, b"check")
    (entry,) = RingConsumer(memory).take()
    assert notice_from(entry.record) == Notice(
        decision_id=b"d" * 32, generation=7, checked_ns=11, ends_ns=ends_ns, message=b"check"
    )
    assert not tell(b"d" * 32, 11, ends_ns, bytes(4096)), "what finds no room is no hold"


@dataclass(frozen=True, slots=True)
class OneCheck:
    message: bytes


@given(st.lists(st.integers(0, 600_000).map(bytes).map(OneCheck), max_size=100))
def test_batches_lose_nothing_and_are_bounded(asked: list[OneCheck]) -> None:
    found = list(batches(asked))
    assert [each for batch in found for each in batch] == asked
    for batch in found:
        assert 0 < len(batch) <= MOST_AT_ONCE
        assert len(batch) == 1 or sum(len(each.message) for each in batch) <= MOST_BYTES_AT_ONCE


REASONS = st.sampled_from(Reason)
VERDICTS = st.builds(Verdict, reason=REASONS, ends_ns=st.none() | st.integers(0, 2**63), then=st.none() | REASONS)


@given(st.lists(st.binary(), max_size=MOST_AT_ONCE), st.lists(VERDICTS).map(tuple), st.integers(0, 2**63))
def test_what_is_asked_and_answered_is_read_as_it_was_written(
    messages: list[bytes], verdicts: tuple[Verdict, ...], generation: int
) -> None:
    assert question_from(question_bytes(messages)) == messages
    rechecked = Rechecked(generation=generation, verdicts=verdicts)
    assert answer_from(answer_bytes(rechecked)) == rechecked


@given(st.binary())
def test_any_bytes_are_a_value_or_a_hold_error(content: bytes) -> None:
    with contextlib.suppress(HoldError):
        assert notice_from(content).message == content[56:]
    with contextlib.suppress(HoldError):
        assert question_bytes(question_from(content)) == content
    with contextlib.suppress(HoldError):
        assert answer_from(answer_bytes(answer_from(content))) == answer_from(content)


@pytest.mark.parametrize(
    "content", [b"[1]", b'[1, [["allowed", 1.5, null]]]', b'[1, [["open", 1, null]]]', b'["1", []]']
)
def test_an_answer_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(HoldError):
        answer_from(content)


def _nothing(_: Reason) -> None:
    pass
