"""The laws of differences between two policy sets."""

# ruff: noqa: S311 sets are made by chance from the seed that hypothesis chooses

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import Any, TypeAlias
from urllib.parse import quote

from hypothesis import given, settings, strategies as st

from authz.decision import Verdict
from authz.identity.spiffe_id import SpiffeId
from authz.policy.changed_call import Span, Times
from authz.policy.difference import Comparison, compare
from authz.policy.difference_groups import EVERY_CALLER, Difference
from authz.policy.document import SourceFile
from authz.policy.errors import PolicySetFaults
from authz.policy.evaluation import called_party, evaluate
from authz.policy.index import PolicyIndex, compile_index
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy.revocation import RevokedSerial
from authz.request import Call, Direction, TlsVersion
from tests.support.altered_sets import altered
from tests.support.generated_sets import DAY_NS, OTHER_OWN, OWN, GeneratedSet, as_yaml

Indexes: TypeAlias = "tuple[PolicyIndex, PolicyIndex]"

SEEDS = st.integers(min_value=0, max_value=2**48)


def loaded(documents: list[dict[str, Any]]) -> tuple[PolicySet, PolicyIndex] | None:
    try:
        policy_set = parse_policy_set([SourceFile("set.yaml", as_yaml(documents))])
    except PolicySetFaults:
        return None
    return policy_set, compile_index(policy_set)


def wanted_call(made: GeneratedSet, random: Random) -> Call:
    """Give a call, often of a kind that chance seldom makes."""
    call = made.call()
    what = random.choice(("as made", "as made", "path", "stranger", "tunnel", "secret"))
    if what == "path":
        pieces = ("a", "b", "", "a;x", "b%2Fc", "x%3By", "c%23", "pkg.S", "M", "any", "é", "a%3Bb;c")
        segments = [random.choice(pieces) for _ in range(random.randint(1, 4))]
        return replace(call, path=f"/{'/'.join(quote(each, safe=';%') for each in segments)}")
    if what == "stranger":
        return replace(call, caller=SpiffeId.parse(f"spiffe://{random.choice((OWN, OTHER_OWN))}/never/seen/before"))
    if what == "tunnel":
        return replace(call, direction=Direction.OUTBOUND, method="CONNECT", path=call.host)
    if what == "secret":
        return replace(call, tls=None, serial=random.choice(("0abc", "ABC", "12", None)))
    return call


def is_between_third_parties(index: PolicyIndex, call: Call) -> bool:
    owner = index.certified(call.third_party) if call.caller is None else index.owner(call.caller)
    return call.direction is Direction.OUTBOUND and owner is not None and not owner.is_service


def has_hours(policy_set: PolicySet) -> bool:
    rules = (*policy_set.micro_policies, *policy_set.guardrails)
    return any(rule.window.hours is not None for rule in rules)


def verdicts(indexes: Indexes, call: Call, now_ns: int) -> tuple[Verdict, Verdict]:
    old, new = (evaluate(index, call, now_ns).verdict for index in indexes)
    return old, new


def is_told(comparison: Comparison, indexes: Indexes, call: Call, now_ns: int) -> bool:
    """Whether a difference says what becomes of a call, or of the same call with a certificate or token of its own."""
    becomes = verdicts(indexes, call, now_ns)
    alike = [call]
    if call.presenter is not None:
        alike += [replace(call, presenter=presenter) for presenter in (call.caller, None)]
    return any(
        verdicts(indexes, each, now_ns) == becomes and is_told_itself(comparison, indexes, each, becomes[1], now_ns)
        for each in alike
    )


def is_told_itself(comparison: Comparison, indexes: Indexes, call: Call, verdict: Verdict, now_ns: int) -> bool:
    """Whether some difference is of this verdict, time, caller and destination; of many spans only the first are told.

    And of the same proof of who calls.
    """
    return any(
        each.change.becomes is verdict
        and (each.example.method == "CONNECT") is (call.method == "CONNECT")
        and is_from(each, indexes, call)
        and is_to(each, indexes, call)
        and is_proven_alike(each, indexes, call)
        and any(
            (span.from_ns is None or span.from_ns <= now_ns) and (span.until_ns is None or now_ns < span.until_ns)
            for span in (*each.change.spans, *unkept(each.change.times))
        )
        for each in comparison.differences
    )


def is_proven_alike(difference: Difference, indexes: Indexes, call: Call) -> bool:
    presenter, example = call.presenter, difference.example
    if presenter is None or presenter == call.caller:
        return example.presenter == (None if presenter is None else example.caller)
    names = [index.identity_owner(presenter) for index in indexes]
    said = difference.operation.partition("with a JWT-SVID presented by ")[2]
    return any(name is not None and name in said for name in names) or EVERY_CALLER in said


def is_from(difference: Difference, indexes: Indexes, call: Call) -> bool:
    owners = [
        index.certified(call.third_party) if call.caller is None else index.owner(call.caller) for index in indexes
    ]
    names = [owner.name for owner in owners if owner is not None] or ["spiffe://", "any other workload"]
    return any(word.startswith((EVERY_CALLER, "spiffe://", *names)) for word in difference.callers)


