"""`authz envoy`: print the Envoy bootstrap of one Service's sidecar, for a container, a pod or a machine of its own.

The policy set says who the Service is and whom it could call; the flags say where things are. What is printed is
complete but for one more file: Envoy reloads a renewed SVID only through a small secret file, which
`--part svid-secret` prints and `--svid-secret` names.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from authz.cli.arguments import YES
from authz.errors import UsageError
from authz.identity.spiffe_id import SpiffeId
from authz.proxy.addresses import TcpAddress, UnixAddress, parse_address
from authz.proxy.errors import ProxyError
from authz.sidecar.listening_socket import worker_sockets
from authz.sidecar.settings import MAX_WORKERS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from authz.cli.arguments import CommandParser, Subcommands
    from authz.proxy.addresses import Address
    from authz.proxy.placement import Placement

_CHECK_SOCKET = "/run/authz/check.sock"
_EGRESS_SOCKET = "/run/authz/egress.sock"
_DESCRIPTION = """\
Print the complete Envoy bootstrap of one Service's sidecar, as JSON for `envoy -c FILE.json`.

Other Services are reached at `--peer-host-template` and `--peer-port`, resolved by DNS while Envoy runs; ThirdParties
by their own host names on 443 or the port that the policy gives, at public addresses that `authz sidecar
--egress-socket` judges at each call. Whoever reaches the outbound listener speaks as the
Service: give a unix socket, unless nothing but the app can reach the loopback of Envoy's network namespace.

The SVID is read from `--svid-dir` (svid.pem, key.pem, bundle.pem, as `authz svid mint` writes them), and again
whenever it is renewed there. For that Envoy needs a second file, at `--svid-secret`; `--part svid-secret` prints it.
The bundle of another trust domain than the Service's own is read from bundle.<trust domain>.pem in the same
directory, unless `--bundle` says otherwise. All of these files must exist when Envoy starts.

