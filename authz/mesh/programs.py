"""The command lines of a mesh's processes: the issuer, apps, sidecars, Envoys and stand-ins."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.mesh.child import Program
from authz.mesh.state import Role
from authz.proxy.listener_names import ENVOY_FLAGS
from authz.proxy.spec import KEY_FILE, SVID_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.mesh.layout import Layout, ServiceLayout, ThirdPartyLayout

#: -P: a module of the user's current folder must not stand in for one of ours.
_PYTHON = (sys.executable, "-P", "-m")
#: whose the programs are that belong to no Service; no Service has a name like this
MESH = "-"
#: The hub of a local mesh shares its processors with the check path, and waits for it: a third of its share at most
#: while both want to run (sched(7), "The nice value").
_HUB_NICENESS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramPlaces:
    """Where processes log and where they say that they are ready; `policies` is as the user typed it."""

    logs: str
    runtime_directory: str
    policies: str
    envoy: str
    #: what the sidecars take for the time, in tests; as the user typed it
    unsafe_clock_file: str | None = None

    def log(self, of: str, role: Role) -> str:
        """Give the log file of one process."""
        return f"{self.logs}/{of}.{role}.log"

    def notify_socket(self, of: str, role: Role) -> str:
        """Give the socket on which one process says that it is ready."""
        return f"{self.runtime_directory}/{of}.{role}.notify"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerPlaces:
    """Where the issuer listens, reads the root that it issues below, and keeps its keys while the mesh runs."""

    socket: str
    orchestrator_socket: str
    upstream_authority: str
    keys: str
    decision_log: str


def app_program(service: ServiceLayout, places: ProgramPlaces) -> Program:
    """Give the echo app of a Service."""
    return Program(
        of=service.name,
        role=Role.APP,
        arguments=(
            *_PYTHON,
            "authz.mesh.echo_app",
            "--service",
            service.name,
            "--listen",
            str(service.places.app),
        ),
        log=places.log(service.name, Role.APP),
        notify_socket=places.notify_socket(service.name, Role.APP),
    )


def issuer_program(layout: Layout, places: ProgramPlaces, issuer: IssuerPlaces) -> Program:
    """Give the issuer of the workloads' identities: it knows them by the mesh that starts them."""
    own = set(layout.own_trust_domains)
    federated = [f"{name}={file}" for name, file in layout.bundle_files if name not in own]
    return Program(
        of=MESH,
        role=Role.ISSUER,
        arguments=(
            *_PYTHON,
            "authz",
            "identity",
            "serve",
            "--policies",
            places.policies,
            "--socket",
            issuer.socket,
            "--orchestrator-socket",
            issuer.orchestrator_socket,
            "--orchestrator-is-parent",
            "--state",
            issuer.keys,
            "--upstream-authority",
            issuer.upstream_authority,
            "--decision-log",
            issuer.decision_log,
            *(word for each in federated for word in ("--federated-bundle", each)),
        ),
        log=places.log(MESH, Role.ISSUER),
        sockets=(issuer.socket, issuer.orchestrator_socket),
        notify_socket=places.notify_socket(MESH, Role.ISSUER),
    )


def hub_program(places: ProgramPlaces, *, data: str, listen: str) -> Program:
    """Give the hub, which takes what all sidecars record; on loopback, where anybody of this machine may ask it."""
    return Program(
        of=MESH,
        role=Role.HUB,
        arguments=(
            *_PYTHON,
            "authz",
            "hub",
            "--data",
            data,
            "--listen",
            listen,
            "--reuse-port",
            "--policies",
            places.policies,
        ),
        log=places.log(MESH, Role.HUB),
        notify_socket=places.notify_socket(MESH, Role.HUB),
        niceness=_HUB_NICENESS,
    )


def sidecar_program(
    service: ServiceLayout,
    places: ProgramPlaces,
    *,
    issuer_socket: str,
    caller_authorities: Sequence[tuple[str, str]] = (),
    hub: str | None = None,
) -> Program:
    """Give the authz sidecar of a Service: where it gets its identity, whom callers are known by, where records go."""
    svids = service.places.svid_directory
    identity = ["--identity", f"files:{svids}"]
    if service.attested:
        identity = ["--identity", f"spire:{issuer_socket}", "--svid-files", svids]
    return Program(
        of=service.name,
        role=Role.SIDECAR,
        arguments=(
            *_PYTHON,
            "authz",
            "sidecar",
            "--service",
            service.name,
            "--policies",
            places.policies,
            "--socket",
            service.places.authz_socket,
            "--workers",
            str(service.places.authz_workers),
            "--decision-log",
            service.places.decision_log,
            "--access-log-socket",
            service.places.access_log_socket,
            "--hold-socket",
            service.places.hold_socket,
            "--listeners",
            service.places.listeners_file,
            "--state",
            service.places.sidecar_state,
            *identity,
            "--sds-socket",
            service.places.sds_socket,
            *([] if places.unsafe_clock_file is None else ["--unsafe-clock-file", places.unsafe_clock_file]),
            *(word for name, file in caller_authorities for word in ("--authority", f"{name}={file}")),
            *(() if hub is None else ("--hub", hub)),
        ),
        log=places.log(service.name, Role.SIDECAR),
        sockets=(
            *service.places.authz_sockets,
            service.places.access_log_socket,
            service.places.hold_socket,
            service.places.sds_socket,
        ),
        notify_socket=places.notify_socket(service.name, Role.SIDECAR),
    )


def envoy_program(service: ServiceLayout, places: ProgramPlaces, *, configuration: str) -> Program:
    """Give the Envoy of a Service, with the file that holds its configuration."""
    return Program(
        of=service.name,
        role=Role.ENVOY,
        # Hot restart is off: it would leave shared memory and abstract sockets behind after a kill.
        arguments=(
            places.envoy,
            "-c",
            configuration,
            "--disable-hot-restart",
            *ENVOY_FLAGS,
            "--concurrency",
            "1",
            "--log-level",
            "warning",
        ),
        log=places.log(service.name, Role.ENVOY),
        sockets=(service.places.admin.path,),
        envoy_admin=service.places.admin.path,
    )


def stand_in_program(third_party: ThirdPartyLayout, places: ProgramPlaces) -> Program:
    """Give the stand-in for a ThirdParty's hosts: an echo app behind TLS."""
    return Program(
        of=third_party.name,
        role=Role.STAND_IN,
        arguments=(
            *_PYTHON,
            "authz.mesh.echo_app",
            "--service",
            third_party.name,
            "--listen",
            str(third_party.places.address),
            "--tls-certificate",
            f"{third_party.places.tls_directory}/{SVID_FILE}",
            "--tls-key",
            f"{third_party.places.tls_directory}/{KEY_FILE}",
        ),
        log=places.log(third_party.name, Role.STAND_IN),
        notify_socket=places.notify_socket(third_party.name, Role.STAND_IN),
    )
