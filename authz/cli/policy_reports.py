"""How findings and test results are shown: for people, for programs, for code scanning and for CI servers."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from authz import __version__
from authz.instant import rfc3339_from_ns
from authz.policy.errors import printable
from authz.policy.finding import LEVELS, MEANING, Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.policy.finding import Finding
    from authz.policy.policy_test import CaseResult
    from authz.policy.rule_coverage import RuleCoverage

#: a position within a message
_LINE: Final = re.compile(r":[0-9]+\b")
_SARIF_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
#: U+FFFE and the like are no characters of XML 1.0.
_NO_XML: Final = {
    **dict.fromkeys([*range(0x20), 0x7F, *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\N{REPLACEMENT CHARACTER}"),
}


def lint_report(findings: Sequence[Finding], output: str) -> str:
    """Show findings as `pretty`, `json`, `sarif` or `github`."""
    match output:
        case "json":
            return json.dumps({"findings": [_finding(each) for each in findings], "counts": _counts(findings)})
        case "sarif":
            return json.dumps(_sarif(findings), indent=2)
        case "github":
            return "\n".join(_github(each) for each in findings)
        case _:
            counts = _counts(findings)
            total = ", ".join(
                f"{number} {level}{'' if number == 1 else 's'}" for level, number in counts.items() if number
            )
            return "\n".join([*map(str, findings), total or "no findings"])


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {level.value: sum(finding.level is level for finding in findings) for level in Level}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": str(finding.code),
        "level": finding.level.value,
        "path": finding.path,
        "line": finding.line,
        "column": finding.column,
        "message": finding.message,
        "accepted": finding.accepted or None,
    }


def _sarif(findings: Sequence[Finding]) -> dict[str, Any]:
    codes = [str(code) for code in MEANING]
    rules = [
        {
            "id": code,
            "shortDescription": {"text": MEANING[code]},
            "fullDescription": {"text": MEANING[code]},
            "help": {"text": f"{MEANING[code]} See docs/lint-codes.md, `{code}`."},
            "defaultConfiguration": {"level": LEVELS[code].value},
        }
        for code in codes
    ]
    return {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "authz lint", "semanticVersion": __version__, "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": _sarif_results(findings, codes),
            }
        ],
    }


def _sarif_results(findings: Sequence[Finding], codes: list[str]) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    results = []
    for finding in findings:
        # What stays the same finding when lines above it come and go; two of the same text are told apart by order.
        text = "\0".join((finding.path, str(finding.code), _LINE.sub("", finding.message)))
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        seen[fingerprint] += 1
        result = _sarif_result(finding, codes.index(str(finding.code)))
        results.append({**result, "partialFingerprints": {"authzFinding/v1": f"{fingerprint}:{seen[fingerprint]}"}})
    return results


def _sarif_result(finding: Finding, rule_index: int) -> dict[str, Any]:
    accepted = f" (accepted: {finding.accepted})" if finding.accepted else ""
    return {
        "ruleId": str(finding.code),
        "ruleIndex": rule_index,
        "level": finding.level.value,
        "message": {"text": finding.message + accepted},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(finding.path)},
                    "region": {"startLine": finding.line, "startColumn": finding.column},
                }
            }
        ],
    }


def _github(finding: Finding) -> str:
    command = {Level.ERROR: "error", Level.WARNING: "warning", Level.NOTE: "notice"}[finding.level]
    accepted = f" (accepted: {finding.accepted})" if finding.accepted else ""
    place = f"file={_property(finding.path)},line={finding.line},col={finding.column},title={_property(finding.code)}"
    return f"::{command} {place}::{_data(finding.message + accepted)}"


def _data(text: str) -> str:
    """Escape as GitHub's workflow commands want it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# --- tests ---------------------------------------------------------------------------------------------------------


def test_report(
    results: Sequence[CaseResult], revision: str, output: str, coverage: RuleCoverage | None, folder: str
) -> str:
    """Show the results of a folder's PolicyTests as `pretty`, `json` or `junit`, and which rules they tried."""
    match output:
        case "json":
            return json.dumps(
                {
                    "revision": revision,
                    "passed": sum(result.passed for result in results),
                    "failed": sum(not result.passed for result in results),
                    "cases": [_case(result) for result in results],
                    **({} if coverage is None else {"coverage": _coverage(coverage)}),
                }
            )
        case "junit":
            return _junit(results, folder, coverage)
        case _:
            return "\n".join(
                [_pretty_results(results, folder), *([] if coverage is None else _pretty_coverage(coverage))]
            )


