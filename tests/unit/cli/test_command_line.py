"""What holds for every command: help with an example, the environment, one line for a mistake, the exit status."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz.cli import main as command_line
from authz.cli.arguments import CommandParser, Subcommands, parse
from authz.cli.main import main
from authz.errors import UsageError

if TYPE_CHECKING:
    import argparse


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Give every command's parser by the words that call it."""
    found: dict[str, argparse.ArgumentParser] = {}
    for module in sorted({module for module, _ in command_line._COMMANDS.values()}):
        parser = CommandParser(prog="authz")
        importlib.import_module(module).add_commands(Subcommands(parser))
        collect(parser, (), found)
    return found


def collect(parser: argparse.ArgumentParser, words: tuple[str, ...], found: dict[str, argparse.ArgumentParser]) -> None:
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for name, below in action.choices.items():
                found[" ".join((*words, name))] = below
                collect(below, (*words, name), found)


PARSERS = parsers()


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "authz", *words], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_every_command_of_the_overview_exists() -> None:
    assert set(command_line._COMMANDS) == {name.split()[0] for name in PARSERS}


@pytest.mark.parametrize("command", sorted(PARSERS))
def test_every_help_has_an_example_that_its_parser_takes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    text = re.sub(r" +", " ", capsys.readouterr().out.replace("\n", " "))
    found = re.search(r"example: (authz .*?)\s*$", text)
    assert found is not None
    words = found[1].split("|")[0].split()[1:]
    assert words[: len(command.split())] == command.split()
    parser = CommandParser(prog="authz")
    importlib.import_module(command_line._COMMANDS[words[0]][0]).add_commands(Subcommands(parser))
    parse(parser, words)


@pytest.mark.parametrize("command", ["lint", "fmt", "test", "check", "explain", "diff", "schema"])
def test_the_example_of_a_policy_tool_runs_on_the_shops_policies(
    command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(Path(__file__).parents[3] / "policies", tmp_path / "policies")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    for words in (("init", "-q", "-b", "main"), ("add", "."), (*author, "commit", "-qm", "policies")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    assert main([command, "--help"]) == 0
    example = capfd.readouterr().out.partition("example:\n")[2].split()
    assert example[:2] == ["authz", command]
    status = main(example[1:])
    out, err = capfd.readouterr()
    assert err == ""
    # The one of `explain` is of a call that is denied.
    assert (status, json.loads(out)["decision"]) == (1, "deny") if command == "explain" else status == 0
    assert isinstance(json.loads(out), dict)  # one object, off a terminal


@pytest.mark.parametrize("command", sorted(PARSERS))
def test_every_long_flag_can_be_set_by_the_environment(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    for action in PARSERS[command]._actions:
        for option in action.option_strings:
            if option.startswith("--") and option not in {"--help", "--output"}:
                assert f"AUTHZ_{option.removeprefix('--').replace('-', '_').upper()}" in text


@pytest.mark.parametrize(
    "words",
    [
        ("frob",),
        ("check",),
        ("check", "--frob"),
        ("mesh",),
        ("mesh", "frob"),
        ("mesh", "call", "--from"),
        ("sidecar",),
        (),
    ],
)
def test_what_cannot_be_understood_ends_with_2_and_no_traceback(words: tuple[str, ...]) -> None:
    ended = run(*words)
    assert ended.returncode == 2
    assert ended.stderr or not words
    assert "Traceback" not in ended.stderr


def test_a_typed_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHZ_NAME", "from the environment")
    monkeypatch.setenv("AUTHZ_WORD", "environment")
    parser = CommandParser(prog="x")
    parser.add_flag("--name", required=True)
    parser.add_flag("--word", action="append")
    given = parse(parser, [])
    assert (given.name, list(given.word)) == ("from the environment", ["environment"])
    given = parse(parser, ["--name", "typed", "--word", "a", "--word", "b"])
    assert (given.name, given.word) == ("typed", ["a", "b"])
    assert list(parse(parser, []).word) == ["environment"]


@pytest.mark.parametrize(
    ("value", "on"),
    [
        *((word, True) for word in ("1", "true", "yes", "on", "TRUE", "Yes", "oN")),
        *((word, False) for word in ("0", "false", "no", "off", "False", "NO", "Off", "")),
    ],
)
def test_a_switch_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, on: bool) -> None:  # noqa: FBT001
    monkeypatch.setenv("AUTHZ_DETACH", value)
    parser = CommandParser(prog="x")
    parser.add_flag("--detach", action="store_true")
    assert parse(parser, []).detach is on


@pytest.mark.parametrize("value", ["maybe", "2", "y", "true ", "-1", "onn", "\x1b[31mtrue"])
def test_a_switch_that_the_environment_sets_to_no_yes_and_no_no_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("AUTHZ_DETACH", value)
    parser = CommandParser(prog="x")
    parser.add_flag("--detach", action="store_true")
    with pytest.raises(UsageError, match=r"^AUTHZ_DETACH=.*: choose from 1 or 0, true or false") as error:
        parse(parser, [])
    assert str(error.value).isprintable()
    assert parse(parser, ["--detach"]).detach is True


def test_a_switch_of_the_environment_that_cannot_be_read_ends_its_own_command_with_2_and_no_other() -> None:
    environment = {"AUTHZ_FOLLOW": "maybe", "AUTHZ_DETACH": "maybe"}
    ended = run("observe", "--hub", "http://127.0.0.1:1", **environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("AUTHZ_FOLLOW=`maybe`: choose from ")
    assert run("mesh", "up", "--policies", "policies", **environment).returncode == 2
    assert "AUTHZ_DETACH" not in run("mesh", "status", "--state", "/nonexistent", **environment).stderr
    assert run("observe", "--help", **environment).returncode == 0


def test_a_choice_of_the_environment_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHZ_PART", "foo")
    parser = CommandParser(prog="x")
    parser.add_flag("--part", choices=["a", "b"])
    with pytest.raises(UsageError, match=r"AUTHZ_PART=`foo`: choose from a, b"):
        parse(parser, [])
    assert parse(parser, ["--part", "b"]).part == "b"


def test_a_missing_flag_names_itself() -> None:
    parser = CommandParser(prog="x")
    parser.add_flag("--name", required=True)
    with pytest.raises(UsageError, match="--name"):
        parse(parser, [])


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"authz \d+\.\d+\.\d+ \(tzdata 20\d\d[a-z]\)\n", run("--version").stdout)


def test_a_reader_that_leaves_early_gets_no_complaint() -> None:
    script = f"{sys.executable} -m authz --help | head -c 1 >/dev/null"
    ended = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
