"""Calls that stay open: what is heard and said on them, how they end, and that nobody makes more of them than that."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from authz.sidecar.check.http2.errors import ErrorCode
from authz.sidecar.check.http2.grpc import GrpcError, Status, status_trailers
from authz.sidecar.check.http2.limits import MAX_STREAMS, MAX_WAITING_BYTES, STREAM_TIMEOUT_S
from tests.support import http2_frames as http2
from tests.support.http2_frames import block, data, grpc_fields, headers, message, rst_stream
from tests.support.http2_mutations import mutated
from tests.support.http2_peer import Peer, first

if TYPE_CHECKING:
    import random

    from authz.sidecar.check.http2.grpc import Speaker

OPEN = "/test/Open"
DENIED = status_trailers(Status.PERMISSION_DENIED, "no more")


class Talk:
    """One call that stays open; it answers each message with itself, `end` with its last one, and refuses `no`."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.heard_messages: list[bytes] = []
        self.ends = 0

    def heard(self, content: bytes) -> None:
        assert not self.ends, "told once"
        self.heard_messages.append(content)
        match content:
            case b"end":
                self.speaker.end(b"last", DENIED)
            case b"no":
                raise GrpcError(Status.INVALID_ARGUMENT, "no")
            case b"fault":
                raise RuntimeError("a secret")
            case _:
                self.speaker.say(content)

    def ended(self) -> None:
        self.ends += 1
        self.speaker.say(b"is not said any more")
        self.speaker.end(b"neither", DENIED)


class Talker(Peer):
    """A client with calls that stay open."""

    def __init__(self, *, handshake: bytes = http2.HANDSHAKE) -> None:
        self.talks: list[Talk] = []
        self.wakes = 0
        super().__init__(handshake=handshake, stay_open={OPEN: self.begin})
        self.connection.tell_when_said(self.woken)

    def begin(self, speaker: Speaker) -> Talk:
        self.talks.append(Talk(speaker))
        return self.talks[-1]

    def woken(self) -> None:
        self.wakes += 1

    def open(self, content: bytes = b"hello", *more: tuple[str, str]) -> Talk:
        stream_id = 2 * len(self.talks) + 1
        raw = first(grpc_fields(OPEN, *more)) if stream_id == 1 else block(grpc_fields(OPEN, *more))
        # What was heard is looked at where it is wanted: of thousands of calls it takes its time.
        self.said += self.connection.receive(headers(stream_id, raw=raw) + data(stream_id, message(content)))
        return self.talks[-1]

    def hear(self) -> None:
        """Have what was said between two chunks."""
        self.said += self.connection.said()


def test_each_message_is_heard_when_it_is_whole_and_answered_at_once() -> None:
    peer = Talker()
    talk = peer.open(b"one")
    two = message(b"two")
    for each in (two[:3], two[3:7], two[7:] + message(b"three") + message(b"")):
        peer.say(data(1, each))
    assert talk.heard_messages == [b"one", b"two", b"three", b""]
    assert peer.of(1).body == message(b"one") + message(b"two") + message(b"three") + message(b"")
    assert (peer.of(1).ended, talk.ends) == (False, 0)


def test_what_is_said_later_wakes_the_connection_and_leaves_in_one_piece() -> None:
    peer = Talker()
    talks = [peer.open() for _ in range(3)]
    before = peer.wakes
    for talk in talks:
        talk.speaker.end(b"cut", DENIED)
    assert peer.wakes == before + 3
    peer.hear()
    for stream_id in (1, 3, 5):
        told = peer.of(stream_id)
        assert told.body == message(b"hello") + message(b"cut")
        assert (told.ended, told.grpc_status, told.reset) == (True, Status.PERMISSION_DENIED, ErrorCode.NO_ERROR)
    assert [talk.ends for talk in talks] == [1, 1, 1]


@pytest.mark.parametrize("said", [data(1, b"", end=True), rst_stream(1), headers(1, (("x", "y"),), end=True)])
def test_the_clients_end_is_told_once(said: bytes) -> None:
    peer = Talker()
    talk = peer.open()
    peer.say(said)
    peer.connection.lost()
    assert talk.ends == 1
    assert peer.of(1).ended == (said != rst_stream(1))
    assert peer.of(1).grpc_status in {0, None}
    assert peer.heard.goaway is None


