from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from authz.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

USAGE = 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "say where the authorities' keys are kept: --state DIR, or --in-memory"),
        (["--in-memory", "--state", "x"], "say where the authorities' keys are kept"),
        (["--in-memory", "--workload-socket", "orders"], "is not SERVICE=PATH"),
        (["--in-memory", "--workload-socket", "a=/x", "--workload-socket", "a=/y"], "one for each Service"),
        (["--in-memory", "--workload-socket-mode", "888"], "no mode such as"),
        (["--in-memory", "--svid-lifetime", "1s"], "--svid-lifetime: 2 s at least"),
        (["--in-memory", "--svid-lifetime", "1 hour"], "no duration such as"),
        (["--in-memory", "--jwt-lifetime", "0s"], "no duration such as"),
        (["--in-memory", "--svid-lifetime", "2h", "--authority-lifetime", "11h"], "lives 6 times as long"),
        (["--in-memory", "--orchestrator-socket", "{socket}"], "same path"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    arguments: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set.yaml").write_text(
        "apiVersion: authz/v1\nkind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomains: [shop.example]}\n", "utf-8"
    )
    socket = str(tmp_path / "s")
    given = [word.format(socket=socket) for word in arguments]
    assert main(["identity", "serve", "--policies", str(tmp_path), "--socket", socket, *given]) == USAGE
    error = capsys.readouterr().err
    assert why in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--upstream-authority", "/nowhere"], "/nowhere: no such file"),
        (["--workload-socket", "nobody=/tmp/x"], "no such Service has an exact identity"),
        (["--policies", "/nowhere"], "/nowhere"),
    ],
)
def test_what_is_found_wrong_at_the_start_is_said_in_one_line(arguments: list[str], why: str, tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text(
        "apiVersion: authz/v1\nkind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomains: [shop.example]}\n", "utf-8"
    )
    given = ["--policies", str(tmp_path), "--socket", str(tmp_path / "s"), "--in-memory", *arguments]
    # In a process of its own: it hides its memory before it reads anything.
    command = [sys.executable, "-m", "authz", "identity", "serve", *given]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == USAGE
    assert why in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_its_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identity", "serve", "--help"]) == 0
    said = capsys.readouterr().out
    assert "authz identity serve --policies policies --socket /run/authz/workload.sock --in-memory" in said
