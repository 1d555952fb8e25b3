"""Floods end with GOAWAY and ENHANCE_YOUR_CALM before they cost much; what an honest peer does in a burst does not."""

from __future__ import annotations

import pytest

from authz.sidecar.check.http2.limits import (
    CONTROL_FRAMES,
    EMPTY_FRAMES,
    MAX_CONTINUATIONS,
    MAX_RESET_STREAMS,
    MAX_STREAMS,
    RESETS,
    WINDOW_UPDATES,
    Allowance,
    Budget,
)
from tests.support.http2_frames import (
    CONTINUATION,
    HEADERS,
    PRIORITY,
    SETTINGS_ACK,
    Frame,
    block,
    call,
    data,
    grpc_fields,
    headers,
    ping,
    rst_stream,
    settings,
    window_update,
)
from tests.support.http2_peer import Peer

CALM = 11


@pytest.mark.parametrize(
    ("cve", "flood", "burst"),
    [
        ("CVE-2019-9512 PING", ping(), CONTROL_FRAMES.burst),
        ("CVE-2019-9515 SETTINGS", settings(), CONTROL_FRAMES.burst),
        ("CVE-2019-9513 PRIORITY", bytes(Frame(PRIORITY, 0, 9, bytes(5))), CONTROL_FRAMES.burst),
        ("answers to no PING", ping(ack=True), CONTROL_FRAMES.burst),
        ("frames of no type", bytes(Frame(0xEE, 0, 0)), CONTROL_FRAMES.burst),
        ("GOAWAY", bytes(Frame(7, 0, 0, bytes(8))), CONTROL_FRAMES.burst),
        ("CVE-2019-9511 WINDOW_UPDATE", window_update(0, 1), WINDOW_UPDATES.burst),
        ("WINDOW_UPDATE of a closed stream", window_update(1, 1), WINDOW_UPDATES.burst),
        ("CVE-2019-9518 empty DATA", data(5, b""), EMPTY_FRAMES.burst),
        ("empty DATA that is padded", bytes(Frame(0, 8, 5, b"\x05" + bytes(5))), EMPTY_FRAMES.burst),
        ("RST_STREAM of one stream", rst_stream(1), RESETS.burst),
    ],
)
def test_a_flood_is_ended(cve: str, flood: bytes, burst: int) -> None:
    peer = Peer(quick=True)
    peer.say(headers(5), flood * (burst // 2))
    assert peer.heard.goaway is None, cve
    said = len(peer.said)
    peer.say(flood * (burst * 2))
    assert peer.heard.goaway == CALM, cve
    assert peer.connection.finished
    assert len(peer.said) - said < burst * 20


def test_rapid_resets_are_ended() -> None:
    # CVE-2023-44487: streams that are reset before they count
    peer = Peer(quick=True)
    opened = b"".join(headers(each) + rst_stream(each) for each in range(5, 5 + 4 * RESETS.burst, 2))
    peer.say(opened)
    assert peer.heard.goaway == CALM
    assert len(peer.connection._streams.open) <= 1
    assert not peer.asked


def test_resets_that_we_are_made_to_send_are_ended() -> None:
    # CVE-2025-8671: each stream is opened well, and then broken
    peer = Peer(quick=True)
    opened = b"".join(headers(each) + window_update(each, 2**31 - 1) for each in range(5, 5 + 4 * RESETS.burst, 2))
    peer.say(opened)
    assert peer.heard.goaway == CALM
    assert len(peer.connection._streams._reset) <= MAX_RESET_STREAMS


def test_malformed_requests_without_end_are_ended() -> None:
    peer = Peer(quick=True)
    wrong = block(grpc_fields("/x", ("connection", "x")))
    peer.say(b"".join(headers(each, raw=wrong) for each in range(5, 5 + 4 * RESETS.burst, 2)))
    assert peer.heard.goaway == CALM
    assert len(peer.connection._streams._reset) <= MAX_RESET_STREAMS


def test_a_proxy_whose_calls_all_run_out_of_time_is_no_flood() -> None:
    # Envoy, 0.2 s: all its streams are reset, five times a second, for as long as it lasts
    peer = Peer(quick=True)
    next_id = 5
    for _ in range(20):
        ids = range(next_id, next_id + 2 * MAX_STREAMS, 2)
        next_id = ids.stop
        peer.say(b"".join(map(headers, ids)), b"".join(map(rst_stream, ids)))
        peer.now_s += 0.2
    assert not peer.heard.goaways


def test_a_client_that_pings_and_opens_windows_with_every_call_is_no_flood() -> None:
    # Go's estimates the bandwidth by a PING behind each answer
    peer = Peer(quick=True)
    said = [
        call(each, b"x") + ping() + window_update(0, 10) + window_update(each, 10)
        for each in range(5, 5 + 2 * 10_000, 2)
    ]
    peer.say(b"".join(said))
    assert len(peer.asked) == 10_000
    assert not peer.heard.goaways


def test_a_continuation_flood_is_ended_early() -> None:
    # CVE-2024-28182, CVE-2023-45288: a header block without end
    for payload in (b"", bytes(16_000)):
        peer = Peer(quick=True)
        peer.say(bytes(Frame(HEADERS, 0, 5, block(grpc_fields())[:10])))
        peer.say(bytes(Frame(CONTINUATION, 0, 5, payload)) * (MAX_CONTINUATIONS + 1))
        assert peer.heard.goaway == CALM


def test_headers_of_no_length_are_malformed_and_not_kept() -> None:
    # CVE-2019-9516
    peer = Peer(quick=True)
    peer.say(headers(5, raw=block(grpc_fields()) + b"\x00\x00\x00" * 100))
    assert peer.of(5).reset == 1
    assert peer.say(headers(7, raw=block(grpc_fields()) + b"\x00\x00\x00" * 1000)).goaway == CALM


def test_a_second_acknowledgement_is_an_error_and_no_flood() -> None:
    assert Peer().say(SETTINGS_ACK * 2).goaway == 1


def test_what_is_made_of_one_read_is_handed_over_in_parts() -> None:
    # a peer that does not read cannot make us answer everything that it has sent
    peer = Peer(quick=True, echo=lambda _message: bytes(10_000))
    peer.say(settings({4: 2**30}), window_update(0, 2**30))
    said = peer.connection.receive(b"".join(call(each, b"x") for each in range(5, 5 + 2 * 1000, 2)))
    assert len(said) < 300_000
    assert peer.connection.held
    assert len(peer.asked) < 30
    peer.say(b"")
    assert len(peer.asked) == 1000
    assert not peer.connection.held


def test_a_budget_fills_again_by_time_and_by_calls_and_never_beyond_its_burst() -> None:
    budget = Budget(Allowance(burst=2, per_second=10, per_call=1), 0.0)
    assert [budget.spend(0.0, 0) for _ in range(3)] == [True, True, False]
    budget = Budget(Allowance(burst=2, per_second=10, per_call=1), 0.0)
    assert [budget.spend(100.0, 100) for _ in range(3)] == [True, True, False]
    budget = Budget(Allowance(burst=1, per_second=10, per_call=1), 0.0)
    assert budget.spend(0.0, 0)
    assert budget.spend(0.1, 0)
    assert budget.spend(0.1, 1)
    assert not budget.spend(0.1, 1)
