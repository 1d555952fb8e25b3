"""The vectors, asked of the ext_authz server over its socket: the same answers, and no word more than is to be seen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz.policy.asked_call_json import asked_call_from_json
from authz.policy.document import SourceFile
from authz.policy.policy_set import parse_policy_set
from authz.policy.policy_test import directory_of
from authz.sidecar.control.policy_follower import PolicyFollower
from tests.conformance.vector_cases import VECTORS, Case, cases_of
from tests.support.check_server import Answered, CheckServer, NotAskable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from authz.request import Call

#: vector / case -> why no CheckRequest can hold the call. What is added here is asked of nobody but the engine.
NOT_ASKED = {
    "windows / without a beginning": "no certificate is valid at this instant",  # the year 1
    "windows / long after": "no certificate is valid at this instant",  # in the last second of 9999
    **dict.fromkeys(
        (
            "certificates / it is its third party",
            "certificates / with its attributes",
            "certificates / an operation that may last long",
            "certificates / no identity pattern is about it",
            "certificates / conditions see no identity",
            "certificates / a guardrail is about it",
            "certificates / before its window",
            "certificates / after its window",
            "certificates / patterns beside certificates",
            "certificates / it is malformed all the same",
            "certificates / a destination that no rule is about",
            "certificates / a certificate is no token",
            "certificates / and certificates",
        ),
        "the sidecar proves callers by their SVIDs alone",
    ),
}

#: the contract's: reason -> HTTP status of the deny, and of every reason that is not named here
STATUS = {"malformed": 400, "unidentified": 401, "untrusted": 401, "internal_error": 503, "overloaded": 503}
FORBIDDEN = 403


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckServer]:
    with CheckServer(tmp_path_factory.mktemp("wire")) as running:
        yield running


def answers(server: CheckServer, vector: dict[str, Any], folder: Path) -> Iterator[tuple[Case, Call, Answered | str]]:
    """Ask every case of a vector, each at its instant; a text says why one cannot be asked."""
    folder.mkdir()
    (folder / "set.yaml").write_text(vector["set"], "utf-8")
    directory = directory_of(parse_policy_set([SourceFile("set.yaml", vector["set"].encode())]))
    follower = PolicyFollower(
        folder=str(folder), in_force=server.in_force, state=None, changed=lambda _: None, clock=server.clock
    )
    for case in cases_of(vector):
        asked, at_ns = asked_call_from_json(case.line)
        assert at_ns is not None
        call = directory.call(asked)
        server.now_ns = at_ns
        follower.load()  # hours are worked out for the weeks around the clock's time, as a sidecar does day by day
        assert not server.in_force.policy.faults
        try:
            yield case, call, server.ask(call, at_ns)
        except NotAskable as reason:
            yield case, call, str(reason)


@pytest.fixture(scope="module")
def all_answers(
    server: CheckServer, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, Case, Call, Answered | str]]:
    folder = tmp_path_factory.mktemp("policies")
    return [
        (f"{path.stem} / {case.name}", case, call, answered)
        for path in VECTORS
        for case, call, answered in answers(server, yaml.safe_load(path.read_text("utf-8")), folder / path.stem)
    ]


AllAnswers = list[tuple[str, Case, "Call", Answered | str]]


def asked(all_answers: AllAnswers) -> list[tuple[str, Case, Call, Answered]]:
    return [(name, case, call, each) for name, case, call, each in all_answers if isinstance(each, Answered)]


def test_what_cannot_be_asked_is_named_with_its_reason(all_answers: AllAnswers) -> None:
    not_asked = sorted((name, each) for name, _, _, each in all_answers if isinstance(each, str))
    assert not_asked == sorted(NOT_ASKED.items())


def test_the_server_records_the_answer_that_is_expected(all_answers: AllAnswers) -> None:
    for name, case, _, answered in asked(all_answers):
        got = {key: answered.record[key] for key in case.expect}
        assert got == case.expect, name


def test_the_server_tells_envoy_the_answer_that_is_expected(all_answers: AllAnswers) -> None:
    for name, case, _, answered in asked(all_answers):
        response, record = answered.response, answered.record
        told = {key: response.dynamic_metadata[key] for key in ("reason", "policy", "decision_id")}
        assert told == {
            "reason": case.expect.get("reason", record["reason"]),
            "policy": case.expect.get("policy", record["policy"]) or "",
            "decision_id": record["decision_id"],
        }, name
        allowed = record["decision"] == "allow"
        assert (response.status.code == 0) == allowed, name
        assert response.WhichOneof("http_response") == ("ok_response" if allowed else "denied_response"), name
        if not allowed:
            assert response.denied_response.status.code == STATUS.get(record["reason"], FORBIDDEN), name


def test_a_caller_that_is_refused_learns_the_reason_and_the_decisions_id_and_nothing_else(
    all_answers: AllAnswers,
) -> None:
    for name, _, call, answered in asked(all_answers):
        if answered.response.WhichOneof("http_response") == "ok_response":
            continue
        denied, reason = answered.response.denied_response, answered.record["reason"]
        decision_id = answered.record["decision_id"]
        expected = {
            "x-authz-reason": reason,
            "x-authz-decision-id": decision_id,
            "content-type": "application/json",
        }
        if reason in {"unidentified", "untrusted"}:
            expected["www-authenticate"] = "SPIFFE"
        if reason == "malformed" and is_grpc(call):
            expected["grpc-status"] = "3"
        assert {option.header.key: option.header.value for option in denied.headers} == expected, name
        assert json.loads(denied.body) == {"error": "denied", "reason": reason, "decision_id": decision_id}, name


def is_grpc(call: Call) -> bool:
    return any(name == "content-type" and value.startswith(b"application/grpc") for name, value in call.headers)


def test_the_app_learns_who_calls_and_nothing_else(all_answers: AllAnswers) -> None:
    for name, _, call, answered in asked(all_answers):
        if answered.response.WhichOneof("http_response") != "ok_response":
            continue
        given = [(option.header.key, option.header.value) for option in answered.response.ok_response.headers]
        # How long the call may run is for Envoy: it goes no further than to apps that speak gRPC.
        told = [(header, value) for header, value in given if header != "grpc-timeout"]
        assert len(given) - len(told) <= 1, name
        assert told == ([("x-authz-caller", str(call.caller))] if call.direction == "inbound" else []), name
        assert not answered.response.ok_response.headers_to_remove, name


def test_every_reason_of_this_version_is_given_over_the_wire_in_both_directions(all_answers: AllAnswers) -> None:
    given = {(each.record["reason"], each.record["direction"]) for _, _, _, each in asked(all_answers)}
    assert given == {
        (reason, direction)
        for direction in ("inbound", "outbound")
        for reason in (
            "allowed", "observed", "malformed", "unidentified", "untrusted", "unknown_destination", "guardrail",
            "not_commissioned", "decommissioned", "not_yet_open", "outside_hours", "closed", "no_policy",
        )
    }  # fmt: skip