def is_to(difference: Difference, indexes: Indexes, call: Call) -> bool:
    parties = [called_party(index, call) for index in indexes]
    names = {party.name for party in parties if party is not None}
    # A host that changes hands is told as it is written; most have a dot, which no name of a party has.
    names.add(call.host.lower().partition(":")[0])
    return not names.isdisjoint(difference.destinations) or any("." in name for name in difference.destinations)


def unkept(times: Times) -> tuple[Span, ...]:
    if times.count == len(times.spans):
        return ()
    return (Span(from_ns=times.spans[-1].until_ns, until_ns=times.until_ns),)


class TestCompleteness:
    """Where two sets answer a call differently, that is told: with that verdict, at that time; and nothing else is."""

    @settings(max_examples=400)
    @given(seed=SEEDS)
    def test_what_differs_is_told_and_what_is_told_differs(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random)
        before, after = loaded(made.documents), loaded(altered(made, random))
        if before is None or after is None:
            return
        (old, old_index), (new, new_index) = before, after
        indexes = old_index, new_index
        seen_from_ns = made.now_ns()
        comparison = compare(old, new, now_ns=seen_from_ns)
        for difference in comparison.differences:
            if difference.change.condition:
                continue  # no example is made that its conditions hold for
            at_ns = difference.change.example_at_ns
            before_and_after = verdicts(indexes, difference.example, at_ns)
            assert before_and_after[1] is difference.change.becomes
            assert before_and_after[0] is not before_and_after[1]
        revoked = {each for each in {*old.mesh.revoked} ^ {*new.mesh.revoked} if isinstance(each, RevokedSerial)}
        for _ in range(80):
            call, now_ns = wanted_call(made, random), made.now_ns()
            if has_hours(old) or has_hours(new):  # they are followed for a year
                now_ns = seen_from_ns + random.randrange(365) * DAY_NS + random.randrange(DAY_NS)
            if len({*verdicts(indexes, call, now_ns)}) == 1:
                continue
            if is_between_third_parties(old_index, call) or is_between_third_parties(new_index, call):
                continue
            assert not comparison.same
            # A certificate that is revoked by its number is told in a note.
            assert is_told(comparison, indexes, call, now_ns) or (revoked and call.serial is not None), (call, now_ns)


def calls_with_proofs(made: GeneratedSet, random: Random) -> list[Call]:
    """Give many calls with tokens, with certificates of ThirdParties and for tunnels, between all of a set."""
    ids = {name: [made.id_of(name) for _ in range(2)] for name in made.services}
    subjects = [each for some in ids.values() for each in some]
    operations = [("GET", "/a/b"), ("GET", "/a"), ("POST", "/pkg.S/M"), ("PUT", "/b/b")]
    common = {"direction": Direction.INBOUND, "tls": TlsVersion.TLS_1_3}
    calls = [
        Call(service=service, host=service, caller=subject, presenter=presenter, method=method, path=path, **common)
        for service in made.services
        for subject in subjects
        for presenter in (*random.sample(subjects, min(3, len(subjects))), subject)
        for method, path in random.sample(operations, 2)
    ]
    calls += [
        Call(service=service, host=service, caller=None, third_party=name, method=method, path=path, **common)
        for service in made.services
        for name in made.third_parties
        for method, path in operations
    ]
    calls += [
        Call(
            direction=Direction.OUTBOUND, service=name, caller=caller, method="CONNECT", path="", host=f"{host}:{port}"
        )
        for name, some in ids.items()
        for caller in some
        for host in ("u.example", "t.example", "a.t.example")
        for port in (80, 443, 8443)
    ]
    return calls


class TestProofs:
    """What is answered differently for one proof of who calls, or for one tunnel, is told as such."""

    @settings(max_examples=150)
    @given(seed=SEEDS)
    def test_what_differs_for_one_proof_is_told(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random, evidence=1, hours=0)
        before, after = loaded(made.documents), loaded(altered(made, random))
        if before is None or after is None:
            return
        indexes = before[1], after[1]
        comparison = compare(before[0], after[0], now_ns=0)
        for call in calls_with_proofs(made, random):
            now_ns = made.now_ns()
            if len({*verdicts(indexes, call, now_ns)}) == 2:
                assert is_told(comparison, indexes, call, now_ns), (call, now_ns)


class TestNoDifference:
    """Names of files and rules, order, metadata, and writing one rule as two are no difference."""

    @settings(max_examples=60)
    @given(seed=SEEDS)
    def test_a_set_written_in_another_way_is_the_same(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random)
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
        made = GeneratedSet(random)
        before, after = loaded(made.documents), loaded(altered(made, random))
        if before is None or after is None:
            return
        there = compare(before[0], after[0], now_ns=0)
        back = compare(after[0], before[0], now_ns=0)
        other = {Verdict.ALLOW: Verdict.DENY, Verdict.DENY: Verdict.ALLOW}
        assert {(each.change.becomes, each.change.spans) for each in there.differences} == {
            (other[each.change.becomes], each.change.spans) for each in back.differences
        }
