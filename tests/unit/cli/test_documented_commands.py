"""Every `authz` command that the documents show exists, with the flags that they show."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from authz.cli import main as command_line
from authz.cli.arguments import CommandParser, Subcommands, parse
from authz.policy.document import SourceFile
from authz.policy.formatting import formatted

DOCS = Path(__file__).parents[3] / "docs"
SHOWN = re.compile(r"(?<![\w./-])authz ((?:fmt|lint|test|check|explain|diff|schema)\b[^\n`#]*)")


def commands() -> list[str]:
    found = []
    for name in ("ci.md", "editors.md"):
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


def test_the_recipes_and_the_settings_can_be_read() -> None:
    assert [list(yaml.safe_load(block)) for block in blocks("ci.md", "yaml")] == [
        ["name", True, "permissions", "jobs"],  # GitHub's `on` is a boolean for readers of YAML 1.1
        ["policies"],
    ]
    assert all(json.loads(block) for block in blocks("editors.md", "json"))


def test_the_policy_that_is_shown_to_editors_is_formatted() -> None:
    (block,) = blocks("editors.md", "yaml")
    assert formatted(SourceFile("x.yaml", block.encode())).decode() == block
