"""Compares the engine with the reference on a million generated triples of policy set, call and time.

Run by `make proof`, or by hand: `python -m tests.conformance.million --triples 1000000 --seed 0`. Every set has a seed
of its own, counted up from the one given: a difference is found again by its seed. The first one ends the run.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from tests.conformance.reference import Answer, reference_answer
from tests.support.generated_sets import GeneratedSet

#: of one set, so that most of the time goes into answers
CALLS_PER_SET = 40
PROGRESS_S = 30.0


def differences(seed: int) -> list[str]:
    """Give where engine and reference differ on one set."""
    made = GeneratedSet(Random(seed))  # noqa: S311 the same seed gives the same set
    policy_set = parse_policy_set(made.files())
    index = compile_index(policy_set)
    found = []
    for _ in range(CALLS_PER_SET):
        call, now_ns = made.call(), made.now_ns()
        got = evaluate(index, call, now_ns)
        shadow = None if got.shadow is None else (got.shadow.decision.value, got.shadow.reason.value, got.shadow.policy)
        answer = Answer(got.verdict.value, got.reason.value, got.policy, got.valid_until_ns, shadow)
        expected = reference_answer(policy_set, call, now_ns)
        if answer != expected:
            found.append(f"seed {seed}: {call} at {now_ns}\n  engine:    {answer}\n  reference: {expected}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triples", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = said = time.monotonic()
    done, seed = 0, given.seed
    while done < given.triples:
        found = differences(seed)
        if found:
            print("\n".join(found), file=sys.stderr)
            return 1
        seed, done = seed + 1, done + CALLS_PER_SET
        if time.monotonic() - said >= PROGRESS_S:
            said = time.monotonic()
            rate = done / (said - began)
            print(f"{done} triples of {seed - given.seed} sets agree, {rate:.0f}/s", flush=True)
    print(f"{done} triples of {seed - given.seed} sets, seeds {given.seed} to {seed - 1}: engine and reference agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
