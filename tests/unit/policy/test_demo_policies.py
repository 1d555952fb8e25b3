"""The policies of the demo: right, covered by their tests, and without a finding at the time they are about."""

from __future__ import annotations

from pathlib import Path

from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.lint import lint
from authz.policy.policy_test import directory_of, run_policy_tests
from authz.policy.window import parse_instant_ns
from authz.policy_folder import load_policy_folder

POLICIES = load_policy_folder(str(Path(__file__).parents[3] / "policies"))


def test_every_case_holds() -> None:
    results = list(run_policy_tests(POLICIES, compile_index(POLICIES)))
    assert results
    assert [f"{each.case}: {each.got}" for each in results if not each.passed] == []


def test_nothing_is_doubtful_while_the_partner_is_commissioned() -> None:
    assert [str(each) for each in lint(POLICIES, now_ns=parse_instant_ns("2026-06-01T00:00:00Z"))] == []


def test_every_rule_allows_a_call_of_some_test() -> None:
    index, directory = compile_index(POLICIES), directory_of(POLICIES)
    deciding = set()
    for test in POLICIES.policy_tests:
        for case in test.cases:
            at_ns = case.at_ns or test.now_ns or 0
            answer = evaluate(index, directory.call(case.call), at_ns)
            deciding |= {answer.policy} if answer.reason == "allowed" else set()
    assert deciding == {rule.name for rule in POLICIES.micro_policies}
