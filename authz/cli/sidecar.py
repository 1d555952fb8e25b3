"""`authz sidecar`: the ext_authz server beside one Envoy."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING

from authz.cli.arguments import YES
from authz.cli.sidecar_records import add_record_flags, record_settings
from authz.errors import UsageError
from authz.sidecar.errors import SidecarError
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
        metavar="spire:SOCKET|files:DIR",
        help="where the workload's identity comes from: a SPIFFE Workload API (SPIRE's agent, `authz identity serve`)"
        " at this socket, or DIR/svid.pem, with whom it trusts in bundle.json or bundle.pem and bundle.TRUSTDOMAIN.json"
        " or .pem; without it, it is the Service's first exact identity",
    )
    parser.add_flag(
        "--sds-socket",
        metavar="PATH",
        help="give that identity and the trusted bundles to Envoy by SDS, on this unix socket (mode 0600)",
    )
    parser.add_flag(
        "--svid-files",
        metavar="DIR",
        help="keep SVID, key and bundles as files there (mode 0600), for what can read nothing else",
    )
    parser.add_flag(
        "--access-log-socket",
        metavar="PATH",
        help="the unix socket (mode 0600) on which Envoy tells of calls that ended and of failed handshakes",
    )
    add_record_flags(parser)
    parser.add_flag(
        "--hold-socket",
        metavar="PATH",
        help="the unix socket (mode 0660) on which Envoy has long calls held, so that they are cut when their"
        " permission is taken back (default: they run until the deadline that they began with)",
    )
    parser.add_flag(
        "--listeners",
        metavar="FILE",
        help="the file that Envoy reads its listeners from (`authz envoy --listeners-dir`): calls that are not held and"
        " lose their permission are ended by draining their connections; needs --hold-socket and --access-log-socket"
        " (default: they run until the deadline that they began with)",
    )
    parser.add_flag(
        "--accept-clock",
        action="store_true",
        help="the clock is right: forget the latest instant that was kept in --state, once, after it was set back",
    )
    parser.add_flag(
        "--unsafe-clock-file",
        metavar="FILE",
        help="for tests: windows are judged by the instant that FILE holds, at which the clock stands still, or by the"
        " machine's clock and the +SECONDS or -SECONDS that it holds",
    )
    parser.add_flag(
        "--egress-socket",
        metavar="PATH",
        help="the unix socket (mode 0600) on which Envoy asks for the addresses of ThirdParties' hosts",
    )
    parser.add_flag(
        "--egress-network",
        action="append",
        metavar="CIDR",
        help="a private network that ThirdParties may be in; may be given several times (default: public addresses)",
    )
    parser.add_flag(
        "--authority",
        action="append",
        metavar="FILE=PATH",
        help="read the authority that a ThirdParty's `certificates` name FILE from PATH; may be given several times"
        " (default: FILE, in the policy folder)",
    )


def _sidecar(given: argparse.Namespace) -> int:
    from authz.sidecar.run import run  # noqa: PLC0415 `--help` runs nothing

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"authz sidecar {given.service}: %(levelname)s %(message)s",
    )
    transport = CheckTransport(given.check_transport)
    source, place = _identity_source(given, transport)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    run(
        SidecarSettings(
            service=given.service,
            policies=_folder(given.policies),
            socket=given.socket,
            state=None if given.state is None else Path(given.state),
            decision_log=given.decision_log,
            identity_directory=place if source == "files" else None,
            workload_api=place if source == "spire" else None,
            sds_socket=given.sds_socket,
            svid_files=given.svid_files,
            access_log_socket=_access_log_socket(given, transport),
            hold_socket=_hold_socket(given, transport),
            listeners=_listeners(given),
            egress_socket=_egress_socket(given, transport),
            egress_networks=tuple(given.egress_network or ()),
            authorities=tuple(_authority(text) for text in given.authority or ()),
            workers=_workers(given.workers, transport),
            audit=_audit(given, transport),
            **record_settings(given, transport),
            unsafe_clock_file=given.unsafe_clock_file,
            accept_clock=given.accept_clock,
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
    if audit is Audit.STRICT and given.decision_log is None and given.hub is None:
        raise UsageError("--audit strict: say with --decision-log or --hub where records go")
    if audit is Audit.STRICT and transport is CheckTransport.GRPCIO:
        raise UsageError("--audit strict: not with --check-transport grpcio")
    return audit


def _access_log_socket(given: argparse.Namespace, transport: CheckTransport) -> str | None:
    path: str | None = given.access_log_socket
    if path is not None and given.decision_log is None and given.hub is None:
        raise UsageError("--access-log-socket: say with --decision-log or --hub where records go")
    if path is not None and transport is CheckTransport.GRPCIO:
        raise UsageError("--access-log-socket: not with --check-transport grpcio")
    return path


def _hold_socket(given: argparse.Namespace, transport: CheckTransport) -> str | None:
    path: str | None = given.hold_socket
    if path is not None and transport is CheckTransport.GRPCIO:
        raise UsageError("--hold-socket: not with --check-transport grpcio")
    return path


def _listeners(given: argparse.Namespace) -> str | None:
    path: str | None = given.listeners
    if path is not None and (given.hold_socket is None or given.access_log_socket is None):
        raise UsageError("--listeners: say with --hold-socket and --access-log-socket where Envoy tells of its calls")
    return path


def _egress_socket(given: argparse.Namespace, transport: CheckTransport) -> str | None:
    from authz.sidecar.egress.networks import ReachableNetworks  # noqa: PLC0415 `--help` judges no networks

    path: str | None = given.egress_socket
    if path is None and given.egress_network:
        raise UsageError("--egress-network: say with --egress-socket where Envoy asks for addresses")
    if path is not None and transport is CheckTransport.GRPCIO:
        raise UsageError("--egress-socket: not with --check-transport grpcio")
    try:
        ReachableNetworks.parse(given.egress_network or ())
    except SidecarError as error:
        raise UsageError(f"--egress-network: {error}") from error
    return path


def _authority(text: str) -> tuple[str, str]:
    file, _, path = text.partition("=")
    if not file or not path:
        raise UsageError(f"--authority `{text}`: give FILE=PATH")
    return normpath(file), path


def _folder(policies: str) -> str:
    if "://" in policies or policies.startswith("git@"):
        raise UsageError(f"--policies `{policies}`: policies from a git URL are not supported yet; give a folder")
    return policies


def _identity_source(given: argparse.Namespace, transport: CheckTransport) -> tuple[str | None, str | None]:
    """Give the kind of source, and where it is."""
    if given.identity is None:
        for flag, value in (("--sds-socket", given.sds_socket), ("--svid-files", given.svid_files)):
            if value is not None:
                raise UsageError(f"{flag} `{value}`: say with --identity where the SVID comes from")
        return None, None
    source, _, place = given.identity.partition(":")
    if source not in {"spire", "files"} or not place:
        raise UsageError(f"--identity `{given.identity}`: give spire:SOCKET or files:DIR")
    if transport is CheckTransport.GRPCIO and (source == "spire" or given.sds_socket or given.svid_files):
        raise UsageError("--check-transport grpcio: its identity is files:DIR or none, without SDS and --svid-files")
    if source == "spire":
        from authz.workload_api.endpoint import grpc_target  # noqa: PLC0415 `--help` runs nothing

        grpc_target(place)
    elif given.svid_files is not None and Path(given.svid_files).resolve() == Path(place).resolve():
        raise UsageError(f"--svid-files `{given.svid_files}`: the files are there already, as --identity says")
    return source, place
