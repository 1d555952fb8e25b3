"""Every `authz` command that the documents show exists, with the flags that they show."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from authz.cli import main as command_line
from authz.cli.arguments import CommandParser, Subcommands, parse
from authz.policy.document import SourceFile
from authz.policy.formatting import formatted

DOCS = Path(__file__).parents[3] / "docs"
SHOWN = re.compile(r"(?<![\w./-])authz ((?:fmt|lint|test|check|explain|diff|schema|windows)\b[^\n`#]*)")


def commands() -> list[str]:
    found = []
    for name in ("ci.md", "editors.md", "windows.md"):
        for text in SHOWN.findall((DOCS / name).read_text()):
            found += [part for part in re.split(r"\s*(?:&&|\|\||>>?)\s*", f"authz {text}") if part.startswith("authz ")]
    return sorted({each.strip() for each in found if len(each.split()) > 2 or each == "authz schema"})


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documents_is_taken(command: str) -> None:
    words = shlex.split(command)[1:]
    parser = CommandParser(prog="authz")
    importlib.import_module(command_line._COMMANDS[words[0]][0]).add_commands(Subcommands(parser))
    parse(parser, words)


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / name).read_text(), re.MULTILINE | re.DOTALL)


def test_the_recipes_can_be_read() -> None:
    assert [list(yaml.safe_load(block)) for block in blocks("ci.md", "yaml")] == [
        ["name", True, "permissions", "jobs"],  # GitHub's `on` is a boolean for readers of YAML 1.1
        ["policies"],
    ]


def recipe(which: int) -> list[str]:
    """Give the commands of a recipe, without those that install or fetch."""
    whole = yaml.safe_load(blocks("ci.md", "yaml")[which])
    job = whole["jobs"]["policies"] if which == 0 else whole["policies"]
    steps = (
        [step["run"] for step in job["steps"] if "run" in step] if which == 0 else job["script"] + job["after_script"]
    )
    return [step for step in steps if not step.startswith(("pip ", "git "))]


@pytest.mark.parametrize("which", [0, 1], ids=["GitHub", "GitLab"])
def test_a_recipe_runs_and_comments_what_a_branch_changes(which: int, tmp_path: Path) -> None:
    shutil.copytree(DOCS.parent / "policies", tmp_path / "policies")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    for words in (
        ("init", "-q", "-b", "main"),
        ("add", "."),
        (*author, "commit", "-qm", "policies"),
        ("update-ref", "refs/remotes/origin/main", "HEAD"),
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    changed = tmp_path / "policies" / "partners" / "acme-analytics.yaml"
    changed.write_text(changed.read_text().replace("closes: 2027-03-01", "closes: 2027-02-01"))
    (tmp_path / "bin").mkdir()
    for name in ("gh", "curl"):  # what would leave this machine
        (tmp_path / "bin" / name).write_text('#!/bin/sh\ncp comment.md commented.md\necho "$@" > commented-with\n')
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    known = {"PATH": path, "GITHUB_BASE_REF": "main", "BASE": "main", "PR": "7", "HOME": str(tmp_path)}
    for step in recipe(which):
        done = subprocess.run(
            ["bash", "-e", "-c", step], cwd=tmp_path, env=known, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), step
    assert "becomes denied: decommissioned" in (tmp_path / "commented.md").read_text()
    assert "comment.md" in (tmp_path / "commented-with").read_text()
    assert 'failures="0"' in (tmp_path / "policies.xml").read_text()


def test_the_settings_can_be_read() -> None:
    assert all(json.loads(block) for block in blocks("editors.md", "json"))


def test_the_policy_that_is_shown_to_editors_is_formatted() -> None:
    (block,) = blocks("editors.md", "yaml")
    assert formatted(SourceFile("x.yaml", block.encode())).decode() == block
