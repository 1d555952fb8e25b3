"""docs/container-attestation.md says what the program takes: its policy is one, its commands are the command line's."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.cli import main as command_line
from authz.cli.arguments import CommandParser, Subcommands, parse
from authz.issuer.registration import registry_of
from authz.policy.document import SourceFile
from authz.policy.policy_set import parse_policy_set
from tests.support.issuer_process import MESH

TEXT = (Path(__file__).parents[3] / "docs/container-attestation.md").read_text()
BLOCKS = dict(re.findall(r"```yaml\n# (\w+)\n(.*?)```", TEXT, re.DOTALL))
COMPOSE: dict[str, Any] = yaml.safe_load(BLOCKS["compose"])


def test_the_policy_registers_a_container() -> None:
    content = f"{MESH}---\n{BLOCKS['policy']}".encode()
    policy_set = parse_policy_set([SourceFile(path="set.yaml", content=content)])
    (entry,) = registry_of(policy_set).registrations["orders"].attest
    assert entry.container is not None
    assert entry.container.image is not None
    assert entry.container.labels


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_each_command_is_one_of_the_command_line(name: str) -> None:
    words = COMPOSE["services"][name]["command"]
    module = importlib.import_module(command_line._COMMANDS[words[0]][0])
    parser = CommandParser(prog="authz")
    module.add_commands(Subcommands(parser))
    assert callable(parse(parser, words).run)


def test_what_is_mounted_is_what_the_commands_name() -> None:
    for container in COMPOSE["services"].values():
        mounted = {volume.split(":")[1] for volume in container["volumes"]}
        mounted |= {mount.split(":")[0] for mount in container.get("tmpfs", ())}
        paths = [match for word in container["command"] for match in re.findall(r"(?:^|[=:])(/[a-z/.]+)", word)]
        assert paths
        assert all(any(path == place or path.startswith(f"{place}/") for place in mounted) for path in paths)
        assert {volume.split(":")[0] for volume in container["volumes"]} <= {"./policies", *COMPOSE["volumes"]}
