"""How a call went on to a third party stands in its record and its flow, where its end told of it in time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from authz.decision import Decision, Reason
from authz.records.call_end import CallEnd
from authz.records.flow_sums import FlowSums
from authz.records.record_lines import RecordLines
from authz.request import Call, Direction
from tests.support.decision_record import DecisionRecord, WireFacts, packed

TLS = ("TLSv1_3", "TLS_AES_256_GCM_SHA384")
OTHER = ("TLSv1_2", "ECDHE-RSA-AES128-GCM-SHA256")
CALL = Call(direction=Direction.OUTBOUND, service="orders", caller=None, method="GET", path="/", host="api.example")
DECISION = Decision(
    reason=Reason.ALLOWED, policy="p", revision="r", valid_until_ns=None, destination_third_party="acme"
)
RECORD = DecisionRecord(
    decision_id="d" * 32,
    time_ns=1_780_000_000_123_999_999,
    sidecar="orders",
    call=CALL,
    decision=DECISION,
    wire=WireFacts(request_id="q", protocol="http/1.1", tls_version=None, tls_cipher=None, peer_serial=None),
    check_us=12,
)


def end(tls: tuple[str, str] | None) -> CallEnd:
    return CallEnd(RECORD.time_ns + 5000, 5, 200, 1, 2, tls=tls)


def test_a_line_has_the_tls_of_its_own_call_and_is_else_the_same() -> None:
    lines = RecordLines("orders")
    recorded = lines.read(packed(RECORD))
    plain = lines.text(recorded, end(None))
    for tls in (TLS, OTHER, TLS):
        written = lines.text(recorded, end(tls))
        assert json.loads(written)["tls"] == {"version": tls[0], "cipher": tls[1], "peer_serial": None}
        assert {**json.loads(written), "tls": None} == {**json.loads(plain), "tls": None}
    assert json.loads(lines.text(recorded, end(None)))["tls"]["version"] is None


def test_calls_by_different_tls_are_different_flows() -> None:
    lines, sums = RecordLines("orders"), FlowSums("orders")
    recorded = lines.read(packed(RECORD))
    for tls in (TLS, OTHER, TLS):
        key = sums.key(lines.encrypted(recorded.kind, tls), recorded.address)
        sums.decided(key, recorded.time_ns, 12)
    assert {(flow.key.tls.version, flow.key.tls.cipher): flow.count for flow in sums.flows(None)} == {TLS: 2, OTHER: 1}


@pytest.mark.parametrize(
    "record",
    [
        replace(RECORD, decision=DECISION._replace(destination_third_party=None, destination_service="catalog")),
        replace(RECORD, call=replace(CALL, direction=Direction.INBOUND, service="orders")),
        replace(RECORD, wire=replace(RECORD.wire, tls_version="TLSv1_3", tls_cipher="C")),
    ],
)
def test_only_a_call_that_went_out_to_a_third_party_has_it(record: DecisionRecord) -> None:
    lines = RecordLines("orders")
    recorded = lines.read(packed(record))
    assert lines.encrypted(recorded.kind, OTHER) is recorded.kind


def test_however_many_ciphers_are_told_few_are_kept() -> None:
    lines = RecordLines("orders")
    kind = lines.read(packed(RECORD)).kind
    for number in range(100):
        lines.encrypted(kind, ("TLSv1_3", f"C{number}"))
    assert len(kind.encrypted) <= 8
