"""The laws of explanations."""

# ruff: noqa: S311 sets are made by chance from the seed that hypothesis chooses

from __future__ import annotations

from random import Random

from hypothesis import given, settings, strategies as st

from authz.decision import Reason
from authz.policy.evaluation import evaluate
from authz.policy.explanation import explain
from authz.policy.explanation_json import explanation_as_json
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from tests.support.generated_sets import GeneratedSet

SEEDS = st.integers(min_value=0, max_value=2**48)


class TestAgreement:
    """An explanation's answer is `evaluate`'s, and its last step comes to the same reason and policy by itself."""

    @settings(max_examples=200)
    @given(seed=SEEDS)
    def test_the_steps_lead_to_the_answer(self, seed: int) -> None:
        made = GeneratedSet(Random(seed))
        policy_set = parse_policy_set(made.files())
        index = compile_index(policy_set)
        for _ in range(15):
            call, now_ns = made.call(), made.now_ns()
            explanation = explain(policy_set, index, call, now_ns)
            decision = evaluate(index, call, now_ns)
            assert explanation.decision == decision
            *before, last = explanation.steps
            assert (last.reason, last.policy) == (decision.reason, decision.policy), (call, now_ns)
            assert all(step.reason is None for step in before)
            shadow, enforced, then = decision.shadow, explanation.if_enforced, explanation.then
            assert (shadow and (shadow.reason, shadow.policy)) == (enforced and (enforced.reason, enforced.policy))
            if decision.valid_until_ns is None:
                assert then is None
            else:
                later = evaluate(index, call, decision.valid_until_ns)
                assert later.verdict is not decision.verdict
                assert then is not None
                assert (then.reason, then.policy) == (later.reason, later.policy)
            assert (explanation.place is None) == (decision.policy is None)
            assert all(rule.lacks for rule in explanation.nearest)
            assert not explanation.nearest or decision.reason is not Reason.ALLOWED
            assert explanation_as_json(policy_set, explanation)["steps"]
