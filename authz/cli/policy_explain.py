"""`authz explain`: why a call is answered as it is, step by step, and which rules were near."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from authz.cli.arguments import NO, YES
from authz.cli.output import add_output, output_of
from authz.cli.policy_check import add_call_flags, call_of, pretty_lines
from authz.decision import Verdict
from authz.policy.errors import printable, quoted
from authz.policy.explained_remedy import remedy_of
from authz.policy.explanation import explain, place_of
from authz.policy.explanation_json import answer, explanation_as_json
from authz.policy.index import compile_index
from authz.policy.policy_test import directory_of
from authz.policy.schema import Kind
from authz.policy_folder import load_policy_folder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from authz.cli.arguments import Subcommands
    from authz.policy.explained_ruling import Step
    from authz.policy.explanation import Explanation
    from authz.policy.policy_set import PolicySet


def add_commands(commands: Subcommands) -> None:
    """Add `explain`."""
    parser = commands.add(
        "explain",
        _explain,
        summary="say why a call is allowed or denied, and which rules were near; exit status 0 allowed, 1 denied",
        example="authz explain --policies policies --from storefront --to catalog --method DELETE --path /items/42",
    )
    parser.add_flag("--policies", required=True, metavar="DIR", help="the policy folder")
    add_call_flags(parser)
    add_output(parser, ("pretty", "json"))


def _explain(given: argparse.Namespace) -> int:
    output = output_of(given)
    policy_set = load_policy_folder(given.policies)
    call, at_ns = call_of(given, directory_of(policy_set))
    explanation = explain(policy_set, compile_index(policy_set), call, at_ns)
    if output == "json":
        print(json.dumps({**answer(explanation.decision), **explanation_as_json(policy_set, explanation)}))
    else:
        lines = pretty_lines(given, explanation.decision, at_ns)
        if explanation.place is not None:
            lines.insert(1, printable(f"  written in   {explanation.place}"))
        print("\n".join([*lines, *_pretty(policy_set, explanation)]))
    return YES if explanation.decision.verdict is Verdict.ALLOW else NO


def _line(step: Step, width: int) -> str:
    answered = "" if step.reason is None else f" -> {step.reason.verdict}: {step.reason}"
    return f"  {step.number} {step.name:<{width}}  {printable(step.found)}{answered}"


def _pretty(policy_set: PolicySet, explanation: Explanation) -> Iterator[str]:
    yield "steps"
    width = max(len(step.name) for step in explanation.steps)
    for step in explanation.steps:
        yield _line(step, width)
    if explanation.if_enforced is not None:
        yield "if every mode was `enforce`"
        yield _line(explanation.if_enforced, width)
    if explanation.then is not None:
        yield "when that is no longer valid"
        yield _line(explanation.then, width)
    remedy = remedy_of(policy_set, explanation)
    if remedy is not None:
        yield "to allow it"
        yield f"  {printable(remedy)}"
    if not explanation.nearest:
        return
    yield "nearest rules, and what the call lacks for them"
    for near in explanation.nearest:
        yield f"  {quoted(near.rule.name)}  {printable(place_of(policy_set, Kind.MICRO_POLICY, near.rule.name))}"
        for lack in near.lacks:
            wanted = f"; the rule has {lack.wanted}" if lack.wanted else ""
            yield f"    {lack.field}: {printable(lack.found)}{printable(wanted)}"
