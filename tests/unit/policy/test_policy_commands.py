"""`authz lint`, `test` and `check` as they are typed."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from authz.cli.main import main
from authz.policy.window import parse_instant_ns
from tests.support.policy_texts import MESH, document, rule, service

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = """{now: 2026-06-01T00:00:00Z, cases: [
  {name: a may, call: {from: a, to: b, method: GET, path: /x}, expect: {decision: allow, policy: r}},
  {name: "b <may> not & \\a", call: {from: b, to: b, method: GET, path: /x}, expect: {reason: closed, policy: r}}]}"""
GOOD = (MESH, service("a"), service("b"), rule("r"))
ASKED = ("--from", "a", "--to", "b", "--method", "GET", "--path", "/x")


@pytest.fixture
def policies(tmp_path: Path) -> Callable[..., str]:
    def write(*documents: str) -> str:
        (tmp_path / "policies").mkdir(exist_ok=True)
        (tmp_path / "policies" / "set.yaml").write_text("---\n".join(documents), "utf-8")
        return str(tmp_path / "policies")

    return write


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run_words(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run_words


# --- check


def test_an_allowed_call_is_status_0_and_a_denied_one_1(policies: Any, run: Any) -> None:
    folder = policies(*GOOD)
    status, out, _ = run("check", "--policies", folder, *ASKED, "-o", "json")
    answer = json.loads(out)
    assert status == 0
    assert list(answer) == ["decision", "reason", "policy", "valid_until", "revision", "shadow"]
    assert (answer["decision"], answer["reason"], answer["policy"], answer["shadow"]) == ("allow", "allowed", "r", None)
    status, out, _ = run("check", "--policies", folder, *ASKED[:-1], "/y", "-o", "json")
    assert (status, json.loads(out)["reason"]) == (1, "no_policy")


def test_every_flag_counts(policies: Any, run: Any) -> None:
    window = ", window: {opens: 2026-01-01T00:00:00Z, closes: 2027-01-01T00:00:00Z}"
    folder = policies(*GOOD[:-1], rule("r", operations="[{grpc: [a.B/C]}]", more=window))
    asked = ("check", "--policies", folder, "--from", "a", "--to", "b", "-o", "json")
    status, out, _ = run(*asked, "--grpc", "a.B/C", "--at", "2026-06-01T00:00:00+02:00")
    assert (status, json.loads(out)["valid_until"]) == (0, "2027-01-01T00:00:00.000Z")
    post = ("--method", "POST", "--path", "/a.B/C", "--at", "2026-06-01T00:00:00Z")
    assert run(*asked, *post)[0] == 1
    assert run(*asked, *post, "--header", "Content-Type=application/grpc+proto")[0] == 0
    assert run(*asked, *post, "--header", "content-type=application/grpc", "--header", "content-type=x")[0] == 1
    assert run(*asked, *post, "--header", "Content-Type=application/grpc", "--direction", "outbound")[0] == 0
    assert run(*asked, *post, "--header", "Content-Type=application/grpc", "--tls", "TLSv1_2")[0] == 0
    status, out, _ = run(*asked, *post, "--host", "a@b")
    assert (status, json.loads(out)["reason"]) == (1, "malformed")


def test_the_pretty_answer_says_who_asks_and_until_when(policies: Any, run: Any) -> None:
    folder = policies(*GOOD[:-1], rule("r", more=", window: {closes: 2027-01-01T00:00:00Z}"))
    status, out, _ = run("check", "--policies", folder, *ASKED, "--at", "2026-06-01T00:00:00Z", "-o", "pretty")
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:4] == [
        "allow: allowed, by `r`",
        "call a -> b: GET /x",
        "at 2026-06-01T00:00:00.000Z",
        "valid until 2027-01-01T00:00:00.000Z (deny from then on)",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "nobody"), "--from: there is no Service or ThirdParty `nobody`"),
        (("--to", "bb"), "--to: there is no Service or ThirdParty `bb`"),
        (("--at", "now"), "--at: `now` is no time of RFC 3339"),
        (("--at", "2026-06-01"), "--at: `2026-06-01` has no offset"),
        (("--tls", "1.3"), "--tls: `1.3` is neither `TLSv1_2` nor `TLSv1_3`"),
        (("--direction", "in"), "--direction: `in` is neither `inbound` nor `outbound`"),
        (("--header", "x"), "--header: `x` is not K=V"),
        (("--header", "a b=c"), "--header: `a b` is no header name"),
        (("--grpc", "a.B/C"), "--method: `grpc` stands for method and path; leave `method` out"),
        (("-o", "xml"), "-o: `xml` is none of `pretty`, `json`"),
        (("--calls", "calls.jsonl"), "--calls says what each call is; leave --from out"),
        (("--header", "x: y z"), "--header: `x: y z` is not K=V; write `x=y z`"),
        (("--tls", "1.2"), "--tls: `1.2` is neither `TLSv1_2` nor `TLSv1_3`; did you mean `TLSv1_2`?"),
        (("--frm", "a"), "authz check: unknown argument `--frm`; did you mean `--from`? (see `authz check --help`)"),
        (("a",), "authz check: unknown argument `a`; quote what has spaces in it (see `authz check --help`)"),
    ],
)
def test_what_cannot_be_asked_is_status_2_and_one_line(
    policies: Any, run: Any, words: tuple[str, ...], message: str
) -> None:
    status, out, err = run("check", "--policies", policies(*GOOD), *ASKED, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_set_with_faults_is_status_2_and_every_fault_a_line(policies: Any, run: Any) -> None:
    folder = policies(*GOOD, rule("q", callers="[{services: [c]}]", more=", x: y"))
    for words in (("check", "--policies", folder, *ASKED), ("test", folder)):
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert [line.split(": ", 1)[0] for line in err.splitlines()] == [
            f"{folder}/set.yaml:24:27",
            f"{folder}/set.yaml:24:101",
        ]


def test_flags_can_come_from_the_environment(policies: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("POLICIES", policies(*GOOD)),
        ("FROM", "a"),
        ("TO", "b"),
        ("METHOD", "GET"),
        ("PATH", "/x"),
        ("OUTPUT", "json"),
    ):
        monkeypatch.setenv(f"AUTHZ_{name}", value)
    assert run("check")[0] == 0
    assert run("check", "--path", "/y")[0] == 1


# --- streams


LINES = [
    b'{"from": "a", "to": "b", "method": "GET", "path": "/x"}',
    b"{bad",
    b"",
    b'{"from": "a", "to": "b", "method": "GET", "path": "/' + b"x" * 3_000_000 + b'"}',
    b'{"from": "nobody", "to": "b", "method": "GET", "path": "/x"}',
    b'{"from": "b", "to": "b", "method": "GET", "path": "/x"}\r',
]


def test_a_stream_is_answered_line_by_line_and_bad_lines_in_their_place(
    policies: Any, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    calls = tmp_path / "calls.jsonl"
    calls.write_bytes(b"\n".join(LINES))
    assert main(["check", "--policies", policies(*GOOD), "--calls", str(calls)]) == 2
    answers = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [answer.get("reason", "error") for answer in answers] == [
        "allowed",
        "error",
        "error",
        "error",
        "error",
        "no_policy",
    ]
    assert all(list(answer) == ["error"] for answer in answers[1:5])


def test_a_stream_of_denied_calls_is_status_0(policies: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    calls = tmp_path / "calls.jsonl"
    calls.write_bytes(LINES[-1] + b"\n")
    assert main(["check", "--policies", policies(*GOOD), "--calls", str(calls)]) == 0
    assert json.loads(capfd.readouterr().out)["decision"] == "deny"


def test_a_stream_that_is_not_there_is_one_line(policies: Any, run: Any) -> None:
    status, _, err = run("check", "--policies", policies(*GOOD), "--calls", "/nowhere/calls")
    assert (status, err) == (2, "--calls: /nowhere/calls: no such file or directory\n")


def test_whoever_asks_through_a_pipe_gets_each_answer_at_once(policies: Any) -> None:
    command = [sys.executable, "-m", "authz", "check", "--policies", policies(*GOOD), "--calls", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        for _ in range(3):
            asking.stdin.write(LINES[0] + b"\n")
            asking.stdin.flush()
            assert json.loads(asking.stdout.readline())["decision"] == "allow"
        asking.stdin.close()
        assert asking.wait() == 0


def test_ctrl_c_ends_a_stream_without_a_word(policies: Any) -> None:
    command = [sys.executable, "-m", "authz", "check", "--policies", policies(*GOOD), "--calls", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        asking.stdin.write(LINES[0] + b"\n")
        asking.stdin.flush()
        asking.stdout.readline()
        asking.send_signal(signal.SIGINT)
        _, err = asking.communicate()
    assert (asking.returncode, err) == (130, b"")


@pytest.mark.parametrize("command", ["lint", "test"])
def test_a_reader_of_findings_that_leaves_early_gets_no_complaint(policies: Any, command: str) -> None:
    many = [rule(f"r{number}", operations="all") for number in range(300)]
    folder = policies(*GOOD[:-1], *many, document("PolicyTest", "t", CASES))
    script = f"{sys.executable} -m authz {command} {folder} -o pretty | head -c 1 >/dev/null"
    ended = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_answers_that_cannot_be_written_are_not_blamed_on_the_calls(policies: Any, tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(LINES[0] + b"\n")
    command = f"{sys.executable} -m authz check --policies {policies(*GOOD)} --calls {tmp_path}/calls > /dev/full"
    ended = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (2, "authz: No space left on device\n")


# --- test


def test_a_failing_case_is_named_with_its_place_and_what_came(policies: Any, run: Any) -> None:
    folder = policies(*GOOD, document("PolicyTest", "t", CASES))
    status, out, _ = run("test", folder, "-o", "pretty")
    assert status == 1
    asked = "--from b --to b --method GET --path /x --at 2026-06-01T00:00:00.000Z"
    assert out.splitlines() == [
        f"{folder}/set.yaml:26:3: t / b <may> not & \\x07",
        "  expected  deny closed by `r`",
        "  got       deny no_policy",
        f"  why       authz explain --policies {folder} {asked}",
        "1 of 2 cases of 1 PolicyTest failed",
    ]


def test_cases_that_hold_are_status_0(policies: Any, run: Any) -> None:
    folder = policies(*GOOD, document("PolicyTest", "t", CASES))
    assert run("test", folder, "--filter", "a may", "-o", "pretty")[:2] == (0, "1 case of 1 PolicyTest passed\n")


def test_a_filter_that_fits_nothing_is_a_mistake(policies: Any, run: Any) -> None:
    status, _, err = run("test", policies(*GOOD, document("PolicyTest", "t", CASES)), "--filter", "c")
    assert (status, err) == (2, "--filter: no case of a PolicyTest contains `c`\n")


def test_a_set_without_tests_says_so(policies: Any, run: Any) -> None:
    status, out, _ = run("test", policies(*GOOD), "-o", "pretty")
    assert (status, out) == (0, "no PolicyTests in the set: nothing was tested\n")


def test_results_in_json(policies: Any, run: Any) -> None:
    status, out, _ = run("test", policies(*GOOD, document("PolicyTest", "t", CASES)), "-o", "json")
    result = json.loads(out)
    assert (status, result["passed"], result["failed"]) == (1, 1, 1)
    assert result["cases"][1]["expected"] == {"decision": "deny", "reason": "closed", "policy": "r"}
    assert result["cases"][1]["got"] == {"decision": "deny", "reason": "no_policy", "policy": None}


def test_the_command_that_a_failing_case_names_says_why(policies: Any, run: Any) -> None:
    _, out, _ = run("test", policies(*GOOD, document("PolicyTest", "t", CASES)), "-o", "pretty")
    (line,) = (line for line in out.splitlines() if line.startswith("  why "))
    status, explained, _ = run(*shlex.split(line)[2:], "-o", "pretty")
    assert (status, explained.splitlines()[0]) == (1, "deny: no_policy")


@pytest.mark.parametrize("command", ["lint", "test", "check"])
def test_a_file_or_an_empty_folder_is_named_as_such(run: Any, tmp_path: Path, command: str) -> None:
    words = ("check", *ASKED, "--policies") if command == "check" else (command,)
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "empty").mkdir()
    file = run(*words, str(tmp_path / "a.yaml"))
    assert file == (2, "", f"{tmp_path}/a.yaml: a file; give the folder that the whole set is in\n")
    status, out, err = run(*words, str(tmp_path / "empty"))
    assert status == (1 if command == "lint" else 2)
    assert "there is no `*.yaml` or `*.yml` file in the folder" in out + err
    assert "empty" in out + err


def test_results_in_junit(policies: Any, run: Any) -> None:
    status, out, _ = run("test", policies(*GOOD, document("PolicyTest", "t", CASES)), "-o", "junit")
    root = ET.fromstring(out)  # noqa: S314 our own output
    assert status == 1
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    cases = root.findall("./testsuite[@name='t']/testcase")
    assert [case.get("name") for case in cases] == ["a may", "b <may> not & \ufffd"]
    assert [len(case.findall("failure")) for case in cases] == [0, 1]
    place, why = (cases[1].findtext("failure") or "").splitlines()
    assert place.endswith(f"set.yaml:{cases[1].get('line')}:3")
    assert why.startswith("authz explain --policies ")


def test_a_rule_without_a_case_is_a_skipped_test_in_junit(policies: Any, run: Any) -> None:
    folder = policies(
        *GOOD, rule("q", operations="[{methods: [PUT], paths: [/q]}]"), document("PolicyTest", "t", CASES)
    )
    _, out, _ = run("test", folder, "-o", "junit", "--coverage")
    suite = ET.fromstring(out).find("testsuite[@name='rules without a case']")  # noqa: S314 our own output
    assert suite is not None
    assert [(case.get("name"), case.get("line")) for case in suite] == [("MicroPolicy q", "21")]
    assert suite.find("testcase/skipped") is not None


def test_rules_that_no_case_was_decided_by_are_named(policies: Any, run: Any) -> None:
    folder = policies(*GOOD, rule("untried", operations="all"), document("PolicyTest", "t", CASES))
    status, out, _ = run("test", folder, "--coverage", "-o", "pretty")
    assert status == 1
    assert out.splitlines()[-2:] == [
        "1 of 2 rules decided a case",
        f"  never: the MicroPolicy `untried`  {folder}/set.yaml:21",
    ]
    result = json.loads(run("test", folder, "--coverage", "-o", "json")[1])
    untried = [{"kind": "MicroPolicy", "policy": "untried", "path": f"{folder}/set.yaml", "line": 21}]
    assert result["coverage"] == {"rules": 2, "tried": 1, "untried": untried}
    assert "coverage" not in json.loads(run("test", folder, "-o", "json")[1])


# --- lint


def test_a_clean_set_is_status_0(policies: Any, run: Any) -> None:
    assert run("lint", policies(*GOOD), "-o", "pretty")[:2] == (0, "no findings\n")


def test_a_warning_is_status_1_and_an_accepted_one_0(policies: Any, run: Any) -> None:
    folder = policies(*GOOD[:-1], rule("r", operations="all"))
    status, out, _ = run("lint", folder, "-o", "pretty")
    assert status == 1
    assert out.splitlines()[0].endswith(
        "warning: every operation is allowed; name the ones that are needed [over-broad]"
    )
    assert out.splitlines()[-1] == "1 warning"


def test_an_accepted_warning_is_status_0(policies: Any, run: Any) -> None:
    annotation = ', annotations: {authz/accept: "over-broad agreed"}'
    folder = policies(*GOOD[:-1], rule("r", operations="all", metadata=annotation))
    status, out, _ = run("lint", folder, "-o", "json")
    result = json.loads(out)
    assert (status, result["counts"]) == (0, {"error": 0, "warning": 0, "note": 1})
    assert (result["findings"][0]["level"], result["findings"][0]["accepted"]) == ("note", "agreed")


def test_faults_are_errors_and_status_1(policies: Any, run: Any) -> None:
    folder = policies(*GOOD[:-1], rule("r", callers="[{services: [c]}]"))
    status, out, err = run("lint", folder, "-o", "pretty")
    assert (status, err) == (1, "")
    assert out.splitlines() == [f"{folder}/set.yaml:19:27: error: there is no Service `c` [reference]", "1 error"]


def test_findings_for_code_scanning(policies: Any, run: Any) -> None:
    folder = policies(*GOOD[:-1], rule("r", operations="all"))
    status, out, _ = run("lint", folder, "-o", "sarif")
    report = json.loads(out)
    assert (status, report["version"]) == (1, "2.1.0")
    (one_run,) = report["runs"]
    (result,) = one_run["results"]
    rules = one_run["tool"]["driver"]["rules"]
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == "over-broad"
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == f"{folder}/set.yaml"
    assert place["region"] == {"startLine": 19, "startColumn": 66}
    assert result["level"] == "warning"
    for each in rules:  # what GitHub's code scanning wants of a rule
        assert {"id", "shortDescription", "fullDescription", "help", "defaultConfiguration"} == each.keys()


def test_a_finding_stays_the_same_one_when_lines_above_it_come_and_go(policies: Any, run: Any) -> None:
    def fingerprints(*documents: str) -> list[str]:
        _, out, _ = run("lint", policies(*documents), "-o", "sarif")
        (one_run,) = json.loads(out)["runs"]
        return [each["partialFingerprints"]["authzFinding/v1"] for each in one_run["results"]]

    broad = [rule("r", operations="all"), rule("q", operations="[{methods: all, paths: all}]")]
    before, after = fingerprints(*GOOD[:-1], *broad), fingerprints("# a comment\n\n" + GOOD[0], *GOOD[1:-1], *broad)
    assert before == after
    assert len(set(before)) == len(before) > 2


def test_findings_for_a_pull_request(policies: Any, run: Any) -> None:
    folder = policies(*GOOD[:-1], rule("r", operations="all"))
    _, out, _ = run("lint", folder, "-o", "github")
    assert out == (
        f"::warning file={folder}/set.yaml,line=19,col=66,title=over-broad::"
        "every operation is allowed; name the ones that are needed\n"
    )


def test_a_folder_that_is_not_there_is_status_2(run: Any, tmp_path: Path) -> None:
    for command in ("lint", "test"):
        status, _, err = run(command, str(tmp_path / "nowhere"))
        assert (status, err) == (2, f"{tmp_path}/nowhere: there is no such folder\n")


@pytest.mark.parametrize("command", ["lint", "test", "check"])
def test_help_has_an_example(run: Any, command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"example:\n  authz {command} " in out


def test_the_clock_of_check_is_now(policies: Any, run: Any) -> None:
    folder = policies(*GOOD[:-1], rule("r", more=", window: {closes: 2026-01-01T00:00:00Z}"))
    status, out, _ = run("check", "--policies", folder, *ASKED, "-o", "json")
    assert (status, json.loads(out)["reason"]) == (1, "closed")
    assert parse_instant_ns("2026-01-01T00:00:00Z") > 0
