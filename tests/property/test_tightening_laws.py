"""The laws of what an edit takes away before it is compiled, each a class whose docstring is the sentence tested."""

# ruff: noqa: S311 sets are made by chance from the seed that hypothesis chooses

from __future__ import annotations

import json
import mmap
from copy import deepcopy
from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import given, strategies as st

from authz.instant import rfc3339_from_ns
from authz.policy.document import SourceFile
from authz.policy.errors import PolicySetFaults
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy.tightening import Tightening, tightening_of, tighter
from authz.policy.window import parse_instant_ns
from authz.sidecar.tightening_page import Tightened, TighteningPage
from tests.support.altered_sets import altered
from tests.support.generated_sets import DAY_NS, GeneratedSet, as_yaml

if TYPE_CHECKING:
    from authz.decision import Decision
    from authz.request import Call

SEEDS = st.integers(min_value=0, max_value=2**48)
CALLS_PER_SET = 25


def parsed(documents: list[dict[str, Any]]) -> PolicySet | None:
    try:
        return parse_policy_set([SourceFile("p.yaml", as_yaml(documents))])
    except PolicySetFaults:
        return None


def with_less(made: GeneratedSet, random: Random) -> list[dict[str, Any]]:
    """Give the documents with identities revoked, MicroPolicies gone, and windows that are narrower."""
    documents = deepcopy(made.documents)
    mesh, *others = documents
    for _ in range(random.randint(1, 3)):
        kept = [each for each in others if each["kind"] in {"MicroPolicy", "ThirdParty"}]
        if not kept or random.random() < 0.2:
            identity = random.choice(("spiffe://o.example/s1", "spiffe://o.example/s2", "serial:o.example/12"))
            mesh["spec"]["revoked"] = sorted({*mesh["spec"].get("revoked", ()), identity})
            continue
        each = random.choice(kept)
        if each["kind"] == "MicroPolicy" and random.random() < 0.4:
            others.remove(each)
            continue
        window = each["spec"].setdefault("window", {})
        edge = random.choice(("opens", "closes"))
        now_ns = made.now_ns() // 10**6 * 10**6
        was_ns = None if edge not in window else parse_instant_ns(window[edge])
        if edge == "opens":
            moved_ns = now_ns if was_ns is None else max(was_ns, min(now_ns, was_ns + 400 * DAY_NS))
        else:
            moved_ns = now_ns if was_ns is None else min(was_ns, now_ns)
        window[edge] = rfc3339_from_ns(moved_ns)
    return [mesh, *others]


def asked(
    before: PolicySet, after: PolicySet, made: GeneratedSet
) -> list[tuple[Call, int, Decision, Decision, Decision]]:
    """Give calls, and what the old set, the tightened old set, and the new set say of each."""
    old, new = compile_index(before), compile_index(after)
    tightening = tightening_of(before, after)
    found = []
    for _ in range(CALLS_PER_SET):
        call, now_ns = made.call(), made.now_ns()
        was = evaluate(old, call, now_ns)
        found.append((call, now_ns, was, tighter(was, old, call, now_ns, tightening), evaluate(new, call, now_ns)))
    return found


class TestOnlyTighter:
    """Whatever the edit, a tightening only ever makes denies of allows; a deny stays as it is."""

    @given(SEEDS)
    def test_it_is_so(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random)
        before, after = parsed(made.documents), parsed(altered(made, random))
        if before is None or after is None:
            return
        for _, _, was, tight, _ in asked(before, after, made):
            if not was.reason.allows:
                assert tight is was
            elif tight.reason.allows:
                assert (
                    tight.valid_until_ns is None
                    or was.valid_until_ns is None
                    or (tight.valid_until_ns <= was.valid_until_ns)
                )


class TestCertain:
    """Whatever the edit, a tightening denies nothing that the new set allows."""

    @given(SEEDS)
    def test_it_is_so(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random)
        documents = random.choice((altered, with_less))(made, random)
        before, after = parsed(made.documents), parsed(documents)
        if before is None or after is None:
            return
        for _, _, was, tight, now in asked(before, after, made):
            if was.reason.allows and not tight.reason.allows:
                assert not now.reason.allows
                assert tight.revision == after.revision


class TestComplete:
    """Of an edit that only takes away, nothing is allowed that the new set denies, and the reason is the new set's."""

    @given(SEEDS)
    def test_it_is_so(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random)
        before, after = parsed(made.documents), parsed(with_less(made, random))
        if before is None or after is None:
            return
        for _, _, was, tight, now in asked(before, after, made):
            if was.reason.allows:
                assert (tight.reason, tight.policy) == (now.reason, now.policy)
                assert tight.route == now.route


class TestThePageSaysIt:
    """What is written on the page is what is read from it, until something else is; what finds no room is nothing."""

    @given(SEEDS)
    def test_it_is_so(self, seed: int) -> None:
        random = Random(seed)
        made = GeneratedSet(random)
        before, after = parsed(made.documents), parsed(with_less(made, random))
        if before is None or after is None:
            return
        tightening = tightening_of(before, after)
        assert Tightening.from_fields(json.loads(json.dumps(tightening.as_fields()))) == tightening
        for size, fits in ((64 * 1024, True), (40, tightening.is_empty)):
            memory = mmap.mmap(-1, size)
            writer, reader = TighteningPage(memory), TighteningPage(memory)
            assert reader() is None
            said = Tightened(before.revision, tightening)
            assert writer.write(said) is fits
            assert reader() == (said if fits and not tightening.is_empty else None)
            assert reader() is reader()
            writer.write(None)
            assert reader() is None
