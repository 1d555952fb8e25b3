from __future__ import annotations

import json

from hypothesis import given, strategies as st

from authz.decision import Decision, Reason, Shadow, Verdict
from authz.identity.spiffe_id import SpiffeId
from authz.records.record_lines import RecordLines
from authz.request import Call, Direction
from tests.support.decision_record import DecisionRecord, WireFacts, packed

KEYS = {
    "decision_id", "request_id", "time", "sidecar", "direction", "caller", "destination", "method", "route", "path",
    "protocol", "decision", "reason", "policy", "shadow", "revision", "valid_until", "tls", "check_us", "status",
    "bytes_received", "bytes_sent", "duration_ms", "cut",
}  # fmt: skip


def line(
    *,
    reason: Reason = Reason.NO_POLICY,
    route: str | None = None,
    path: str = "/items/42?token=secret",
    host: str = "catalog",
    method: str = "GET",
    shadow: Shadow | None = None,
    presenter: SpiffeId | None = None,
) -> bytes:
    """Give the line that the running program writes, which is the plainest one as well."""
    record = DecisionRecord(
        decision_id="d" * 32,
        time_ns=1_780_000_000_123_999_999,
        sidecar="catalog",
        call=Call(
            direction=Direction.INBOUND,
            service="catalog",
            caller=SpiffeId.parse("spiffe://shop.example/orders"),
            method=method,
            path=path,
            host=host,
            address="127.0.0.1:4",
            presenter=presenter,
        ),
        decision=Decision(
            reason=reason,
            policy=None,
            revision="r",
            valid_until_ns=1_780_000_001_000_000_000,
            shadow=shadow,
            caller_service="orders",
            destination_service="catalog",
            route=route,
        ),
        wire=WireFacts(request_id="q", protocol="http/2", tls_version="TLSv1_3", tls_cipher="C", peer_serial="0a"),
        check_us=12,
    )
    written = RecordLines("catalog").line(packed(record))
    assert written == record.json_line()
    return written


def test_a_record_has_the_contracts_keys_and_no_others() -> None:
    written = json.loads(line())
    assert set(written) == KEYS
    assert set(written["caller"]) == {"identity", "service", "third_party", "presented_by", "address"}
    assert set(written["destination"]) == {"service", "third_party", "host"}
    assert set(written["tls"]) == {"version", "cipher", "peer_serial"}
    assert written["time"] == "2026-05-28T20:26:40.123Z"
    assert written["valid_until"] == "2026-05-28T20:26:41.000Z"


def test_the_query_is_never_written() -> None:
    assert b"secret" not in line()


def test_an_allowed_call_with_a_route_keeps_no_path() -> None:
    assert json.loads(line(reason=Reason.ALLOWED, route="/items/{id}"))["path"] is None
    assert json.loads(line(reason=Reason.ALLOWED, route=None))["path"] == "/items/42"
    assert json.loads(line(reason=Reason.CLOSED, route="/items/{id}"))["path"] == "/items/42"


def test_a_shadow_is_written_whole() -> None:
    shadow = Shadow(decision=Verdict.DENY, reason=Reason.NO_POLICY, policy=None)
    assert json.loads(line(shadow=shadow))["shadow"] == {
        "decision": "deny",
        "reason": "no_policy",
        "policy": None,
    }


def test_the_presenter_of_a_token_is_named_beside_its_subject() -> None:
    assert json.loads(line())["caller"]["presented_by"] is None
    gateway = SpiffeId.parse("spiffe://shop.example/gateway")
    caller = json.loads(line(presenter=gateway))["caller"]
    assert (caller["identity"], caller["presented_by"]) == ("spiffe://shop.example/orders", str(gateway))


@given(st.text(), st.text(), st.text())
def test_any_call_is_one_line_of_json_of_bounded_length(path: str, host: str, method: str) -> None:
    written = line(path=path, host=host, method=method)
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert len(json.loads(written)["path"]) <= 256
    # a character is at most 12 bytes in JSON's ASCII form
    assert len(written) < 1024 + 12 * (256 + 260 + 64)
