"""Which allowed calls a worker hands to the hold, what it tells of them, and what it says when it is asked again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2

from authz.decision import Reason
from authz.policy.index import compile_index
from authz.records.record_lines import RecordLines
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.check.wire_headers import LONG_REQUEST_BYTES
from authz.sidecar.hold.verdict import Verdict
from authz.sidecar.in_force import InForce, PolicyInForce
from tests.support.certificates import NOW_NS, SPIFFE_ID, leaf, pem
from tests.support.check_request import check_request
from tests.support.policy_sets import document, parsed, service

CLOSES_NS = NOW_NS + 600 * 10**9
API = (
    "[{name: tail, methods: [GET], paths: ['/tail/{file}'], longLived: true}, {name: get, methods: [GET], paths: [/x]}]"
)
BASE = (
    document("Mesh", "m", "{trustDomains: [shop.example]}"),
    service("orders", SPIFFE_ID),
    service("catalog", more=f", api: {API}"),
)
ALL = document(
    "MicroPolicy",
    "all",
    "{from: [{services: [orders]}], to: [{services: [catalog], operations: all}],"
    " window: {opens: 2026-01-01T00:00:00Z, closes: 2026-06-01T12:10:00Z}}",
)
SET, WITHOUT = parsed(*BASE, ALL), parsed(*BASE)
CERTIFICATE = pem(leaf())
EVENTS = ("accept", b"text/html, Text/Event-Stream;q=0.5")


@dataclass(slots=True, kw_only=True)
class Worker:
    """The checker of a worker whose hold takes what it is told, or does not."""

    takes: bool = True
    holds: bool = True
    records: list[bytes] = field(default_factory=list)
    held: list[tuple[bytes, int | None, bytes]] = field(default_factory=list)
    in_force: InForce = field(default_factory=InForce)
    checker: Checker = field(init=False)

    def __post_init__(self) -> None:
        self.in_force.policy = PolicyInForce(index=compile_index(SET))
        self.checker = Checker(
            workload=Workload(service="catalog", identity=lambda: None),
            in_force=self.in_force,
            record=lambda packed: self.records.append(packed) is None,
            hold=self._take if self.holds else None,
            clock=lambda: NOW_NS,
        )

    def _take(self, decision_id: bytes, checked_ns: int, ends_ns: int | None, message: bytes) -> bool:
        assert checked_ns > 0
        if self.takes:
            self.held.append((decision_id, ends_ns, message))
        return self.takes

    def answer(self, message: bytes) -> external_auth_pb2.CheckResponse:
        return external_auth_pb2.CheckResponse.FromString(self.checker.answer(message))

    def reasons(self) -> list[str]:
        lines = RecordLines("catalog")
        return [json.loads(lines.line(packed))["reason"] for packed in self.records]


def check(*headers: tuple[str, bytes], **other: Any) -> bytes:
    other.setdefault("certificate_pem", CERTIFICATE)
    return check_request(headers=(*headers, ("x-request-id", b"r" * 36)), **other).SerializeToString()


def hold_header(answer: external_auth_pb2.CheckResponse) -> list[str]:
    return [each.header.value for each in answer.ok_response.headers if each.header.key == "x-authz-hold"]


H2 = {"protocol": "HTTP/2"}
LAST = {
    "events": check(EVENTS),
    "events that another accept would hide": check(EVENTS, ("accept", b"*/*")),
    "a WebSocket": check(("upgrade", b"websocket")),
    "another upgrade": check(("upgrade", b"something")),
    "gRPC": check(("content-type", b"application/grpc+proto"), ("te", b"trailers"), method="POST", **H2),
    "gRPC-Web": check(("content-type", b"application/grpc-web+proto"), ("content-length", b"5"), method="POST"),
    "a Connect stream": check(("content-type", b"application/connect+json"), ("content-length", b"5"), method="POST"),
    "an upload of unknown length": check(("transfer-encoding", b"chunked"), method="POST"),
    "an upload of unknown length by GET": check(("transfer-encoding", b"chunked")),
    "an upload of unknown length over HTTP/2": check(method="PUT", **H2),
    "an upload of no readable length": check(("content-length", b"5, 5"), method="PUT"),
    "a long upload": check(("content-length", b"%d" % (LONG_REQUEST_BYTES + 1)), method="POST"),
    "an operation that is long-lived": check(path="/tail/log"),
}
DO_NOT = {
    "a GET": check(),
    "a GET over HTTP/2": check(("accept", b"*/*"), **H2),
    "a POST without a body": check(method="POST"),
    "a POST with a short body": check(("content-length", b"%d" % LONG_REQUEST_BYTES), method="POST", **H2),
    "a DELETE over HTTP/2": check(method="DELETE", **H2),
    "an operation that is not long-lived": check(path="/x"),
    "another method on the path of one that is": check(path="/tail/log", method="HEAD"),
}


@pytest.mark.parametrize("kind", LAST)
def test_a_call_that_may_last_is_handed_to_the_hold_with_its_check_and_its_end(kind: str) -> None:
    worker = Worker()
    # From the second on the answer is a settled one.
    for number in range(4):
        answer = worker.answer(LAST[kind])
        decision_id = answer.dynamic_metadata["decision_id"]
        assert hold_header(answer) == [decision_id]
        assert answer.dynamic_metadata["held"] == "yes"
        assert worker.held[number] == (decision_id.encode(), CLOSES_NS, LAST[kind])
    assert worker.reasons() == ["allowed"] * 4


@pytest.mark.parametrize("kind", DO_NOT)
def test_a_short_call_is_none_of_the_holds_business(kind: str) -> None:
    worker = Worker()
    for _ in range(4):
        answer = worker.answer(DO_NOT[kind])
        assert answer.HasField("ok_response")
        assert hold_header(answer) == []
        assert "held" not in answer.dynamic_metadata
    assert worker.held == []


def test_a_call_that_is_refused_is_not_held() -> None:
    worker = Worker()
    assert hold_header(worker.answer(check(EVENTS, certificate_pem=b""))) == []
    assert worker.held == []


def test_where_there_is_no_hold_nothing_is_said_of_one() -> None:
    worker = Worker(holds=False)
    answer = worker.answer(LAST["events"])
    assert answer.HasField("ok_response")
    assert hold_header(answer) == []


def test_a_call_that_the_hold_does_not_take_is_denied() -> None:
    worker = Worker()
    for _ in range(3):
        assert worker.answer(LAST["events"]).HasField("ok_response")
    worker.takes = False
    for asked in (LAST["events"], LAST["a WebSocket"]):
        denied = worker.answer(asked)
        assert denied.denied_response.status.code == 503
        assert hold_header(denied) == []
    assert worker.reasons() == ["allowed"] * 3 + ["overloaded"] * 2
    assert worker.answer(DO_NOT["a GET"]).HasField("ok_response")


def test_a_recheck_says_what_the_call_would_get_now_and_leaves_no_record() -> None:
    worker = Worker()
    asked = LAST["events"]
    assert worker.checker.recheck(asked) == Verdict(reason=Reason.ALLOWED, ends_ns=CLOSES_NS, then=Reason.CLOSED)
    worker.in_force.policy = PolicyInForce(index=compile_index(WITHOUT))
    assert worker.checker.recheck(asked) == Verdict(reason=Reason.NO_POLICY)
    worker.in_force.policy = PolicyInForce()
    assert worker.checker.recheck(asked) == Verdict(reason=Reason.INTERNAL_ERROR)
    assert (worker.records, worker.held) == ([], [])


def test_a_recheck_of_what_is_no_check_is_a_refusal() -> None:
    assert Worker().checker.recheck(b"\xff") == Verdict(reason=Reason.INTERNAL_ERROR)


def test_a_call_by_the_chain_of_held_calls_is_held_whatever_it_is() -> None:
    worker = Worker()
    message = check(extensions={"held": "all"})
    assert hold_header(worker.answer(message)) == [worker.held[0][0].decode()]
    refused = worker.answer(check(extensions={"held": "some"}))
    assert refused.dynamic_metadata["reason"] == "internal_error"


@pytest.mark.parametrize(
    ("when", "held"),
    [
        ("request.headers['x-tier'] == 'gold'", "yes"),
        ("!('x-tier' in request.headers)", "yes"),
        ("request.path == '/x'", None),
    ],
)
def test_what_a_condition_on_headers_had_a_say_in_is_held(when: str, held: str | None) -> None:
    worker = Worker()
    conditional = document(
        "MicroPolicy",
        "all",
        '{from: [{services: [orders]}], to: [{services: [catalog], operations: all}], when: ["' + when + '"]}',
    )
    worker.in_force.policy = PolicyInForce(index=compile_index(parsed(*BASE, conditional)))
    answer = worker.answer(check(*([("x-tier", b"gold")] if "gold" in when else []), path="/x"))
    assert answer.HasField("ok_response")
    assert dict(answer.dynamic_metadata).get("held") == held
    assert len(hold_header(answer)) == (held is not None)


def test_a_condition_on_headers_of_another_call_has_no_call_held() -> None:
    worker = Worker()
    other = document(
        "MicroPolicy",
        "other",
        "{from: [{services: [orders]}], to: [{services: [catalog], operations: [{methods: [GET], paths: [/other]}]}],"
        " when: [\"request.headers['x-tier'] == 'gold'\"]}",
    )
    worker.in_force.policy = PolicyInForce(index=compile_index(parsed(*BASE, ALL, other)))
    assert hold_header(worker.answer(check(path="/x"))) == []
