"""Laws of the check path's HTTP/2, on sessions that a client could have sent and on what damage makes of them."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded, TrailersReceived
from h2.settings import SettingCodes
from hypothesis import given, settings as hypothesis_settings, strategies as st

from authz.sidecar.check.http2.limits import MAX_HELD_BYTES, MAX_KNOWN_BLOCKS, MAX_STREAMS, MAX_WAITING_BYTES
from tests.support import http2_frames as http2
from tests.support.http2_frames import CHECK, Frame, call, data, grpc_fields, headers, heard, message
from tests.support.http2_mutations import mutated
from tests.support.http2_peer import FAILS, LARGE, Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

#: what one session is made of: every kind of frame, right and wrong ones, more than once
CONTENTS = (b"", b"hello", bytes(range(256)) * 3, bytes(20_000), bytes(70_000))
FIELDS = (
    grpc_fields(),
    grpc_fields(CHECK, ("grpc-timeout", "200m")),
    grpc_fields(CHECK, ("content-length", "10")),
    grpc_fields(FAILS),
    grpc_fields(LARGE),
    grpc_fields("/other/Method"),
    grpc_fields("/grpc.health.v1.Health/Check"),
    grpc_fields(CHECK, ("connection", "close")),
    (("x", "y"),),
)


def body_frames(stream_id: int, body: bytes, size: int) -> bytes:
    cut = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    return b"".join(data(stream_id, each, end=number == len(cut) - 1) for number, each in enumerate(cut))


@st.composite
def sessions(draw: st.DrawFn) -> bytes:
    """Draw a client's bytes: mostly calls, some of them interleaved, and some frames that are wrong."""
    said = [
        http2.HANDSHAKE,
        headers(1, raw=http2.EMPTY_TABLE + http2.block(grpc_fields())),
        data(1, message(b"1"), end=True),
    ]
    next_id, opened = 3, []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.integers(0, 11))
        fields, content = draw(st.sampled_from(FIELDS)), draw(st.sampled_from(CONTENTS))
        some_id = draw(st.sampled_from(opened)) if opened else 1
        match kind:
            case 0 | 1 | 2 | 3:
                said.append(headers(next_id, fields) + body_frames(next_id, message(content), 16_384))
                next_id += 2
            case 4 | 5:
                said.append(headers(next_id, fields))
                opened.append(next_id)
                next_id += 2
            case 6:
                said.append(body_frames(some_id, message(content), draw(st.sampled_from((3, 100, 16_384)))))
            case 7:
                said.append(http2.rst_stream(some_id))
            case 8:
                said.append(http2.window_update(draw(st.sampled_from((0, some_id))), draw(st.integers(1, 2**20))))
            case 9:
                said.append(http2.settings({4: draw(st.sampled_from((0, 10, 65_535, 2**20)))}))
            case 10:
                said.append(http2.ping())
            case _:
                said.append(
                    bytes(
                        Frame(
                            draw(st.integers(0, 10)),
                            draw(st.integers(0, 255)),
                            draw(st.sampled_from((0, some_id, next_id))),
                            draw(st.binary(max_size=20)),
                        )
                    )
                )
    return b"".join(said)


def chunked(said: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(said), *(cut % (len(said) + 1) for cut in cuts)})
    return [said[start:end] for start, end in pairwise(edges)]


class TestChunks:
    """What is answered depends on the bytes, not on how they arrive."""

    @hypothesis_settings(max_examples=300)
    @given(said=sessions(), cuts=st.lists(st.integers(0, 2**20), max_size=12))
    def test_any_chunks_give_the_same_output(self, said: bytes, cuts: list[int]) -> None:
        whole, cut = Peer(handshake=b""), Peer(handshake=b"")
        whole.say(said)
        cut.say(*chunked(said, cuts))
        assert whole.said == cut.said
        assert whole.asked == cut.asked
        assert whole.connection.finished == cut.connection.finished

    @hypothesis_settings(max_examples=30)
    @given(said=sessions())
    def test_byte_by_byte_gives_the_same_output(self, said: bytes) -> None:
        said = said[:5000]
        whole, cut = Peer(handshake=b""), Peer(handshake=b"")
        whole.say(said)
        for at in range(len(said)):
            cut.said += cut.connection.receive(said[at : at + 1])
        assert whole.said == cut.said

    @hypothesis_settings(max_examples=100)
    @given(said=sessions(), other=sessions())
    def test_what_another_connection_has_taught_changes_nothing(self, said: bytes, other: bytes) -> None:
        alone, known = Peer(handshake=b""), {}
        alone.say(said)
        Peer(handshake=b"", known=known).say(other)
        beside = Peer(handshake=b"", known=known)
        beside.say(said)
        assert alone.said == beside.said


