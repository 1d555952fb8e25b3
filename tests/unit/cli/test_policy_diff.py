"""`authz diff` as it is typed, between folders and between revisions of real git repositories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from authz.cli import policy_diff
from authz.cli.main import main
from tests.support.policy_sets import write
from tests.support.policy_texts import MESH, rule, service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD = (MESH, service("a"), service("b"), rule("r"))
NEW = (MESH, service("a"), service("b"), rule("r", operations="[{methods: [PUT], paths: [/x]}]"))
CALL = {"from": "a", "to": "b", "method": "GET", "path": "/x", "at": "2026-06-01T00:00:00Z"}


def git(repository: Path, *words: str) -> str:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{f"GIT_{who}_{what}": "t@example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    command = ["git", "-C", str(repository), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Give a repository whose first commit has the old policies, and whose second one and work tree have the new."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "README.md").write_text("x")
    for number, documents in enumerate((OLD, NEW)):
        write(folder / "policies", *documents)
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", f"commit {number}")
    return folder


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run_words(*words: str) -> tuple[int, str, str]:
        status = main(["diff", *words])
        out, err = capfd.readouterr()
        return status, out, err

    return run_words


def test_two_folders_that_say_the_same_are_status_0(tmp_path: Path, run: Any) -> None:
    folders = [write(tmp_path / name, *documents) for name, documents in (("x", OLD), ("y", OLD[::-1]))]
    status, out, _ = run(*folders, "-o", "pretty")
    assert (status, out.splitlines()[-1]) == (0, "no difference: every call gets the same verdict at every time")


def test_what_differs_is_status_1_and_a_line_each(tmp_path: Path, run: Any) -> None:
    status, out, _ = run(write(tmp_path / "x", *OLD), write(tmp_path / "y", *NEW), "-o", "pretty")
    assert status == 1
    assert out.splitlines()[2:] == [
        "- a -> b: GET /x becomes denied: no_policy (was allowed by `r`)",
        "+ a -> b: PUT /x becomes allowed by `r` (was no_policy)",
        "1 becomes allowed, 1 becomes denied",
    ]


def test_operations_that_change_alike_stand_in_one_line(tmp_path: Path, run: Any) -> None:
    both = rule("r", operations="[{methods: [GET], paths: [/x, /y]}]")
    status, out, _ = run(write(tmp_path / "x", *OLD[:-1]), write(tmp_path / "y", *OLD[:-1], both), "-o", "pretty")
    assert status == 1
    assert out.splitlines()[2:] == [
        "+ a -> b: GET /x; GET /y becomes allowed by `r` (was no_policy)",
        "2 become allowed",
    ]


def test_many_differences_are_put_together_and_json_has_each(tmp_path: Path, run: Any) -> None:
    services = [service(f"s{number}") for number in range(30)]
    rules = [
        rule(f"r{number}", to=f"{{services: [s{number % 30}]}}", operations=f"[{{methods: [GET], paths: [/{number}]}}]")
        for number in range(300)
    ]
    folders = [write(tmp_path / "x", *OLD, *services), write(tmp_path / "y", *OLD, *services, *rules)]
    status, out, _ = run(*folders, "-o", "pretty")
    lines = out.splitlines()[2:]
    assert (status, len(lines)) == (1, 32)
    assert lines[0].startswith("+ a -> s0: 10 times something becomes allowed, such as GET /")
    assert lines[-2:] == [
        "300 differences are too many to be shown one by one; -o json has each, with an example",
        "300 become allowed",
    ]
    assert len(json.loads(run(*folders, "-o", "json")[1])["differences"]) == 300


def test_the_same_two_sets_give_the_same_text_in_every_process(tmp_path: Path) -> None:
    anybody = '[{services: [a, b], identities: ["spiffe://shop.example/*"]}]'
    more = rule("q", callers=anybody, to="{services: [a, b]}", operations="[{methods: [GET, PUT, POST], paths: all}]")
    folders = [write(tmp_path / "x", *OLD), write(tmp_path / "y", *NEW, more)]
    # Midnight may pass between two processes: all get the same clock.
    program = (
        "import time; time.time_ns = lambda: 1_800_000_000 * 10**9\n"
        f"from authz.cli.main import main; main(['diff', {folders[0]!r}, {folders[1]!r}, '-o', 'json'])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert [len(json.loads(each)["differences"]) for each in found] == [4]


def test_what_takes_long_says_how_far_it_is(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [write(tmp_path / "x", *OLD), write(tmp_path / "y", *NEW)]
    assert run(*folders)[2] == ""
    monkeypatch.setattr(policy_diff, "PATIENCE_S", 0.0)
    status, _, err = run(*folders)
    assert status == 1
    assert err.splitlines() == [
        f"reading {folders[0]}",
        f"reading {folders[1]}",
        "compiling both",
        "compared 0 of 1 destinations that changed",
    ]


def test_the_example_of_a_difference_can_be_checked(
    tmp_path: Path, run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = [write(tmp_path / "x", *OLD), write(tmp_path / "y", *NEW)]
    result = json.loads(run(*folders, "-o", "json")[1])
    assert [each["becomes"] for each in result["differences"]] == ["deny", "allow"]
    assert result["differences"][0]["spans"] == [{"from": None, "until": None}]
    assert [result["differences"][0][field] for field in ("callers", "destinations", "times")] == [["a"], ["b"], 1]
    for each in result["differences"]:
        (tmp_path / "call").write_text(json.dumps(each["example"]))
        answers = []
        for folder in folders:
            main(["check", "--policies", folder, "--calls", str(tmp_path / "call")])
            answers.append(json.loads(capfd.readouterr().out)["decision"])
        assert answers[0] != answers[1] == each["becomes"]


def test_a_revision_is_read_by_the_hash_of_its_commit(repository: Path, run: Any) -> None:
    first = git(repository, "rev-parse", "HEAD~1")
    status, out, _ = run("HEAD~1", str(repository / "policies"), "-o", "json")
    result = json.loads(out)
    assert (status, len(result["differences"])) == (1, 2)
    assert result["old"]["source"] == f"HEAD~1 ({first[:12]}:policies)"


def test_a_revision_and_the_folder_that_it_has_are_the_same(repository: Path, run: Any) -> None:
    assert run("main", str(repository / "policies"))[0] == 0
    assert run(f"{git(repository, 'rev-parse', 'HEAD')}:policies", str(repository / "policies"))[0] == 0


def test_two_revisions_are_compared_in_the_folder_policies_of_here(
    repository: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    assert run("HEAD~1", "HEAD")[0] == 1
    assert run("HEAD~1", "HEAD~1:policies")[0] == 0
    status, _, err = run("HEAD~1", "HEAD", "--policies", "elsewhere")
    assert (status, "elsewhere: there is no such folder in this commit" in err) == (2, True)


def test_links_to_files_are_followed_and_hidden_files_left_out(repository: Path, run: Any) -> None:
    policies = repository / "policies"
    (policies / "set.yaml").rename(repository / "elsewhere.yaml")
    (policies / "set.yaml").symlink_to("../elsewhere.yaml")
    (policies / ".hidden.yaml").write_text("no: policy")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "links")
    assert run("HEAD", str(policies))[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("nowhere", "{folder}"),
            "`nowhere` is neither a folder nor a git revision; check how it is written, or fetch it first",
        ),
        (("--", "--help", "{folder}"), "`--help` is no git revision"),
        (("HEAD:nowhere", "{folder}"), "nowhere: there is no such folder in this commit; write REVISION:FOLDER"),
        (("HEAD:../x", "{folder}"), "`../x`: give the folder as it is called in the repository, from its root"),
        (("", "{folder}"), "an empty text is neither a folder nor a git revision"),
        (("{folder}/set.yaml", "{folder}"), "is a file; give the folder of the policies, or a git revision"),
        (("HEAD~1", "{folder}", "--calls", "/nowhere"), "--calls: /nowhere: no such file or directory"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_status_2(
    repository: Path, run: Any, words: tuple[str, ...], message: str
) -> None:
    status, out, err = run(*(word.replace("{folder}", str(repository / "policies")) for word in words))
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_revision_outside_of_a_repository_says_where_to_run_it(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    status, _, err = run("HEAD", write(tmp_path / "x", *OLD))
    assert status == 2
    assert "is in no git repository, and there is no such folder; run this within the repository" in err


def test_a_set_with_faults_in_a_commit_names_the_commit_and_the_line(repository: Path, run: Any) -> None:
    write(repository / "policies", *OLD, rule("q", more=", x: y"))
    git(repository, "commit", "-q", "-a", "-m", "broken")
    write(repository / "policies", *OLD)
    commit = git(repository, "rev-parse", "--short=12", "HEAD")
    status, _, err = run("HEAD", str(repository / "policies"))
    assert status == 2
    assert err.startswith(f"{commit}:policies/set.yaml:24:")


# --- recorded calls

RECORD = {
    "decision_id": "1",
    "time": "2026-06-01T00:00:00.000Z",
    "sidecar": "b",
    "direction": "inbound",
    "caller": {"identity": "spiffe://shop.example/a", "service": "a", "third_party": None},
    "destination": {"service": "b", "third_party": None, "host": "b"},
    "method": "GET",
    "route": "/x",
    "path": None,
    "protocol": "http/1.1",
    "tls": {"version": "TLSv1_3", "cipher": None, "peer_serial": None},
}


def test_recorded_calls_that_would_be_answered_differently_are_counted(tmp_path: Path, run: Any) -> None:
    folders = [write(tmp_path / "x", *OLD), write(tmp_path / "y", *NEW)]
    later = {**RECORD, "time": "2026-06-02T00:00:00.000Z"}
    lines = [RECORD, later, {**RECORD, "route": None, "path": "/y"}, {**CALL, "method": "PUT"}]
    (tmp_path / "calls").write_text("\n".join(json.dumps(line) for line in lines))
    status, out, _ = run(*folders, "--calls", str(tmp_path / "calls"), "-o", "pretty")
    assert status == 1
    assert out.splitlines()[2:] == [
        "- 2 calls a -> b: GET /x would be denied: no_policy (was allowed by `r`)",
        "    first 2026-06-01T00:00:00Z, last 2026-06-02T00:00:00Z",
        "+ 1 call a -> b: PUT /x would be allowed by `r` (was no_policy)",
        "    first 2026-06-01T00:00:00Z, last 2026-06-01T00:00:00Z",
        "3 of 4 calls would get another verdict",
    ]
    result = json.loads(run(*folders, "--calls", str(tmp_path / "calls"), "-o", "json")[1])
    assert (result["calls"], result["changed"], result["differences"][0]["count"]) == (4, 3, 2)


def test_a_route_with_variables_stands_for_a_path(tmp_path: Path, run: Any) -> None:
    operation = '[{methods: [GET], paths: ["/items/{id}"]}]'
    folders = [
        write(tmp_path / "x", *OLD[:-1], rule("r", operations=operation)),
        write(tmp_path / "y", *OLD[:-1]),
    ]
    (tmp_path / "calls").write_text(json.dumps({**RECORD, "route": "/items/{id}"}))
    result = json.loads(run(*folders, "--calls", str(tmp_path / "calls"), "-o", "json")[1])
    assert [each["operation"] for each in result["differences"]] == ["GET /items/{id}"]


def test_calls_that_both_answer_alike_are_status_0(tmp_path: Path, run: Any) -> None:
    folders = [write(tmp_path / "x", *OLD), write(tmp_path / "y", *OLD)]
    (tmp_path / "calls").write_text(json.dumps(CALL))
    status, out, _ = run(*folders, "--calls", str(tmp_path / "calls"), "-o", "pretty")
    assert (status, out.splitlines()[-1]) == (0, "1 call, no difference")


def test_lines_that_are_no_calls_are_named_and_status_2(tmp_path: Path, run: Any) -> None:
    folders = [write(tmp_path / "x", *OLD), write(tmp_path / "y", *OLD)]
    bad = ["{", json.dumps({**RECORD, "route": None}), json.dumps({**CALL, "from": "nobody"}), '{"caller": {}}']
    (tmp_path / "calls").write_text("\n".join([json.dumps(CALL), *bad]))
    status, out, err = run(*folders, "--calls", str(tmp_path / "calls"), "-o", "pretty")
    assert (status, out.splitlines()[-2:]) == (2, ["1 call, no difference", "4 lines left out: no calls"])
    assert [line.split(": ")[0] for line in err.splitlines()] == [
        f"{tmp_path}/calls:{number}" for number in (2, 3, 4, 5)
    ]
