"""What docs/issuer.md shows is what happens."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from authz.cli import main as command_line
from authz.cli.arguments import CommandParser, Subcommands, parse
from tests.support.issuer_process import Issuer

TEXT = (Path(__file__).parents[2] / "docs/issuer.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_its_commands_are_taken() -> None:
    commands = re.findall(r"^\$ authz (.*)$", TEXT, re.MULTILINE)
    assert commands
    for command in commands:
        parser = CommandParser(prog="authz")
        words = shlex.split(command)
        importlib.import_module(command_line._COMMANDS[words[0]][0]).add_commands(Subcommands(parser))
        parse(parser, words)


def test_its_policies_and_its_program_give_the_identity_that_they_say() -> None:
    (policies,) = blocks("yaml")
    (program,) = blocks("python")
    assert "uid: 1001" in policies
    with Issuer(policies.replace("uid: 1001", f"uid: {os.getuid()}")) as issuer:
        environment = {**os.environ, "SPIFFE_ENDPOINT_SOCKET": f"unix://{issuer.socket}"}
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        )
        assert ran.stdout.split() == ["spiffe://shop.example/ns/shop/sa/orders"] * 2


def test_its_numbers_are_those_of_the_program() -> None:
    from authz.issuer import refusals, settings, workload_api_server  # noqa: PLC0415 beside what they are compared to
    from authz.workload_api import peer_front  # noqa: PLC0415 same

    for number, what in (
        (peer_front.MAX_CONNECTIONS, "connections,"),
        (peer_front.MAX_CONNECTIONS_OF_A_USER, "of one user"),
        (peer_front.MAX_CONNECTIONS_OF_A_PROCESS, "of one process;"),
        (workload_api_server.MAX_CALLS_OF_A_PROCESS, "calls of one process"),
        (workload_api_server.MAX_REQUEST_BYTES // 1024, "KiB"),
        (refusals.BURST, "at once"),
        (int(refusals.RATE_PER_S), "a second"),
    ):
        assert f"{number} {what}" in TEXT
    assert (settings.SVID_LIFETIME.seconds, settings.JWT_LIFETIME.seconds) == (3600, 300)
    assert settings.AUTHORITY_LIFETIME.days == 7
