"""Everything that stands on disk before the first process of a mesh starts: places, certificates, configurations.

The order is: load the set, allot a place to every name in it, lay out the mesh, issue the certificates, write each
Envoy's bootstrap. The caller holds the state directory's lock.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from authz.mesh.authorities import MeshAuthorities, wall_clock
from authz.mesh.envoy_binary import envoy_binary
from authz.mesh.layout import (
    Layout,
    ServicePlaces,
    ThirdPartyPlaces,
    caller_authority_files,
    lay_out,
    trust_domain_names,
)
from authz.mesh.programs import (
    IssuerPlaces,
    ProgramPlaces,
    app_program,
    envoy_program,
    hub_program,
    issuer_program,
    sidecar_program,
    stand_in_program,
)
from authz.mesh.state import RunningService, RunningThirdParty
from authz.policy.index import compile_index
from authz.proxy.addresses import UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.listener_file import listeners_file
from authz.proxy.spec import BUNDLE_FILE, KEY_FILE, SVID_FILE
from authz.sidecar.settings import default_workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.mesh.child import Program
    from authz.mesh.ports import ReservedPorts
    from authz.mesh.state_directory import StateDirectory
    from authz.policy.policy_set import PolicySet


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePrograms:
    """The three processes of one Service."""

    app: Program
    sidecar: Program
    envoy: Program


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedMesh:
    """A mesh that only needs to be started, and the authorities that keep its certificates fresh."""

    authorities: MeshAuthorities
    issuer: Program
    orchestrator_socket: str
    service_programs: tuple[ServicePrograms, ...]
    stand_ins: tuple[Program, ...]
    services: tuple[RunningService, ...]
    third_parties: tuple[RunningThirdParty, ...]
    hub: Program | None
    hub_url: str | None


def prepare(
    policy_set: PolicySet,
    *,
    policies: str,
    only: Sequence[str],
    directory: StateDirectory,
    runtime_directory: str,
    ports: ReservedPorts,
    unsafe_clock_file: str | None = None,
    with_hub: bool,
) -> PreparedMesh:
    """Write everything that a mesh of this set needs and give what is to be started; raises AuthzError if it cannot."""
    places = ProgramPlaces(
        logs=str(directory.logs),
        runtime_directory=runtime_directory,
        policies=policies,
        envoy=envoy_binary(),
        unsafe_clock_file=unsafe_clock_file,
    )
    state = directory.path
    layout = _laid_out(policy_set, state=state, runtime_directory=runtime_directory, ports=ports)
    started = layout.only(only)
    authorities = MeshAuthorities(layout, now=wall_clock())
    issuer = IssuerPlaces(
        socket=f"{runtime_directory}/issuer",
        orchestrator_socket=f"{runtime_directory}/orchestrator",
        upstream_authority=f"{runtime_directory}/upstream.pem",
        keys=f"{runtime_directory}/issuer.keys",
        decision_log=str(state / "refused-workloads.jsonl"),
    )
    _write(Path(issuer.upstream_authority), authorities.root_pem.decode("ascii"))
    authorities.renew(wall_clock())
    hub_address = str(ports.reserve()) if with_hub else None
    hub_url = None if hub_address is None else f"http://{hub_address}"
    programs = []
    for service in started.services:
        configuration = state / "envoy" / f"{service.name}.json"
        _write(configuration, sidecar_bootstrap(service.sidecar))
        Path(service.places.listeners_directory).mkdir(mode=0o700)
        _write(Path(service.places.listeners_file), listeners_file(service.sidecar))
        programs.append(
            ServicePrograms(
                app=app_program(service, places),
                sidecar=sidecar_program(
                    service,
                    places,
                    issuer_socket=issuer.socket,
                    caller_authorities=layout.caller_authorities,
                    hub=hub_url,
                ),
                envoy=envoy_program(service, places, configuration=str(configuration)),
            )
        )
    return PreparedMesh(
        authorities=authorities,
        issuer=issuer_program(layout, places, issuer),
        orchestrator_socket=issuer.orchestrator_socket,
        service_programs=tuple(programs),
        stand_ins=tuple(stand_in_program(one, places) for one in started.third_parties if one.dns_names),
        services=_running_services(started),
        third_parties=_running_third_parties(started),
        hub=None if hub_address is None else hub_program(places, data=str(state / "hub"), listen=hub_address),
        hub_url=hub_url,
    )


def _laid_out(policy_set: PolicySet, *, state: Path, runtime_directory: str, ports: ReservedPorts) -> Layout:
    def path(*parts: str) -> str:
        return str(state.joinpath(*parts))

    caller_authorities = {
        name: path("authorities", f"callers-{number}.pem")
        for number, name in enumerate(caller_authority_files(policy_set))
    }
    services = {
        one.name: ServicePlaces(
            app=ports.reserve(),
            inbound=ports.reserve(),
            outbound=ports.reserve(),
            admin=UnixAddress(path=f"{runtime_directory}/{one.name}.admin"),
            authz_socket=f"{runtime_directory}/{one.name}.authz",
            authz_workers=default_workers(),
            access_log_socket=f"{runtime_directory}/{one.name}.access-log",
            hold_socket=f"{runtime_directory}/{one.name}.hold",
            listeners_directory=path("envoy", f"{one.name}.listeners"),
            sds_socket=f"{runtime_directory}/{one.name}.sds",
            svid_directory=path("svids", one.name),
            decision_log=path("decisions", f"{one.name}.jsonl"),
            sidecar_state=path("sidecars", one.name),
            third_party_inbound=ports.reserve() if caller_authorities else None,
        )
        for one in policy_set.services
    }
    third_parties = {
        one.name: ThirdPartyPlaces(
            address=ports.reserve(),
            svid_directory=path("svids", one.name),
            tls_directory=path("svids", f"{one.name}.tls"),
            authority_file=path("authorities", f"{one.name}.third-party.pem"),
        )
        for one in policy_set.third_parties
    }
    bundles = {name: path("authorities", f"{name}.pem") for name in trust_domain_names(policy_set)}
    return lay_out(
        policy_set,
        owner=compile_index(policy_set).identity_owner,
        services=services,
        third_parties=third_parties,
        bundle_files=bundles,
        caller_authorities=caller_authorities,
    )


def _running_services(layout: Layout) -> tuple[RunningService, ...]:
    return tuple(
        RunningService(
            name=one.name,
            identity=str(one.identity),
            app=str(one.places.app),
            inbound=str(one.places.inbound),
            outbound=str(one.places.outbound),
            admin=str(one.places.admin),
            authz_socket=one.places.authz_socket,
            decision_log=one.places.decision_log,
            certificate=f"{one.places.svid_directory}/{SVID_FILE}",
            key=f"{one.places.svid_directory}/{KEY_FILE}",
            bundle=f"{one.places.svid_directory}/{BUNDLE_FILE}",
            sidecar_state=one.places.sidecar_state,
            third_party_inbound=None if one.places.third_party_inbound is None else str(one.places.third_party_inbound),
        )
        for one in layout.services
    )


def _running_third_parties(layout: Layout) -> tuple[RunningThirdParty, ...]:
    running = []
    for one in layout.third_parties:
        calls, called = one.calls, bool(one.dns_names)
        svid = one.places.svid_directory
        running.append(
            RunningThirdParty(
                name=one.name,
                hosts=one.hosts,
                identity=None if one.identity is None else str(one.identity),
                address=str(one.places.address) if called else None,
                certificate=f"{svid}/{SVID_FILE}" if calls else None,
                key=f"{svid}/{KEY_FILE}" if calls else None,
                bundle=f"{svid}/{BUNDLE_FILE}" if calls else None,
                authority=one.places.authority_file if called else None,
            )
        )
    return tuple(running)


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