class TestDamage:
    """Damaged sessions end in an answer to what was sent, in a refusal or in a GOAWAY: never in anything else."""

    @hypothesis_settings(max_examples=500)
    @given(said=st.binary(max_size=400))
    def test_any_bytes_behind_the_handshake_are_answered_well_formed(self, said: bytes) -> None:
        peer = Peer(quick=True)
        peer.say(said)
        holds(peer)

    @hypothesis_settings(max_examples=500)
    @given(
        said=sessions(),
        damages=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 12), st.binary(max_size=9)), max_size=4),
    )
    def test_a_damaged_session_is_answered_well_formed(
        self, said: bytes, damages: list[tuple[int, int, bytes]]
    ) -> None:
        for where, length, piece in damages:
            at = where % (len(said) + 1)
            said = said[:at] + piece + said[at + length :]
        peer = Peer(handshake=b"")
        peer.say(said)
        holds(peer)


def holds(peer: Peer) -> None:
    """Check what any session must leave behind; the output is read by a client that takes nothing wrong."""
    assert not [error for error in peer.failures if "secret" not in str(error)]
    assert peer.connection.finished == (peer.heard.goaway not in {None, 0})
    answers = [each for each in peer.heard.streams.values() if each.message is not None]
    for each in answers:
        assert each.head == {":status": "200", "content-type": "application/grpc"}
    streams, flow = peer.connection._streams, peer.connection._flow
    assert len(streams.open) <= MAX_STREAMS
    assert streams._held_bytes == sum(len(each.body) for each in streams.open.values()) <= MAX_HELD_BYTES
    assert flow.waiting_bytes == sum(len(each.rest) for each in streams.open.values()) <= MAX_WAITING_BYTES
    assert len(peer.connection._unread) <= 16_384 + 9
    assert len(peer.known) <= MAX_KNOWN_BLOCKS
    assert set(flow._queue) <= set(streams.open)


MUTATIONS = 4000
SESSION_CALLS = 6


