"""The laws of differences between two policy sets."""

# ruff: noqa: S311 sets are made by chance from the seed that hypothesis chooses

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given, settings, strategies as st

from authz.decision import Verdict
from authz.policy.difference import compare
from authz.policy.document import SourceFile
from authz.policy.errors import PolicySetFaults
from authz.policy.evaluation import evaluate
from authz.policy.index import PolicyIndex, compile_index
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.request import Call, Direction, TlsVersion
from tests.support.generated_sets import DAY_NS, GeneratedSet, as_yaml

SEEDS = st.integers(min_value=0, max_value=2**48)


def changed(made: GeneratedSet, random: Random) -> list[dict[str, Any]]:
    """Give the documents with one to three of them removed, altered, or taken from another set."""
    documents = deepcopy(made.documents)
    others = GeneratedSet(random, evidence=0).documents
    for _ in range(random.randint(1, 3)):
        number = random.randrange(1, len(documents))
        document = documents[number]
        same = [each for each in others if each["kind"] == document["kind"]]
        what = random.choice(("remove", "replace", "replace", "field", "field", "revoke", "domains"))
        if what == "remove" and len(documents) > 2:
            del documents[number]
        elif what == "replace" and same:
            documents[number] = {**random.choice(same), "metadata": document["metadata"]}
        elif what == "revoke":
            ids = [each for each in made.documents if each["kind"] == "Service"]
            found = [text for each in ids for text in each["spec"]["identities"] if "*" not in text]
            documents[0]["spec"]["revoked"] = found[:1] or ["spiffe://o.example/a"]
        elif what == "domains" and len(documents[0]["spec"]["trustDomains"]) > 1:
            documents[0]["spec"]["trustDomains"].pop()
        elif same:
            other = random.choice(same)["spec"]
            field = random.choice(sorted(other))
            document["spec"][field] = other[field]
    return documents


def loaded(documents: list[dict[str, Any]]) -> tuple[PolicySet, PolicyIndex] | None:
    try:
        policy_set = parse_policy_set([SourceFile("set.yaml", as_yaml(documents))])
    except PolicySetFaults:
        return None
    return policy_set, compile_index(policy_set)


def is_between_third_parties(index: PolicyIndex, call: Call) -> bool:
    owner = None if call.caller is None else index.owner(call.caller)
    return call.direction is Direction.OUTBOUND and owner is not None and not owner.is_service


def has_hours(policy_set: PolicySet) -> bool:
    rules = (*policy_set.micro_policies, *policy_set.guardrails)
    return any(rule.window.hours is not None for rule in rules)


class TestCompleteness:
    """Where two sets answer a call differently, that is told: with that verdict, at that time; and nothing else is."""

    @settings(max_examples=250)
    @given(seed=SEEDS)
    def test_what_differs_is_told_and_what_is_told_differs(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random, evidence=0)
        before, after = loaded(made.documents), loaded(changed(made, random))
        if before is None or after is None:
            return
        (old, old_index), (new, new_index) = before, after
        seen_from_ns = made.now_ns()
        comparison = compare(old, new, now_ns=seen_from_ns)
        has_conditions = old_index.has_conditions or new_index.has_conditions
        for difference in () if has_conditions else comparison.differences:
            at_ns = difference.change.example_at_ns
            verdicts = [evaluate(index, difference.example, at_ns).verdict for index in (old_index, new_index)]
            assert verdicts[1] is difference.change.becomes
            assert verdicts[0] is not verdicts[1]
        for _ in range(60):
            call, now_ns = made.call(), made.now_ns()
            call = replace(call, tls=call.tls or TlsVersion.TLS_1_3)  # of a connection, the version is known
            if has_hours(old) or has_hours(new):  # they are followed for a year
                now_ns = seen_from_ns + random.randrange(365) * DAY_NS + random.randrange(DAY_NS)
            verdict = evaluate(new_index, call, now_ns).verdict
            if evaluate(old_index, call, now_ns).verdict is verdict:
                continue
            if is_between_third_parties(old_index, call) or is_between_third_parties(new_index, call):
                continue
            assert not comparison.same
            assert comparison.notes or any(
                each.change.becomes is verdict
                and any(
                    (span.from_ns is None or span.from_ns <= now_ns)
                    and (span.until_ns is None or now_ns < span.until_ns)
                    for span in each.change.spans
                )
                for each in comparison.differences
            ), (call, now_ns)


class TestNoDifference:
    """Names of files and rules, order, metadata, and writing one rule as two are no difference."""

    @settings(max_examples=60)
    @given(seed=SEEDS)
    def test_a_set_written_in_another_way_is_the_same(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random, evidence=0)
        old = parse_policy_set(made.files())
        documents = deepcopy(made.documents)
        for document in [each for each in documents if each["kind"] == "MicroPolicy"]:
            document["metadata"] = {"name": f"renamed-{document['metadata']['name']}", "owner": "x"}
            if len(document["spec"]["from"]) > 1:
                other = deepcopy(document)
                other["metadata"]["name"] += "-2"
                other["spec"]["from"] = [document["spec"]["from"].pop()]
                documents.append(other)
        random.shuffle(documents)
        files = [
            SourceFile(f"{random.random()}.yaml", json.dumps(document, ensure_ascii=False).encode())
            for document in documents
        ]
        assert compare(old, parse_policy_set(files), now_ns=made.now_ns()).differences == ()


class TestSymmetry:
    """What becomes allowed from one set to another becomes denied on the way back."""

    @settings(max_examples=60)
    @given(seed=SEEDS)
    def test_the_way_back_is_the_opposite(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random, evidence=0)
        before, after = loaded(made.documents), loaded(changed(made, random))
        if before is None or after is None:
            return
        there = compare(before[0], after[0], now_ns=0)
        back = compare(after[0], before[0], now_ns=0)
        other = {Verdict.ALLOW: Verdict.DENY, Verdict.DENY: Verdict.ALLOW}
        assert {(each.change.becomes, each.change.spans) for each in there.differences} == {
            (other[each.change.becomes], each.change.spans) for each in back.differences
        }
