"""`authz lint`, `authz test`, `authz check`: what a policy folder says, before it says it to anyone else."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from authz.cli.arguments import NO, YES
from authz.cli.policy_check import add_call_flags, check
from authz.cli.policy_reports import lint_report, test_report
from authz.errors import UsageError
from authz.policy.errors import PolicySetFaults, quoted
from authz.policy.finding import Level
from authz.policy.index import compile_index
from authz.policy.lint import faults_as_findings, lint
from authz.policy.policy_test import run_policy_tests
from authz.policy_folder import load_policy_folder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from authz.cli.arguments import CommandParser, Subcommands


def add_commands(commands: Subcommands) -> None:
    """Add `lint`, `test` and `check`."""
    parser = commands.add(
        "lint",
        _lint,
        summary="say what is wrong or doubtful in a policy folder; exit status 1 for errors and warnings",
        example="authz lint policies",
    )
    parser.add_argument("directory", metavar="DIR", help="the policy folder")
    _add_output(parser, ("pretty", "json", "sarif", "github"))

    parser = commands.add(
        "test",
        _test,
        summary="run the PolicyTests of a policy folder; exit status 1 if a case fails",
        example="authz test policies --filter payments",
    )
    parser.add_argument("directory", metavar="DIR", help="the policy folder")
    parser.add_flag("--filter", metavar="TEXT", default="", help="only the cases whose `test / case` contains TEXT")
    _add_output(parser, ("pretty", "json", "junit"))

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
    _add_output(parser, ("pretty", "json"))


def _add_output(parser: CommandParser, formats: Sequence[str]) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FORMAT",
        default=os.environ.get("AUTHZ_OUTPUT"),
        help=f"{', '.join(formats)}; default: pretty on a terminal, else json [AUTHZ_OUTPUT]",
    )
    parser.set_defaults(formats=tuple(formats))


def _output(given: argparse.Namespace) -> str:
    """Give the format that was asked for, or the one that suits where the output goes."""
    if not given.output:
        return "pretty" if sys.stdout.isatty() else "json"
    if given.output not in given.formats:
        raise UsageError(f"-o: {quoted(given.output)} is none of {', '.join(f'`{each}`' for each in given.formats)}")
    return str(given.output)


def _lint(given: argparse.Namespace) -> int:
    output = _output(given)
    try:
        findings = lint(load_policy_folder(given.directory), now_ns=time.time_ns())
    except PolicySetFaults as faults:
        findings = faults_as_findings(faults)
    print(lint_report(findings, output))
    return NO if any(finding.level is not Level.NOTE for finding in findings) else YES


def _test(given: argparse.Namespace) -> int:
    output = _output(given)
    policy_set = load_policy_folder(given.directory)
    results = tuple(run_policy_tests(policy_set, compile_index(policy_set), given.filter))
    if given.filter and not results:
        raise UsageError(f"--filter: no case of a PolicyTest contains {quoted(given.filter)}")
    print(test_report(results, policy_set.revision, output))
    return YES if all(result.passed for result in results) else NO


def _check(given: argparse.Namespace) -> int:
    return check(given, as_json=_output(given) == "json")
