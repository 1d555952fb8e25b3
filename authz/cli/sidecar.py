"""`authz sidecar`: the ext_authz server beside one Envoy."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from authz.cli.arguments import YES
from authz.errors import UsageError
from authz.sidecar.settings import MAX_WORKERS, Audit, CheckTransport, SidecarSettings, default_workers

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
        "--workers",
        type=int,
        metavar="N",
        help="how many processes answer, the first on PATH, the others on PATH.2 and so on"
        " (default: 2, or 1 where there is one core)",
    )
    parser.add_flag(
        "--audit",
        choices=[audit.value for audit in Audit],
        default=Audit.BEST_EFFORT.value,
        help="what becomes of a call whose record finds no room: it is answered, or with `strict` denied"
        " (default: best-effort)",
    )
    parser.add_flag(
        "--check-transport",
        choices=[transport.value for transport in CheckTransport],
        default=CheckTransport.NATIVE.value,
        help="`grpcio` is the fallback: one process, one socket (default: native)",
    )
    parser.add_flag(
        "--identity",
        metavar="files:DIR",
        help="read the workload's identity from DIR/svid.pem; without it, it is the Service's first exact identity",
    )


def _sidecar(given: argparse.Namespace) -> int:
    from authz.sidecar.run import run  # noqa: PLC0415 `--help` runs nothing

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"authz sidecar {given.service}: %(levelname)s %(message)s",
    )
    transport = CheckTransport(given.check_transport)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    run(
        SidecarSettings(
            service=given.service,
            policies=_folder(given.policies),
            socket=given.socket,
            state=None if given.state is None else Path(given.state),
            decision_log=given.decision_log,
            identity_directory=_identity_directory(given.identity),
            workers=_workers(given.workers, transport),
            audit=_audit(given, transport),
        ),
        transport=transport,
    )
    return YES


def _workers(workers: int | None, transport: CheckTransport) -> int:
    if transport is CheckTransport.GRPCIO:
        if workers not in {None, 1}:
            raise UsageError(f"--workers {workers}: with --check-transport grpcio there is one")
        return 1
    if workers is None:
        return default_workers()
    if not 1 <= workers <= MAX_WORKERS:
        raise UsageError(f"--workers {workers}: give 1 to {MAX_WORKERS}")
    return workers


def _audit(given: argparse.Namespace, transport: CheckTransport) -> Audit:
    audit = Audit(given.audit)
    if audit is Audit.STRICT and given.decision_log is None:
        raise UsageError("--audit strict: say with --decision-log where records go")
    if audit is Audit.STRICT and transport is CheckTransport.GRPCIO:
        raise UsageError("--audit strict: not with --check-transport grpcio")
    return audit


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
