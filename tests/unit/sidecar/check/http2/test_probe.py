"""How long a peer waits for us, measured by a PING that its answers to come behind all that it had sent."""

from __future__ import annotations

from authz.sidecar.check.http2.limits import PROBE_PATIENCE_S
from authz.sidecar.check.http2.session import PROBE_PING
from tests.support.http2_frames import ping
from tests.support.http2_peer import Peer

ANSWERED = ping(PROBE_PING, ack=True)


def test_a_probe_takes_as_long_as_its_answer_and_grows_until_then() -> None:
    peer = Peer(quick=True)
    assert peer.connection.probe() == ping(PROBE_PING)
    peer.now_s += 0.25
    assert peer.connection.lag_s == 0.25
    assert peer.connection.probe() == b"", "one is on its way"
    peer.now_s += 0.25
    peer.say(ANSWERED)
    assert peer.connection.lag_s == 0.5
    peer.now_s += 1.0
    assert peer.connection.lag_s == 0.5


def test_who_has_asked_nothing_since_is_not_probed_and_waits_for_nothing() -> None:
    peer = Peer(quick=True)
    peer.connection.probe()
    peer.now_s += 0.5
    peer.say(ANSWERED)
    assert peer.connection.probe() == b""
    assert peer.connection.lag_s == 0.0


def test_a_peer_that_never_answers_says_nothing_about_how_long_it_waits() -> None:
    peer = Peer(quick=True)
    peer.connection.probe()
    peer.now_s += PROBE_PATIENCE_S
    assert peer.connection.lag_s == 0.0


def test_an_answer_that_nobody_asked_for_measures_nothing() -> None:
    peer = Peer(quick=True)
    peer.say(ANSWERED)
    assert (peer.connection.lag_s, peer.heard.goaway) == (0.0, None)