def _coverage(coverage: RuleCoverage) -> dict[str, Any]:
    return {
        "rules": coverage.rules,
        "tried": coverage.tried,
        "untried": [
            {"kind": each.kind.value, "policy": each.name, "path": each.path, "line": each.line}
            for each in coverage.untried
        ],
    }


def _pretty_coverage(coverage: RuleCoverage) -> list[str]:
    never = (f"  never: the {each.kind} `{each.name}`  {each.path}:{each.line}" for each in coverage.untried)
    return [f"{coverage.tried} of {coverage.rules} rules decided a case", *map(printable, never)]


def _explaining(result: CaseResult, folder: str) -> str:
    """Give the command that says why a case was answered as it was."""
    asked = result.asked
    flags = {
        "--from": asked.caller,
        "--to": asked.destination,
        "--method": asked.method,
        "--path": asked.path,
        "--grpc": asked.grpc,
        "--tls": asked.tls,
        "--direction": asked.direction,
        "--host": asked.host,
        "--at": rfc3339_from_ns(result.at_ns),
    }
    words = ["authz", "explain", "--policies", folder]
    for flag, value in flags.items():
        words += [] if value is None else [flag, str(value)]
    for name, value in asked.headers:
        words += ["--header", f"{name}={value}"]
    return shlex.join(words)


def _pretty_results(results: Sequence[CaseResult], folder: str) -> str:
    if not results:
        return "no PolicyTests in the set: nothing was tested"
    lines = []
    for result in results:
        if not result.passed:
            lines.append(
                f"{printable(result.path)}:{result.line}:{result.column}: {result.test} / {printable(result.case)}"
            )
            lines.append(f"  expected  {result.expected}")
            lines.append(f"  got       {result.got}")
            lines.append(f"  why       {printable(_explaining(result, folder))}")
    failed = sum(not result.passed for result in results)
    tests = len({result.test for result in results})
    cases = f"{len(results)} case{'' if len(results) == 1 else 's'} of {tests} PolicyTest{'' if tests == 1 else 's'}"
    lines.append(f"{failed} of {cases} failed" if failed else f"{cases} passed")
    return "\n".join(lines)


def _case(result: CaseResult) -> dict[str, Any]:
    return {
        "test": result.test,
        "case": result.case,
        "passed": result.passed,
        "path": result.path,
        "line": result.line,
        "expected": {
            "decision": None if result.expected.decision is None else result.expected.decision.value,
            "reason": None if result.expected.reason is None else result.expected.reason.value,
            "policy": result.expected.policy,
        },
        "got": {
            "decision": result.answer.verdict.value,
            "reason": result.answer.reason.value,
            "policy": result.answer.policy,
        },
    }


def _junit(results: Sequence[CaseResult], folder: str, coverage: RuleCoverage | None) -> str:
    failed = sum(not result.passed for result in results)
    untried = () if coverage is None else coverage.untried
    number = str(len(results) + len(untried))
    root = Element("testsuites", name="authz test", tests=number, failures=str(failed), errors="0")
    for test in dict.fromkeys(result.test for result in results):
        cases = [result for result in results if result.test == test]
        failures = sum(not result.passed for result in cases)
        suite = SubElement(root, "testsuite", name=test, tests=str(len(cases)), failures=str(failures), errors="0")
        for result in cases:
            case = SubElement(
                suite, "testcase", classname=test, name=_xml(result.case), file=_xml(result.path), line=str(result.line)
            )
            if not result.passed:
                failure = SubElement(case, "failure", message=_xml(f"expected {result.expected}, got {result.got}"))
                place = f"{result.path}:{result.line}:{result.column}"
                # The line break between them is meant; one within them is somebody else's.
                failure.text = f"{_xml(place)}\n{_xml(_explaining(result, folder))}"
    if untried:
        number, name = str(len(untried)), "rules without a case"
        suite = SubElement(root, "testsuite", name=name, tests=number, failures="0", errors="0", skipped=number)
        for rule in untried:
            case = SubElement(suite, "testcase", classname=name, file=_xml(rule.path), line=str(rule.line))
            case.set("name", f"{rule.kind} {rule.name}")
            SubElement(case, "skipped", message="no case of a PolicyTest was decided by this rule")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode")


def _xml(text: str) -> str:
    return text.translate(_NO_XML)
