"""Which rules the PolicyTests try: those that decided at least one case, and those that none did.

A rule decides a case where the answer names it: it allowed the call, or it says why nothing did (`closed`, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.decision import Reason
from authz.policy.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.policy.policy_set import PolicySet
    from authz.policy.policy_test import CaseResult


@dataclass(frozen=True, slots=True, kw_only=True)
class UntriedRule:
    """A MicroPolicy or Guardrail that no case was decided by, and where it stands."""

    kind: Kind
    name: str
    path: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCoverage:
    """How many rules the set has, and which of them no case was decided by, sorted by name."""

    rules: int
    untried: tuple[UntriedRule, ...]

    @property
    def tried(self) -> int:
        """How many rules decided a case."""
        return self.rules - len(self.untried)


def rule_coverage(policy_set: PolicySet, results: Iterable[CaseResult]) -> RuleCoverage:
    """Give what the results of PolicyTests say of the set's MicroPolicies and Guardrails."""
    deciding = {(_kind(result.answer.reason), result.answer.policy) for result in results}
    rules = [
        *((Kind.MICRO_POLICY, rule.name) for rule in policy_set.micro_policies),
        *((Kind.GUARDRAIL, guardrail.name) for guardrail in policy_set.guardrails),
    ]
    untried = []
    for kind, name in rules:
        if (kind, name) not in deciding:
            document = policy_set.documents[kind, name]
            untried.append(UntriedRule(kind=kind, name=name, path=document.path, line=document.root.line))
    return RuleCoverage(rules=len(rules), untried=tuple(untried))


def _kind(reason: Reason) -> Kind:
    """Give the kind of the document that an answer of this reason names."""
    match reason:
        case Reason.GUARDRAIL:
            return Kind.GUARDRAIL
        case Reason.NOT_COMMISSIONED | Reason.DECOMMISSIONED:
            return Kind.THIRD_PARTY
        case _:
            return Kind.MICRO_POLICY