With `--sds-socket` no such file is read: SVID and bundles come from `authz sidecar --identity ... --sds-socket PATH`,
and Envoy is not ready before they are there.
"""


def add_commands(commands: Subcommands) -> None:
    """Add `envoy`."""
    parser = commands.add(
        "envoy",
        _envoy,
        summary="print the Envoy bootstrap of one Service's sidecar",
        example="authz envoy orders --policies policies --outbound unix:/run/outbound/outbound.sock",
    )
    parser.description = _DESCRIPTION
    parser.add_argument("service", metavar="SERVICE", help="the Service whose sidecar this is")
    parser.add_flag("--policies", required=True, metavar="DIR", help="the policy folder")
    _add_listeners(parser)
    _add_files(parser)
    _add_destinations(parser)
    parser.add_flag(
        "--spiffe-id",
        metavar="ID",
        help="the SPIFFE ID in the Service's SVID (default: its first exact identity)",
    )
    parser.add_flag(
        "--part",
        choices=["bootstrap", "svid-secret", "listeners"],
        default="bootstrap",
        help="which of the files to print; `listeners` is the one of --listeners-dir (default: bootstrap)",
    )


def _add_listeners(parser: CommandParser) -> None:
    parser.add_flag(
        "--inbound",
        default="0.0.0.0:15006",
        metavar="HOST:PORT",
        help="where callers' sidecars connect, over mTLS (default: 0.0.0.0:15006)",
    )
    parser.add_flag(
        "--third-party-inbound",
        metavar="HOST:PORT",
        help="where ThirdParties connect that are known by `certificates` and have no SPIFFE ID; needs --sds-socket"
        " (default: nowhere)",
    )
    parser.add_flag(
        "--outbound",
        default="127.0.0.1:15001",
        metavar="HOST:PORT|unix:PATH",
        help="where the app sends its calls, without TLS (default: 127.0.0.1:15001)",
    )
    parser.add_flag(
        "--app",
        default="127.0.0.1:8080",
        metavar="HOST:PORT|unix:PATH",
        help="where the app listens (default: 127.0.0.1:8080)",
    )
    parser.add_flag(
        "--admin",
        default="unix:/run/envoy/admin.sock",
        metavar="unix:PATH",
        help="Envoy's admin; it has no authentication (default: unix:/run/envoy/admin.sock)",
    )
    parser.add_flag(
        "--authz-socket",
        action="append",
        metavar="PATH",
        help="the socket of `authz sidecar`, or each worker's own (default: " + _CHECK_SOCKET + ")",
    )
    parser.add_flag(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="how many workers that sidecar has, where one socket is given: PATH, PATH.2 and so on (default: 2)",
    )
    parser.add_flag(
        "--access-log-socket",
        metavar="PATH",
        help="where `authz sidecar --access-log-socket PATH` is told of failed handshakes (default: nobody is)",
    )
    parser.add_flag(
        "--hold-socket",
        metavar="PATH",
        help="where `authz sidecar --hold-socket PATH` holds long calls (default: nobody does)",
    )
    parser.add_flag(
        "--listeners-dir",
        metavar="DIR",
        help="read the listeners from DIR/listeners.json, which `--part listeners` prints and"
        " `authz sidecar --listeners` changes to drain connections; Envoy needs `--drain-time-s 1 --drain-strategy"
        " immediate` then (default: they stand in the bootstrap)",
    )
    parser.add_flag(
        "--egress-socket",
        default=_EGRESS_SOCKET,
        metavar="PATH",
        help="where `authz sidecar --egress-socket PATH` gives the addresses of ThirdParties' hosts"
        f" (default: {_EGRESS_SOCKET})",
    )


def _add_files(parser: CommandParser) -> None:
    parser.add_flag("--svid-dir", default="/run/svid", metavar="DIR", help="the SVID's directory (default: /run/svid)")
    parser.add_flag(
        "--svid-secret",
        default="/etc/envoy/svid.json",
        metavar="FILE",
        help="where Envoy finds what `--part svid-secret` prints (default: /etc/envoy/svid.json)",
    )
    parser.add_flag(
        "--bundle",
        action="append",
        metavar="TRUST-DOMAIN=FILE",
        help="the PEM authorities of a trust domain; may be given several times",
    )
    parser.add_flag(
        "--authorities",
        default="/etc/ssl/certs/ca-certificates.crt",
        metavar="FILE",
        help="the PEM authorities for ThirdParties' hosts (default: /etc/ssl/certs/ca-certificates.crt)",
    )

    parser.add_flag(
        "--sds-socket",
        metavar="PATH",
        help="take SVID and bundles from `authz sidecar --sds-socket PATH` instead of --svid-dir and --svid-secret",
    )


def _add_destinations(parser: CommandParser) -> None:
    parser.add_flag(
        "--peer-host-template",
        default="{service}",
        metavar="TEXT",
        help="the host of another Service's Envoy; {service} stands for its name (default: {service})",
    )
    parser.add_flag(
        "--peer-port", type=int, default=15006, metavar="PORT", help="the port of the others' inbound (default: 15006)"
    )
    parser.add_flag(
        "--third-party",
        action="append",
        metavar="NAME=HOST:PORT",
        help="reach a ThirdParty here, a gateway, instead of at its hosts' own addresses; this address is not judged",
    )


def _envoy(given: argparse.Namespace) -> int:
    from authz.policy_folder import load_policy_folder  # noqa: PLC0415 `--help` reads no policies
    from authz.proxy.bootstrap import sidecar_bootstrap  # noqa: PLC0415 Envoy's messages take half a second to load
    from authz.proxy.listener_file import listeners_file  # noqa: PLC0415 same
    from authz.proxy.placement import sidecar_spec  # noqa: PLC0415 same
    from authz.proxy.tls import svid_secret  # noqa: PLC0415 same

    spec = sidecar_spec(load_policy_folder(given.policies), given.service, _placement(given))
    if given.part == "svid-secret":
        sys.stdout.write(svid_secret(spec.svid_directory))
    elif given.part == "listeners":
        sys.stdout.write(listeners_file(spec))
    else:
        sys.stdout.write(sidecar_bootstrap(spec))
    return YES


def _placement(given: argparse.Namespace) -> Placement:
    from authz.proxy.placement import Placement  # noqa: PLC0415 see _envoy

    return Placement(
        inbound=_address("--inbound", given.inbound),
        outbound=_address("--outbound", given.outbound),
        app=_address("--app", given.app),
        admin=_unix_address("--admin", given.admin),
        authz_sockets=_check_sockets(given.authz_socket or [_CHECK_SOCKET], given.workers),
        access_log_socket=given.access_log_socket,
        hold_socket=given.hold_socket,
        listeners_directory=_listeners_directory(given),
        svid_directory=given.svid_dir,
        svid_secret_file=given.svid_secret,
        authority_file=given.authorities,
        peer_host_template=given.peer_host_template,
        peer_port=given.peer_port,
        spiffe_id=None if given.spiffe_id is None else SpiffeId.parse(given.spiffe_id),
        bundles=dict(_pairs("--bundle", given.bundle or ())),
        sds_socket=_sds_socket(given),
        egress_socket=_egress_socket(given),
        third_party_inbound=_third_party_inbound(given),
        third_parties={
            name: _address("--third-party", text) for name, text in _pairs("--third-party", given.third_party or ())
        },
    )


def _listeners_directory(given: argparse.Namespace) -> str | None:
    path: str | None = given.listeners_dir
    if path is None:
        if given.part == "listeners":
            raise UsageError("--part listeners: say with --listeners-dir where the file is to stand")
        return None
    if given.hold_socket is None or given.access_log_socket is None:
        raise UsageError("--listeners-dir: give --hold-socket and --access-log-socket, too; nobody drains without them")
    return path


def _sds_socket(given: argparse.Namespace) -> str | None:
    path: str | None = given.sds_socket
    if path is None:
        return None
    if given.bundle:
        raise UsageError("--sds-socket: not with --bundle; the sidecar at that socket has the bundles")
    if given.part == "svid-secret":
        raise UsageError("--sds-socket: not with --part svid-secret; no second file is needed")
    try:
        return UnixAddress(path=path).path
    except ProxyError as error:
        raise UsageError(f"--sds-socket: {error}") from error


def _egress_socket(given: argparse.Namespace) -> str:
    try:
        return UnixAddress(path=given.egress_socket).path
    except ProxyError as error:
        raise UsageError(f"--egress-socket: {error}") from error


def _third_party_inbound(given: argparse.Namespace) -> TcpAddress | None:
    text: str | None = given.third_party_inbound
    if text is None:
        return None
    address = _address("--third-party-inbound", text)
    if not isinstance(address, TcpAddress):
        raise UsageError(f"--third-party-inbound `{text}`: give HOST:PORT")
    if given.sds_socket is None:
        raise UsageError("--third-party-inbound: with --sds-socket alone; the authorities come from there")
    return address


def _check_sockets(paths: Sequence[str], workers: int) -> tuple[str, ...]:
    if not 1 <= workers <= MAX_WORKERS:
        raise UsageError(f"--workers {workers}: give 1 to {MAX_WORKERS}")
    return worker_sockets(paths[0], workers) if len(paths) == 1 else tuple(paths)


def _address(flag: str, text: str) -> Address:
    try:
        return parse_address(text)
    except ProxyError as error:
        raise UsageError(f"{flag}: {error}") from error


def _unix_address(flag: str, text: str) -> UnixAddress:
    address = _address(flag, text)
    if not isinstance(address, UnixAddress):
        raise UsageError(f"{flag} `{text}`: give unix:PATH")
    return address


def _pairs(flag: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise UsageError(f"{flag} `{text}`: a name, `=` and a value are wanted")
        pairs.append((name, value))
    return pairs
