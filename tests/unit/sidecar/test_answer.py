from __future__ import annotations

import json

import pytest
from envoy.service.auth.v3 import external_auth_pb2

from authz.decision import Decision, Reason, Verdict
from authz.identity.spiffe_id import SpiffeId
from authz.request import Call, Direction
from authz.sidecar.check.answer import FAULT, answer_bytes
from authz.sidecar.check.prepared_answer import PreparedAnswers
from authz.sidecar.check.stream_deadline import StreamDeadline

CALLER = SpiffeId.parse("spiffe://shop.example/ns/shop/sa/orders")


def call(direction: Direction = Direction.INBOUND, caller: SpiffeId | None = CALLER) -> Call:
    return Call(direction=direction, service="catalog", caller=caller, method="GET", path="/", host="catalog")


def answer(reason: Reason, asked: Call | None = None, *, is_grpc: bool = False) -> external_auth_pb2.CheckResponse:
    decision = Decision(reason=reason, policy="orders-read-catalog", revision="abc")
    data = answer_bytes(decision=decision, decision_id="d1", call=asked, is_grpc=is_grpc)
    return external_auth_pb2.CheckResponse.FromString(data)


def lets_through(response: external_auth_pb2.CheckResponse) -> bool:
    """Envoy's own rule: status 0 is an allow, whatever else the answer says."""
    return response.status.code == 0


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("asked", [call(), call(Direction.OUTBOUND), call(caller=None), None])
def test_envoy_lets_through_only_what_was_allowed(reason: Reason, asked: Call | None) -> None:
    response = answer(reason, asked)
    assert lets_through(response) == (reason.verdict is Verdict.ALLOW and asked is not None)
    assert response.WhichOneof("http_response") == ("ok_response" if lets_through(response) else "denied_response")


@pytest.mark.parametrize("reason", list(Reason))
def test_no_answer_is_empty(reason: Reason) -> None:
    decision = Decision(reason=reason, policy=None, revision="")
    for asked in (call(), call(Direction.OUTBOUND), None):
        assert answer_bytes(decision=decision, decision_id="", call=asked) != b""


def test_the_fault_answer_is_a_deny_with_503() -> None:
    response = external_auth_pb2.CheckResponse.FromString(FAULT)
    assert not lets_through(response)
    assert response.denied_response.status.code == 503


@pytest.mark.parametrize(
    ("reason", "http_status", "grpc_status"),
    [
        (Reason.MALFORMED, 400, 3),
        (Reason.UNIDENTIFIED, 401, 16),
        (Reason.UNTRUSTED, 401, 16),
        (Reason.NO_POLICY, 403, 7),
        (Reason.CLOSED, 403, 7),
        (Reason.DECOMMISSIONED, 403, 7),
        (Reason.UNKNOWN_DESTINATION, 403, 7),
        (Reason.INTERNAL_ERROR, 503, 14),
        (Reason.OVERLOADED, 503, 14),
    ],
)
def test_each_denial_has_the_contracts_status(reason: Reason, http_status: int, grpc_status: int) -> None:
    response = answer(reason, call(), is_grpc=True)
    headers = {option.header.key: option.header.value for option in response.denied_response.headers}
    assert response.denied_response.status.code == http_status
    assert response.status.code == grpc_status
    assert headers["x-authz-reason"] == reason.value
    assert headers["x-authz-decision-id"] == "d1"
    assert ("www-authenticate" in headers) == (http_status == 401)
    assert headers.get("grpc-status") == ("3" if reason is Reason.MALFORMED else None)
    plain = answer(reason, call())
    assert "grpc-status" not in {option.header.key for option in plain.denied_response.headers}
    assert json.loads(response.denied_response.body) == {
        "error": "denied",
        "reason": reason.value,
        "decision_id": "d1",
    }


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.verdict is Verdict.DENY])
def test_a_denial_shows_no_policy_and_no_identity(reason: Reason) -> None:
    response = answer(reason, call())
    shown = response.denied_response.SerializeToString()
    assert b"orders-read-catalog" not in shown
    assert b"spiffe://" not in shown
    assert b"abc" not in shown


def test_the_app_learns_the_caller_on_inbound_only() -> None:
    (option,) = answer(Reason.ALLOWED, call()).ok_response.headers
    assert (option.header.key, option.header.value) == ("x-authz-caller", str(CALLER))
    assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD
    assert not answer(Reason.ALLOWED, call(Direction.OUTBOUND)).ok_response.headers


@pytest.mark.parametrize("reason", [Reason.ALLOWED, Reason.NO_POLICY])
def test_the_access_log_gets_the_decision_id_on_allow_and_deny(reason: Reason) -> None:
    metadata = answer(reason, call()).dynamic_metadata
    assert metadata["decision_id"] == "d1"
    assert metadata["reason"] == reason.value


@pytest.mark.parametrize(
    "deadline",
    [
        None,
        StreamDeadline(b"00005000m", Reason.CLOSED),
        StreamDeadline(b"00100800S", Reason.UNIDENTIFIED),
        StreamDeadline(b"00000001S", None),
    ],
)
@pytest.mark.parametrize("is_grpc", [False, True])
def test_an_answer_that_was_prepared_is_the_one_that_would_be_written(
    deadline: StreamDeadline | None,
    is_grpc: bool,  # noqa: FBT001
) -> None:
    prepared, asked, caller = PreparedAnswers(), call(), str(call().caller)
    decision = Decision(reason=Reason.ALLOWED, policy="p", revision="r")
    before = None if deadline is None else deadline._replace(timeout=b"00000007m")
    for decision_id, ends in (("1" * 32, before), ("2" * 32, deadline)):
        written = answer_bytes(decision=decision, decision_id=decision_id, call=asked, is_grpc=is_grpc, deadline=ends)
        given = prepared.answer(
            decision=decision,
            decision_id=decision_id.encode(),
            call=asked,
            caller=caller,
            is_grpc=is_grpc,
            deadline=ends,
        )
        read = external_auth_pb2.CheckResponse.FromString
        assert read(given) == read(written)
        assert len(given) == len(written)