def real_session(generator: random.Random) -> tuple[bytes, set[bytes]]:
    """Give the bytes that h2 sends for a few calls, with the table it has in use, and the messages in them."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    contents = set()
    server = Peer(handshake=b"")
    said = bytearray()

    def exchange() -> None:
        sent = client.data_to_send()
        said.extend(sent)
        before = len(server.said)
        server.say(sent)
        client.receive_data(bytes(server.said[before:] if said != sent else server.said))

    exchange()
    for _ in range(SESSION_CALLS):
        stream_id = client.get_next_available_stream_id()
        client.send_headers(stream_id, [*grpc_fields(CHECK, ("grpc-timeout", f"{generator.randrange(1, 9)}S"))])
        content = generator.randbytes(generator.randrange(16, 200))
        contents.add(content)
        client.send_data(stream_id, message(content), end_stream=True)
        if generator.random() < 0.5:
            exchange()
    exchange()
    return bytes(said), contents


@pytest.mark.parametrize("seed", range(4))
def test_mutated_real_sessions_are_never_answered_for_what_was_not_sent(seed: int) -> None:
    # The bodies of answers are what was asked: a message that is in none of the bytes is a wrong answer, and so is one
    # that a mutation did not touch and that comes out changed.
    generator = random.Random(seed)  # noqa: S311 a seed makes the run the same again
    sessions = [real_session(generator) for _ in range(20)]
    answered = 0
    for number in range(MUTATIONS // 4):
        original, _ = sessions[number % len(sessions)]
        said = mutated(original, generator)
        peer = Peer(handshake=b"")
        peer.say(said)
        holds(peer)
        messages = {each.message for each in peer.heard.streams.values()} - {None}
        answered += len(messages)
        for each in messages:
            framed = message(each)
            assert each in peer.asked
            # a body is one frame in these sessions, or was cut by a mutation into frames that are there as well
            assert framed in said or each in _joined(said), (seed, number)
    assert answered > MUTATIONS // 4  # most mutations leave most calls as they were


def _joined(said: bytes) -> bytes:
    """Give all payloads of DATA, by stream, as another reader of frames would see them."""
    at, bodies = len(http2.PREFACE), {}
    while len(said) - at >= 9:
        length = int.from_bytes(said[at : at + 3], "big")
        kind, flags = said[at + 3], said[at + 4]
        stream_id = int.from_bytes(said[at + 5 : at + 9], "big") & 0x7FFFFFFF
        payload = said[at + 9 : at + 9 + length]
        if kind == http2.DATA:
            if flags & http2.PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            bodies[stream_id] = bodies.get(stream_id, b"") + payload
        at += 9 + length
    return b"|".join(bodies.values())


class H2Client:
    """A client of another make, which takes nothing wrong: its calls, and what it made of the answers."""

    def __init__(self, peer: Peer, *, table: int) -> None:
        self.peer = peer
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.http.local_settings.update({SettingCodes.HEADER_TABLE_SIZE: table})
        self.http.initiate_connection()
        self.bodies: dict[int, bytes] = {}
        self.statuses: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self._heard_bytes = 0

    def exchange(self) -> None:
        while True:
            self.peer.say(self.http.data_to_send())
            said = bytes(self.peer.said[self._heard_bytes :])
            self._heard_bytes += len(said)
            if not said:
                return
            for event in self.http.receive_data(said):
                if isinstance(event, DataReceived):
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, TrailersReceived):
                    self.statuses[event.stream_id] = dict(event.headers)[b"grpc-status"]
                elif isinstance(event, StreamEnded):
                    self.ended.add(event.stream_id)

    def call(self, content: bytes) -> int:
        stream_id = self.http.get_next_available_stream_id()
        self.http.send_headers(stream_id, grpc_fields(CHECK, ("n", str(stream_id % 3))))
        body = message(content)
        while body:
            step = min(len(body), self.http.local_flow_control_window(stream_id), self.http.max_outbound_frame_size)
            if not step:
                self.exchange()
                continue
            self.http.send_data(stream_id, body[:step], end_stream=step == len(body))
            body = body[step:]
        return stream_id


class TestAgainstH2:
    """A client of another make understands every answer, whatever its windows and its table."""

    @hypothesis_settings(max_examples=60)
    @given(
        numbers=st.lists(st.integers(0, len(CONTENTS) - 1), min_size=1, max_size=6),
        window=st.sampled_from((0, 1000, 65_535, 2**20)),
        table=st.sampled_from((0, 100, 4096)),
        at_once=st.booleans(),
    )
    def test_every_call_is_answered_to_h2(self, numbers: list[int], window: int, table: int, *, at_once: bool) -> None:
        client = H2Client(Peer(handshake=b""), table=table)
        client.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        client.exchange()
        asked = {}
        for number in numbers:
            asked[client.call(CONTENTS[number])] = CONTENTS[number]
            if not at_once:
                client.exchange()
        client.exchange()
        client.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
        client.http.increment_flow_control_window(2**24)
        client.exchange()
        assert client.bodies == {stream_id: message(content) for stream_id, content in asked.items()}
        assert set(client.statuses.values()) == {b"0"}
        assert client.ended == set(asked)


def test_the_quick_ways_and_the_slow_one_give_the_same_answers() -> None:
    contents = {5 + 2 * number: bytes([number % 256]) * (number * 97 % 16_380) for number in range(300)}
    ways = {
        "whole": b"".join(call(each, content) for each, content in contents.items()),
        "apart": b"".join(map(headers, contents))
        + b"".join(data(each, message(content), end=True) for each, content in contents.items()),
        # no first DATA frame is the whole message
        "slow": b"".join(
            headers(each) + data(each, message(content)[:1]) + data(each, message(content)[1:], end=True)
            for each, content in contents.items()
        ),
    }
    heard_of = {}
    for way, said in ways.items():
        peer = Peer(quick=True)
        peer.say(http2.window_update(0, 2**30), said)
        assert peer.asked == list(contents.values()), way
        heard_of[way] = heard(peer.said).streams
    assert heard_of["whole"] == heard_of["apart"] == heard_of["slow"]
    assert {each: heard_of["slow"][each].message for each in contents} == contents
