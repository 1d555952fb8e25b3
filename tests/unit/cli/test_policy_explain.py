"""`authz explain` as it is typed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from authz.cli.main import main
from tests.support.policy_sets import write
from tests.support.policy_texts import MESH, rule, service

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ASKED = ("--from", "a", "--to", "b", "--method", "GET", "--path", "/x", "--at", "2026-06-01T00:00:00Z")
SET = (MESH, service("a"), service("b"), rule("r", more=", window: {closes: 2026-05-29T00:00:00Z}"))


def test_a_person_sees_the_steps_the_window_in_words_and_the_nearest_rule(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "policies", *SET)
    assert main(["explain", "--policies", folder, *ASKED, "-o", "pretty"]) == 1
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert lines[:2] == ["deny: closed, by `r`", f"written in {folder}/set.yaml:16"]
    assert lines[lines.index("steps") + 1 :] == [
        "1 request well-formed; the path is `/x`",
        "2 caller `spiffe://shop.example/a` is the Service `a`",
        "3 destination the Service `b`, inbound",
        "4 guardrails no Guardrail matches",
        "5 third party no ThirdParty takes part",
        "6 rules 1 MicroPolicy matches, and none is open",
        f"7 windows `r` ({folder}/set.yaml:16) closed 3 days ago, at 2026-05-29T00:00:00Z -> deny: closed",
        "to allow it",
        f"move `closes` of `r` ({folder}/set.yaml:19)",
        "nearest rules, and what the call lacks for them",
        f"`r` {folder}/set.yaml:16",
        "window: closed 3 days ago, at 2026-05-29T00:00:00Z",
    ]


def test_a_program_gets_the_answer_of_check_with_the_steps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "policies", *SET[:-1], rule("r"))
    assert main(["check", "--policies", folder, *ASKED, "-o", "json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert main(["explain", "--policies", folder, *ASKED, "-o", "json"]) == 0
    explained = json.loads(capfd.readouterr().out)
    assert {key: explained[key] for key in answer} == answer
    assert explained["place"] == f"{folder}/set.yaml:16"
    assert explained["steps"][-1] == {
        "step": 6,
        "name": "rules",
        "found": f"`r` ({folder}/set.yaml:16) matches, and is always open",
        "reason": "allowed",
        "policy": "r",
    }
    assert explained["nearest"] == []
    assert explained["to_allow"] is None


def test_a_misspelt_name_is_one_line_and_status_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "policies", MESH, service("storefront"), service("b"))
    words = ["--from", "storefrnt", "--to", "b", "--method", "GET", "--path", "/"]
    assert main(["explain", "--policies", folder, *words]) == 2
    message = "--from: there is no Service or ThirdParty `storefrnt`; did you mean `storefront`?\n"
    assert capfd.readouterr().err == message
