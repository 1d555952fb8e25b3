from __future__ import annotations

import json
from typing import Any

import pytest

from authz.decision import Reason
from authz.policy.asked_call import AskedCallError
from authz.policy.policy_test import directory_of
from authz.policy.recorded_call import RecordedCall, recorded_call_from_json
from authz.records.failed_handshake import FailedHandshake, handshake_line
from tests.support.policy_sets import MIXED, parsed

DIRECTORIES = [directory_of(parsed(*MIXED))]
RECORD: dict[str, Any] = {
    "decision_id": "1",
    "time": "2026-06-01T00:00:00.000Z",
    "direction": "inbound",
    "destination": {"service": "catalog", "third_party": None, "host": "catalog"},
    "method": "GET",
    "route": "/x",
}


def read(caller: dict[str, Any]) -> RecordedCall:
    recorded = recorded_call_from_json(json.dumps({**RECORD, "caller": caller}).encode(), DIRECTORIES, 0)
    assert recorded is not None
    return recorded


def test_a_call_that_another_workload_presented_is_made_again_as_presented() -> None:
    subject, gateway = "spiffe://shop.example/a", "spiffe://shop.example/gateway"
    call = read({"identity": subject, "service": "a", "presented_by": gateway}).call
    assert (str(call.caller), str(call.presenter), call.third_party) == (subject, gateway, None)


def test_a_call_that_a_certificate_proved_is_made_again_as_its_third_partys() -> None:
    recorded = read({"identity": None, "service": None, "third_party": "psp", "presented_by": None})
    assert (recorded.call.caller, recorded.call.presenter, recorded.call.third_party) == (None, None, "psp")
    assert recorded.caller == "psp"


def test_a_call_with_a_spiffe_id_is_not_proven_by_a_certificate() -> None:
    call = read({"identity": "spiffe://acme.example/a", "third_party": "acme"}).call
    assert (str(call.caller), call.third_party) == ("spiffe://acme.example/a", None)


def test_a_presenter_that_is_no_spiffe_id_is_refused() -> None:
    with pytest.raises(AskedCallError, match="nobody"):
        read({"identity": "spiffe://shop.example/a", "presented_by": "nobody"})


def test_a_handshake_that_failed_is_nobodys_call() -> None:
    handshake = FailedHandshake(time_ns=0, address="192.0.2.7:1", failure="no tls", reason=Reason.UNIDENTIFIED)
    line = handshake_line(handshake, decision_id="1", sidecar="catalog", revision="r")
    assert recorded_call_from_json(line, DIRECTORIES, 0) is None


def test_the_end_of_a_call_that_was_cut_is_no_second_call() -> None:
    assert recorded_call_from_json(json.dumps(RECORD | {"cut": True}).encode(), DIRECTORIES, 0) is None
    assert recorded_call_from_json(json.dumps(RECORD | {"cut": False}).encode(), DIRECTORIES, 0) is not None
