"""Runs the PolicyTests of a set: which cases get the answer that they expect, and which do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.policy.asked_call import Directory
from authz.policy.evaluation import evaluate
from authz.policy.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.decision import Decision
    from authz.policy.asked_call import AskedCall
    from authz.policy.expectation import Expectation
    from authz.policy.index import PolicyIndex
    from authz.policy.policy_set import PolicySet


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What came of one case, and where the case stands."""

    test: str
    case: str
    path: str
    line: int
    column: int
    asked: AskedCall
    at_ns: int
    expected: Expectation
    answer: Decision

    @property
    def passed(self) -> bool:
        """Whether the answer has all that is expected of it."""
        return self.expected.is_met_by(self.answer)

    @property
    def got(self) -> str:
        """The answer in the words of an expectation."""
        policy = "" if self.answer.policy is None else f" by `{self.answer.policy}`"
        return f"{self.answer.verdict} {self.answer.reason}{policy}"


def run_policy_tests(policy_set: PolicySet, index: PolicyIndex, containing: str = "") -> Iterator[CaseResult]:
    """Run the cases whose `test / case` contains a text, in the order of tests' names and cases."""
    directory = directory_of(policy_set)
    for test in policy_set.policy_tests:
        document = policy_set.documents[(Kind.POLICY_TEST, test.name)]
        for number, case in enumerate(test.cases):
            if containing not in f"{test.name} / {case.name}":
                continue
            at_ns = test.now_ns if case.at_ns is None else case.at_ns
            node = document.node("spec", "cases", number)
            yield CaseResult(
                test=test.name,
                case=case.name,
                path=document.path,
                line=node.line,
                column=node.column,
                asked=case.call,
                at_ns=at_ns or 0,
                expected=case.expect,
                # A case without `at` stands in a test with `now`: the schema sees to it.
                answer=evaluate(index, directory.call(case.call), at_ns or 0),
            )


def directory_of(policy_set: PolicySet) -> Directory:
    """Give the names of a set, to look the `from` and `to` of asked calls up in."""
    return Directory(
        {service.name: service for service in policy_set.services},
        {third_party.name: third_party for third_party in policy_set.third_parties},
    )
