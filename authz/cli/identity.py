"""`authz identity`: the embedded issuer, a SPIFFE Workload API."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from authz.cli.arguments import YES
from authz.cli.duration import duration
from authz.errors import UsageError

if TYPE_CHECKING:
    from authz.cli.arguments import Subcommands
    from authz.issuer.bundle_endpoint import BundleEndpointSettings

_DESCRIPTION = """\
Serve the SPIFFE Workload API on a unix socket: X.509-SVIDs, JWT-SVIDs and bundles for the workloads of the policy
folder, which is followed. go-spiffe, py-spiffe and Envoy need nothing but SPIFFE_ENDPOINT_SOCKET=unix:///PATH.

A workload gets the exact identities of its Service. It is known by what the Service's `attest` says (uid, gid, path
and sha256 of its program; image and labels of its container, with --container-socket), by the orchestrator that
started it (--orchestrator-socket), or by a socket of its own (--workload-socket). Whoever is not known gets
PermissionDenied, and a record.
"""


_MOST_OPEN = 0o777
_MAX_PORT = 65535


def add_commands(commands: Subcommands) -> None:
    """Add `identity serve`."""
    subcommands = commands.add_group(
        "identity",
        summary="issue identities to attested workloads",
        example="authz identity serve --policies policies --socket /run/authz/workload.sock --state /var/lib/authz",
    )
    parser = subcommands.add(
        "serve",
        _serve,
        summary="serve the SPIFFE Workload API to attested workloads, until SIGTERM",
        example="authz identity serve --policies policies --socket /run/authz/workload.sock --in-memory",
    )
    parser.description = _DESCRIPTION
    parser.add_flag("--policies", required=True, metavar="DIR", help="the policy folder; it is followed")
    parser.add_flag(
        "--socket",
        required=True,
        metavar="PATH",
        help="the unix socket that workloads ask on (mode 0666: who asks decides)",
    )
    parser.add_flag("--state", metavar="DIR", help="keep the authorities' private keys here (0700, files 0600)")
    parser.add_flag(
        "--in-memory",
        action="store_true",
        help="keep no key: after a restart nothing that was issued before is trusted",
    )
    parser.add_flag(
        "--workload-socket",
        action="append",
        type=_workload_socket,
        metavar="SERVICE=PATH",
        help="one more socket, for this Service's workload alone, as containers need; may be given several times",
    )
    parser.add_flag(
        "--workload-socket-mode", type=_mode, default="0600", metavar="OCTAL", help="their mode (default: 0600)"
    )
    parser.add_flag(
        "--container-socket",
        metavar="PATH",
        help="the container engine's API (Docker or podman), which says what a container is; it is only read",
    )
    parser.add_flag(
        "--orchestrator-socket",
        metavar="PATH",
        help="where whoever starts the workloads says which process is whose (mode 0600)",
    )
    parser.add_flag(
        "--orchestrator-is-parent",
        action="store_true",
        help="take no other orchestrator than the process that has started this one",
    )
    parser.add_flag(
        "--svid-lifetime", type=duration, default="1h", metavar="DURATION", help="of an X.509-SVID (default: 1h)"
    )
    parser.add_flag(
        "--jwt-lifetime", type=duration, default="5m", metavar="DURATION", help="of a JWT-SVID (default: 5m)"
    )
    parser.add_flag(
        "--authority-lifetime",
        type=duration,
        default="7d",
        metavar="DURATION",
        help="of an authority; the next one is published at half of it (default: 7d)",
    )
    parser.add_flag(
        "--upstream-authority",
        metavar="FILE",
        help="a root certificate and its key in PEM (mode 0600): the authorities are intermediate CAs below it",
    )
    parser.add_flag(
        "--bundle-endpoint",
        metavar="HOST:PORT",
        help="serve the local trust domain's bundle there, at /, to those who federate with us",
    )
    parser.add_flag(
        "--bundle-endpoint-profile",
        choices=("https_spiffe", "https_web"),
        default="https_spiffe",
        help="how it proves itself: by an SVID for spiffe://TRUST-DOMAIN/authz/bundle-endpoint (the default), or by"
        " a certificate of the web",
    )
    parser.add_flag(
        "--bundle-endpoint-certificate", metavar="FILE", help="with https_web: the chain in PEM, followed when renewed"
    )
    parser.add_flag(
        "--bundle-endpoint-key", metavar="FILE", help="with https_web: its key in PEM (default: in the same file)"
    )
    parser.add_flag(
        "--federated-bundle",
        action="append",
        type=_federated_bundle,
        metavar="TRUSTDOMAIN=FILE",
        help="take the bundle of a trust domain that the policies federate from this file, whatever they say of where"
        " it is; may be given several times",
    )
    parser.add_flag("--decision-log", metavar="FILE", help="append who was refused, one JSON record a line")


def _workload_socket(text: str) -> tuple[str, str]:
    service, equals, path = text.partition("=")
    if not service or not equals or not path:
        raise argparse.ArgumentTypeError(f"`{text}` is not SERVICE=PATH")
    return service, path


def _federated_bundle(text: str) -> tuple[str, str]:
    trust_domain, equals, path = text.partition("=")
    if not trust_domain or not equals or not path:
        raise argparse.ArgumentTypeError(f"`{text}` is not TRUSTDOMAIN=FILE")
    return trust_domain, path


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _MOST_OPEN:
        raise argparse.ArgumentTypeError(f"`{text}` is no mode such as 0600 or 0660")
    return mode


def _serve(given: argparse.Namespace) -> int:
    from authz.issuer.run import run  # noqa: PLC0415 `--help` runs nothing
    from authz.issuer.settings import IssuerSettings  # noqa: PLC0415 same

    if (given.state is None) != given.in_memory:
        raise UsageError("say where the authorities' keys are kept: --state DIR, or --in-memory for nowhere")
    sockets = [_workload_socket(each) if isinstance(each, str) else each for each in given.workload_socket or ()]
    if len(dict(sockets)) != len(sockets):
        raise UsageError("--workload-socket: one for each Service")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="authz identity: %(levelname)s %(message)s")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    run(
        IssuerSettings(
            policies=given.policies,
            socket=given.socket,
            state=None if given.state is None else Path(given.state),
            workload_sockets=dict(sockets),
            workload_socket_mode=given.workload_socket_mode,
            orchestrator_socket=given.orchestrator_socket,
            orchestrator_is_parent=given.orchestrator_is_parent,
            container_socket=given.container_socket,
            decision_log=given.decision_log,
            federated_bundles=dict(
                _federated_bundle(each) if isinstance(each, str) else each for each in given.federated_bundle or ()
            ),
            upstream_authority=None if given.upstream_authority is None else Path(given.upstream_authority),
            svid_lifetime=given.svid_lifetime,
            jwt_lifetime=given.jwt_lifetime,
            authority_lifetime=given.authority_lifetime,
            bundle_endpoint=_bundle_endpoint(given),
        )
    )
    return YES


def _bundle_endpoint(given: argparse.Namespace) -> BundleEndpointSettings | None:
    from authz.issuer.bundle_endpoint import BundleEndpointSettings  # noqa: PLC0415 `--help` runs nothing

    certificate, key = given.bundle_endpoint_certificate, given.bundle_endpoint_key
    if given.bundle_endpoint is None:
        if certificate is not None or key is not None:
            raise UsageError("--bundle-endpoint-certificate and --bundle-endpoint-key need --bundle-endpoint HOST:PORT")
        return None
    if given.bundle_endpoint_profile == "https_web" and certificate is None:
        raise UsageError("https_web is proven by a certificate: give --bundle-endpoint-certificate FILE")
    if given.bundle_endpoint_profile == "https_spiffe" and (certificate is not None or key is not None):
        raise UsageError("https_spiffe is proven by an SVID of our own; with a certificate say https_web")
    host, _, port = given.bundle_endpoint.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > _MAX_PORT:
        raise UsageError(f"--bundle-endpoint `{given.bundle_endpoint}` is not HOST:PORT")
    return BundleEndpointSettings(
        host=host.removeprefix("[").removesuffix("]"),
        port=int(port),
        certificate=None if certificate is None else Path(certificate),
        key=None if key is None else Path(key),
    )
