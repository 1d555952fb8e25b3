"""The record of a call that was cut: a decision's second one, with its end."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, strategies as st

from authz.decision import Reason
from authz.identity.spiffe_id import SpiffeId
from authz.insight.attempt import attempt_of_line
from authz.records.cut_call import CutCall, cut_line
from authz.request import Direction
from tests.unit.records.test_decision_record import KEYS

ORDERS = SpiffeId.parse("spiffe://shop.example/orders")
CALL = CutCall(
    decision_id="0f" * 16,
    request_id="r-1",
    direction=Direction.INBOUND,
    ended_ns=1_780_000_000_123_999_999,
    duration_ns=5_207_799_400,
    reason=Reason.CLOSED,
    policy="timed",
    caller=ORDERS,
    presenter=None,
    address="192.0.2.7:40123",
    service=None,
    third_party=None,
    host="catalog",
    method="GET",
    path="/items/1?token=secret",
    protocol="http/2",
    tls_version="TLSv1_3",
    tls_cipher="TLS_AES_128_GCM_SHA256",
    serial="64b4",
    status=200,
    received_bytes=11,
    sent_bytes=770,
)


def line(call: CutCall) -> bytes:
    return cut_line(call, sidecar="catalog", revision="r")


def test_it_has_the_keys_of_a_decision_record() -> None:
    written = json.loads(line(CALL))
    assert set(written) == KEYS
    assert set(written["caller"]) == {"identity", "service", "third_party", "presented_by", "address"}
    assert set(written["destination"]) == {"service", "third_party", "host"}
    assert set(written["tls"]) == {"version", "cipher", "peer_serial"}


def test_it_says_that_the_call_was_cut_and_what_had_gone_through() -> None:
    written = json.loads(line(CALL))
    assert (written["cut"], written["decision"], written["reason"], written["policy"]) == (
        True, "deny", "closed", "timed",
    )  # fmt: skip
    assert (written["status"], written["bytes_received"], written["bytes_sent"]) == (200, 11, 770)
    assert (written["duration_ms"], written["time"]) == (5207.799, "2026-05-28T20:26:40.123Z")
    assert (written["decision_id"], written["request_id"]) == ("0f" * 16, "r-1")


def test_it_never_has_a_query() -> None:
    assert json.loads(line(CALL))["path"] == "/items/1"


def test_a_workload_is_the_caller_of_what_leaves_it_and_the_destination_of_what_arrives() -> None:
    arrived = json.loads(line(CALL))
    assert (arrived["caller"]["service"], arrived["destination"]["service"]) == (None, "catalog")
    left = json.loads(line(replace(CALL, direction=Direction.OUTBOUND, service="payments")))
    assert (left["caller"]["service"], left["destination"]["service"]) == ("catalog", "payments")


def test_it_is_no_attempt_on_a_window_that_has_closed() -> None:
    written = line(CALL)
    assert attempt_of_line(written) is None
    assert attempt_of_line(written.replace(b'"cut":true', b'"cut":false')) is not None


WILD = st.text(max_size=600) | st.text(alphabet='\x00\n\r"\\\x1b\u2028é😀', max_size=900)


class TestWhateverACallerSent:
    @given(text=WILD)
    def test_stays_within_one_short_line_of_printable_ascii(self, text: str) -> None:
        written = line(
            replace(CALL, request_id=text, policy=text, address=text, host=text, method=text, path=text, serial=text)
        )
        assert written.endswith(b"\n")
        assert all(0x20 <= byte < 0x7F for byte in written[:-1])
        assert len(written) < 16 * 1024
        assert text.partition("?")[0].startswith(json.loads(written)["path"])
