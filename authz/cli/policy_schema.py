"""`authz schema`: the JSON Schema of the policy files, for editors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from authz.cli.arguments import YES
from authz.cli.output import add_output, output_of
from authz.policy.json_schema import json_schema

if TYPE_CHECKING:
    import argparse

    from authz.cli.arguments import Subcommands


def add_commands(commands: Subcommands) -> None:
    """Add `schema`."""
    parser = commands.add(
        "schema",
        _schema,
        summary="print the JSON Schema (2020-12) of the policy files; editors complete and check with it",
        example="authz schema",
    )
    add_output(parser, ("pretty", "json"))


def _schema(given: argparse.Namespace) -> int:
    output_of(given)  # it is JSON in either form; a wrong one is a mistake here, too
    print(json.dumps(json_schema(), indent=2))
    return YES
