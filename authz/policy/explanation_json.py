"""An answer and its explanation as JSON objects, for the command line and for whoever else shows one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authz.instant import rfc3339_from_ns
from authz.policy.explained_remedy import remedy_of
from authz.policy.explanation import place_of
from authz.policy.schema import Kind

if TYPE_CHECKING:
    from authz.decision import Decision
    from authz.policy.compared_rule import ComparedRule
    from authz.policy.explained_ruling import Step
    from authz.policy.explanation import Explanation
    from authz.policy.policy_set import PolicySet


def answer(decision: Decision) -> dict[str, Any]:
    """Give an answer with the names of the contract."""
    shadow = decision.shadow
    until_ns = decision.valid_until_ns
    return {
        "decision": decision.verdict.value,
        "reason": decision.reason.value,
        "policy": decision.policy,
        "valid_until": None if until_ns is None else rfc3339_from_ns(until_ns),
        "revision": decision.revision,
        "shadow": None
        if shadow is None
        else {"decision": shadow.decision.value, "reason": shadow.reason.value, "policy": shadow.policy},
    }


def explanation_as_json(policy_set: PolicySet, explanation: Explanation) -> dict[str, Any]:
    """Give the steps and the nearest rules; the answer itself is said as everywhere else."""
    return {
        "at": rfc3339_from_ns(explanation.at_ns),
        "place": explanation.place,
        "steps": [_step(step) for step in explanation.steps],
        "if_enforced": None if explanation.if_enforced is None else _step(explanation.if_enforced),
        "then": None if explanation.then is None else _step(explanation.then),
        "to_allow": remedy_of(policy_set, explanation),
        "nearest": [_near(policy_set, rule) for rule in explanation.nearest],
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "step": step.number,
        "name": step.name,
        "found": step.found,
        "reason": None if step.reason is None else step.reason.value,
        "policy": step.policy,
    }


def _near(policy_set: PolicySet, compared: ComparedRule) -> dict[str, Any]:
    return {
        "policy": compared.rule.name,
        "place": place_of(policy_set, Kind.MICRO_POLICY, compared.rule.name),
        "lacks": [
            {"field": lack.field.value, "found": lack.found, "wanted": lack.wanted or None} for lack in compared.lacks
        ],
    }