def test_a_client_that_ends_before_anything_was_said_has_an_answer() -> None:
    peer = Talker()
    peer.say(headers(1, raw=first(grpc_fields(OPEN)), end=True))
    assert (peer.of(1).grpc_status, peer.of(1).ended, peer.talks[0].ends) == (0, True, 1)


def test_a_lost_connection_ends_all_its_calls() -> None:
    peer = Talker()
    talks = [peer.open() for _ in range(4)]
    peer.connection.lost()
    assert [talk.ends for talk in talks] == [1, 1, 1, 1]


def test_the_last_message_of_a_method_ends_its_call_from_within_too() -> None:
    peer = Talker()
    talk = peer.open(b"end")
    peer.say(data(1, message(b"more")), data(1, b"", end=True), rst_stream(1))
    assert (talk.heard_messages, talk.ends) == ([b"end"], 1)
    assert (peer.of(1).body, peer.of(1).grpc_status) == (message(b"last"), Status.PERMISSION_DENIED)
    assert peer.heard.goaway is None


def test_a_refusal_and_a_fault_end_one_call_and_tell_nothing() -> None:
    peer = Talker()
    refused, failed, late = peer.open(b"no"), peer.open(b"fault"), peer.open()
    peer.say(data(5, message(b"fault")))
    assert (peer.of(1).grpc_status, peer.of(3).grpc_status) == (Status.INVALID_ARGUMENT, Status.INTERNAL)
    assert "secret" not in peer.of(3).grpc_message
    assert peer.of(5).reset == ErrorCode.INTERNAL_ERROR, "it had said something"
    assert [talk.ends for talk in (refused, failed, late)] == [1, 1, 1]
    assert [str(each) for each in peer.failures] == ["a secret", "a secret"]


