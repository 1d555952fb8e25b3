"""What docs/hub.md shows is what happens."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path

from authz.cli import main as command_line
from authz.cli.arguments import CommandParser, Subcommands, parse
from authz.hub.access import Access
from authz.hub.operations import OPERATIONS
from authz.hub.server import BURST, RATE_A_SECOND
from authz.hub.store.store import Retention
from authz.records.batch import MAX_BATCH_BYTES
from tests.support.hub_process import Hub, batch, flow, record

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/hub.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_its_commands_are_taken() -> None:
    commands = re.findall(r"^    authz (.*?)(?:  +#.*)?$", TEXT, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        words = [word for word in shlex.split(command) if word != "..."]
        if words[0] == "sidecar":
            words += ["--service", "a", "--policies", "b", "--socket", "c"]
        parser = CommandParser(prog="authz")
        importlib.import_module(command_line._COMMANDS[words[0]][0]).add_commands(Subcommands(parser))
        parse(parser, words)


def test_its_requests_are_answered() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    with Hub("--policies", str(ROOT / "policies")) as hub:
        revision = hub.answer("/status")["policies"]["revision"]
        assert hub.send(batch(1, [flow(count=2)], [record(1, revision=revision)]))[0] == 200
        for command in commands:
            words = shlex.split(command.replace("$HUB", hub.url).replace("$ID", record(1)["decision_id"]))
            ran = subprocess.run([*words, "-w", "\n%{http_code}"], check=True, capture_output=True, text=True)
            body, _, status = ran.stdout.rpartition("\n")
            assert status == "200", (command, body)
            assert json.loads(body)


def test_every_question_of_the_api_has_an_example() -> None:
    asked = {re.sub(r"\?.*", "", path) for path in re.findall(r"\$HUB/api/v1([^\"]*)\"", TEXT)}
    for operation in OPERATIONS:
        pattern = re.sub(r"\{[a-z]+\}", "[^/]+", operation.path)
        assert any(re.fullmatch(pattern, path) for path in asked), operation.path


def test_its_access_file_is_one() -> None:
    (access,) = blocks("json")
    assert Access.from_json(access.encode()).of_token("test") is not None


def test_its_numbers_are_those_of_the_program() -> None:
    kept = Retention()
    assert f"| flows by 10 s | {kept.seconds_days} days |" in TEXT
    assert f"| flows by the minute | {kept.minutes_days} days |" in TEXT
    assert f"| flows by the hour | {kept.hours_days} days |" in TEXT
    assert f"| records of denied calls | {kept.denied_days} days |" in TEXT
    assert f"| records of allowed calls | {kept.allowed_days} days |" in TEXT
    assert f"At most {RATE_A_SECOND:.0f} questions a second" in TEXT
    assert f"batch of at most {MAX_BATCH_BYTES // 1024 // 1024} MiB" in TEXT
    assert BURST >= RATE_A_SECOND
