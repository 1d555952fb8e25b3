"""The vectors, told to the engine, to the reference and to the command line: all three give the expected answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz.cli.main import main
from authz.instant import rfc3339_from_ns
from authz.policy.asked_call_json import asked_call_from_json
from authz.policy.document import SourceFile
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from authz.policy.policy_test import directory_of
from tests.conformance.reference import reference_answer
from tests.conformance.vector_cases import VECTORS, Case, cases_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=VECTORS, ids=lambda path: path.stem)
def vector(request: pytest.FixtureRequest) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(request.param.read_text("utf-8"))
    assert list(cases_of(content))
    return content


def answer_of(case: Case, given: dict[str, Any]) -> dict[str, Any]:
    return {key: given[key] for key in case.expect}


def test_the_engine_answers_as_expected(vector: dict[str, Any]) -> None:
    policy_set = parse_policy_set([SourceFile("set.yaml", vector["set"].encode())])
    index, directory = compile_index(policy_set), directory_of(policy_set)
    for case in cases_of(vector):
        asked, at_ns = asked_call_from_json(case.line)
        assert at_ns is not None
        got = evaluate(index, directory.call(asked), at_ns)
        until_ns = got.valid_until_ns
        answer = {
            "decision": got.verdict.value,
            "reason": got.reason.value,
            "policy": got.policy,
            "valid_until": None if until_ns is None else rfc3339_from_ns(until_ns),
            "shadow": None
            if got.shadow is None
            else {
                "decision": got.shadow.decision.value,
                "reason": got.shadow.reason.value,
                "policy": got.shadow.policy,
            },
        }
        assert answer_of(case, answer) == case.expect, case.name


def test_the_reference_answers_as_expected(vector: dict[str, Any]) -> None:
    policy_set = parse_policy_set([SourceFile("set.yaml", vector["set"].encode())])
    directory = directory_of(policy_set)
    for case in cases_of(vector):
        asked, at_ns = asked_call_from_json(case.line)
        assert at_ns is not None
        got = reference_answer(policy_set, directory.call(asked), at_ns)
        answer = {
            "decision": got.decision,
            "reason": got.reason,
            "policy": got.policy,
            "valid_until": None if got.valid_until_ns is None else rfc3339_from_ns(got.valid_until_ns),
            "shadow": None
            if got.shadow is None
            else dict(zip(("decision", "reason", "policy"), got.shadow, strict=True)),
        }
        assert answer_of(case, answer) == case.expect, case.name


def test_the_command_line_answers_as_expected(
    vector: dict[str, Any], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "set.yaml").write_text(vector["set"], "utf-8")
    cases = list(cases_of(vector))
    (tmp_path / "calls").write_bytes(b"\n".join(case.line for case in cases))
    assert main(["check", "--policies", str(policies), "--calls", str(tmp_path / "calls")]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) == len(cases)
    for case, line in zip(cases, lines, strict=True):
        answer = json.loads(line)
        assert list(answer) == ["decision", "reason", "policy", "valid_until", "revision", "shadow"]
        assert answer_of(case, answer) == case.expect, case.name


def test_every_reason_of_this_version_has_a_vector() -> None:
    expected = {
        case.expect.get("reason") for path in VECTORS for case in cases_of(yaml.safe_load(path.read_text("utf-8")))
    }
    assert {
        "allowed", "observed", "guardrail",
        "malformed", "unidentified", "untrusted", "unknown_destination", "not_commissioned",
        "decommissioned", "not_yet_open", "outside_hours", "closed", "no_policy",
    } <= expected  # fmt: skip
