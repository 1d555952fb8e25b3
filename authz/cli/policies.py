"""`authz lint`, `authz test`, `authz check`: what a policy folder says, before it says it to anyone else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from authz.cli.arguments import NO, YES
from authz.cli.output import add_output, output_of
from authz.cli.policy_check import add_call_flags, check
from authz.cli.policy_reports import lint_report, test_report
from authz.cli.progress import progress_of
from authz.errors import UsageError
from authz.policy.errors import PolicySetFaults, quoted
from authz.policy.finding import Level
from authz.policy.index import compile_index
from authz.policy.lint import faults_as_findings, lint
from authz.policy.policy_test import run_policy_tests
from authz.policy.rule_coverage import rule_coverage
from authz.policy_folder import load_policy_folder

if TYPE_CHECKING:
    import argparse

    from authz.cli.arguments import Subcommands


def add_commands(commands: Subcommands) -> None:
    """Add `lint`, `test` and `check`."""
    parser = commands.add(
        "lint",
        _lint,
        summary="say what is wrong or doubtful in a policy folder; exit status 1 for errors and warnings",
        example="authz lint policies",
    )
    parser.add_argument("directory", metavar="DIR", help="the policy folder")
    add_output(parser, ("pretty", "json", "sarif", "github"))

    parser = commands.add(
        "test",
        _test,
        summary="run the PolicyTests of a policy folder; exit status 1 if a case fails",
        example="authz test policies --coverage",
    )
    parser.add_argument("directory", metavar="DIR", help="the policy folder")
    parser.add_flag("--filter", metavar="TEXT", default="", help="only the cases whose `test / case` contains TEXT")
    parser.add_flag("--coverage", action="store_true", help="name the rules that no case was decided by")
    add_output(parser, ("pretty", "json", "junit"))

    parser = commands.add(
        "check",
        _check,
        summary="answer one call, or many, from a policy folder; exit status 0 allowed, 1 denied",
        example="authz check --policies policies --from storefront --to catalog --method GET --path /items/42",
    )
    parser.add_flag("--policies", required=True, metavar="DIR", help="the policy folder")
    add_call_flags(parser)
    parser.add_flag(
        "--calls",
        metavar="FILE",
        help="answer JSON lines of calls, `-` for standard input; exit status 2 for bad lines",
    )
    add_output(parser, ("pretty", "json"))


def _lint(given: argparse.Namespace) -> int:
    output = output_of(given)
    try:
        policy_set = load_policy_folder(given.directory)
        with progress_of("rules looked at") as progress:
            findings = lint(policy_set, now_ns=time.time_ns(), progress=progress)
    except PolicySetFaults as faults:
        findings = faults_as_findings(faults)
    report = lint_report(findings, output)
    if report:
        print(report)
    return NO if any(finding.level is not Level.NOTE for finding in findings) else YES


def _test(given: argparse.Namespace) -> int:
    output = output_of(given)
    policy_set = load_policy_folder(given.directory)
    results = tuple(run_policy_tests(policy_set, compile_index(policy_set), given.filter))
    if given.filter and not results:
        raise UsageError(f"--filter: no case of a PolicyTest contains {quoted(given.filter)}")
    coverage = rule_coverage(policy_set, results) if given.coverage else None
    print(test_report(results, policy_set.revision, output, coverage, given.directory))
    return YES if all(result.passed for result in results) else NO


def _check(given: argparse.Namespace) -> int:
    return check(given, as_json=output_of(given) == "json")