@pytest.mark.parametrize(
    "body", [b"\0\0\0\0\5half", bytes([0]) + (2**31).to_bytes(4, "big"), message(b"x", 1), message(b"x", 7)]
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    peer = Talker()
    peer.say(headers(1, raw=first(grpc_fields(OPEN))) + data(1, body, end=True))
    assert peer.of(1).grpc_status in {Status.INTERNAL, Status.RESOURCE_EXHAUSTED}
    assert (peer.talks[0].heard_messages, peer.talks[0].ends) == ([], 1)


def test_a_call_may_last_once_its_first_message_has_come() -> None:
    peer = Talker()
    talk = peer.open()
    peer.say(headers(3, grpc_fields(OPEN)))
    peer.wait(STREAM_TIMEOUT_S + 1)
    assert (peer.of(1).reset, peer.of(3).reset) == (None, ErrorCode.CANCEL)
    peer.wait(100 * STREAM_TIMEOUT_S)
    assert (talk.ends, peer.talks[1].ends) == (0, 1)


def test_the_clients_own_deadline_ends_a_call() -> None:
    peer = Talker()
    talk = peer.open(b"hello", ("grpc-timeout", "100S"))
    peer.wait(99)
    assert peer.of(1).reset is None
    peer.wait(2)
    assert (peer.of(1).reset, talk.ends) == (ErrorCode.CANCEL, 1)


def test_what_finds_no_window_waits_in_its_order() -> None:
    peer = Talker(handshake=http2.PREFACE + http2.settings({4: 4}) + http2.SETTINGS_ACK)
    talk = peer.open(b"one")
    talk.speaker.say(b"two")
    talk.speaker.end(b"three", DENIED)
    peer.hear()
    whole = message(b"one") + message(b"two") + message(b"three")
    assert peer.of(1).body == whole[:4]
    peer.say(http2.window_update(1, 8))
    assert (peer.of(1).body, talk.ends) == (whole[:12], 0)
    peer.say(http2.window_update(1, 100))
    assert (peer.of(1).body, peer.of(1).grpc_status, talk.ends) == (whole, Status.PERMISSION_DENIED, 1)


@pytest.mark.parametrize("end", [data(1, b"", end=True), headers(1, (("x", "y"),), end=True)])
def test_last_words_that_wait_for_a_window_stay_what_they_are_when_the_client_ends(end: bytes) -> None:
    peer = Talker(handshake=http2.PREFACE + http2.settings({4: 4}) + http2.SETTINGS_ACK)
    talk = peer.open(b"end")
    peer.say(end)
    assert (peer.of(1).ended, talk.ends) == (False, 0)
    peer.say(http2.window_update(1, 100))
    assert (peer.of(1).body, peer.of(1).grpc_status, talk.ends) == (message(b"last"), Status.PERMISSION_DENIED, 1)


def test_a_last_message_that_is_never_read_is_given_up() -> None:
    peer = Talker(handshake=http2.PREFACE + http2.settings({4: 4}) + http2.SETTINGS_ACK)
    talk = peer.open(b"end")
    peer.wait(STREAM_TIMEOUT_S + 1)
    assert (peer.of(1).reset, talk.ends) == (ErrorCode.CANCEL, 1)


def test_who_says_more_than_may_wait_loses_its_call() -> None:
    peer = Talker(handshake=http2.PREFACE + http2.settings({4: 0}) + http2.SETTINGS_ACK)
    loud, quiet = peer.open(b""), peer.open(b"")
    loud.speaker.say(bytes(MAX_WAITING_BYTES))
    peer.hear()
    assert (peer.of(1).reset, loud.ends) == (ErrorCode.ENHANCE_YOUR_CALM, 1)
    assert (peer.of(3).reset, quiet.ends) == (None, 0)


def test_more_cuts_than_there_can_be_streams_at_once_are_no_fault() -> None:
    peer = Talker()
    talks = [peer.open() for _ in range(MAX_STREAMS)]
    assert all(not talk.ends for talk in talks)
    for talk in talks:
        talk.speaker.end(b"cut", DENIED)
    peer.hear()
    peer.say(b"".join(rst_stream(2 * number + 1) for number in range(MAX_STREAMS)))
    again = [peer.open() for _ in range(MAX_STREAMS)]
    assert all(not talk.ends for talk in again)
    assert peer.heard.goaway is None


@st.composite
def sessions(draw: st.DrawFn) -> bytes:
    """Draw a client's bytes: calls that stay open, messages on them, their ends."""
    said = [http2.HANDSHAKE, headers(1, raw=first(grpc_fields(OPEN)))]
    opened = [1]
    for _ in range(draw(st.integers(1, 12))):
        stream_id = draw(st.sampled_from(opened))
        body = message(draw(st.sampled_from((b"", b"hello", b"end", b"no", b"fault", bytes(3000)))))
        match draw(st.integers(0, 7)):
            case 0 | 1:
                opened.append(2 * len(opened) + 1)
                said.append(headers(opened[-1], grpc_fields(OPEN)))
            case 2 | 3 | 4:
                at = draw(st.integers(0, len(body)))
                said += [data(stream_id, body[:at]), data(stream_id, body[at:])]
            case 5:
                said.append(data(stream_id, body, end=True))
            case 6:
                said.append(rst_stream(stream_id))
            case _:
                said.append(http2.window_update(draw(st.sampled_from((0, stream_id))), draw(st.integers(1, 2**20))))
    return b"".join(said)


@given(said=sessions(), cuts=st.lists(st.integers(0, 2**16), max_size=12))
def test_any_chunks_are_heard_and_answered_alike(said: bytes, cuts: list[int]) -> None:
    whole, cut = Talker(handshake=b""), Talker(handshake=b"")
    whole.say(said)
    edges = sorted({0, len(said), *(each % (len(said) + 1) for each in cuts)})
    cut.say(*(said[start:end] for start, end in pairwise(edges)))
    assert whole.said == cut.said
    assert [talk.heard_messages for talk in whole.talks] == [talk.heard_messages for talk in cut.talks]


@hypothesis_settings(max_examples=300)
@given(said=sessions(), generator=st.randoms(use_true_random=False))
def test_whatever_comes_each_call_is_told_of_its_end_once(said: bytes, generator: random.Random) -> None:
    peer = Talker(handshake=b"")
    peer.say(mutated(said, generator))
    for talk in peer.talks:
        talk.speaker.say(b"later")
    peer.hear()
    peer.connection.lost()
    assert [talk.ends for talk in peer.talks] == [1] * len(peer.talks)
    assert all(str(each) == "a secret" for each in peer.failures)
