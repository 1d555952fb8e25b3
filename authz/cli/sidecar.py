"""`authz sidecar`: the ext_authz server beside one Envoy."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from authz.cli.arguments import YES
from authz.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from authz.cli.arguments import Subcommands


def add_commands(commands: Subcommands) -> None:
    """Add `sidecar`."""
    parser = commands.add(
        "sidecar",
        _sidecar,
        summary="run the ext_authz server beside one Envoy, until SIGTERM",
        example="authz sidecar --service orders --policies policies --socket /run/authz/check.sock",
    )
    parser.add_flag("--service", required=True, metavar="NAME", help="the Service whose sidecar this is")
    parser.add_flag("--policies", required=True, metavar="DIR", help="the policy folder; it is followed")
    parser.add_flag("--socket", required=True, metavar="PATH", help="the unix socket that Envoy asks on (mode 0660)")
    parser.add_flag("--state", metavar="DIR", help="keep the last good set and a status file here (mode 0700)")
    parser.add_flag("--decision-log", metavar="FILE", help="append every decision to this file, one JSON record a line")
    parser.add_flag(
        "--identity",
        metavar="files:DIR",
        help="read the workload's identity from DIR/svid.pem; without it, it is the Service's first exact identity",
    )


def _sidecar(given: argparse.Namespace) -> int:
    from authz.sidecar.run import SidecarSettings, run  # noqa: PLC0415 other commands start without grpc

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"authz sidecar {given.service}: %(levelname)s %(message)s",
    )
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    run(
        SidecarSettings(
            service=given.service,
            policies=_folder(given.policies),
            socket=given.socket,
            state=None if given.state is None else Path(given.state),
            decision_log=given.decision_log,
            identity_directory=_identity_directory(given.identity),
        )
    )
    return YES


def _folder(policies: str) -> str:
    if "://" in policies or policies.startswith("git@"):
        raise UsageError(f"--policies `{policies}`: policies from a git URL are not supported yet; give a folder")
    return policies


def _identity_directory(identity: str | None) -> str | None:
    if identity is None:
        return None
    source, _, directory = identity.partition(":")
    if source == "spire":
        raise UsageError(f"--identity `{identity}`: SPIRE is not supported yet; give files:DIR")
    if source != "files" or not directory:
        raise UsageError(f"--identity `{identity}`: give files:DIR")
    return directory
