"""How a running mesh is: the record of its supervisor, joined with what its processes say at this moment.

Nothing is believed that can be seen: a process lives if its mark does, an Envoy is ready if its admin socket says so
now, and a sidecar's status file counts only if the living sidecar wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authz.mesh.envoy_admin import envoy_is_ready_now
from authz.mesh.errors import NoMeshError
from authz.mesh.state import MeshState, Role, RunningProcess, RunningService, RunningThirdParty
from authz.sidecar.reported_status import reported_status

if TYPE_CHECKING:
    from authz.mesh.state_directory import StateDirectory
    from authz.sidecar.reported_status import ReportedClock, ReportedDrain, ReportedIdentity, ReportedStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """What one sidecar decides by; `stale` says that the files hold something newer, which `faults` keep from use."""

    usable: bool = False
    revision: str | None = None
    stale: bool = False
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """One Service; `pids` has the roles of its living processes, `not_ready` those of its parts that do not serve.

    `identity` is what its sidecar has from its source, None where it has none or says nothing; `clock` what it says of
    the clock, `drain` of connections that it had drained.
    """

    service: RunningService
    pids: dict[str, int]
    policy: PolicyStatus
    not_ready: tuple[str, ...]
    identity: ReportedIdentity | None = None
    clock: ReportedClock | None = None
    drain: ReportedDrain | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyStatus:
    """One stand-in; one that only calls has no process."""

    third_party: RunningThirdParty
    pids: dict[str, int]
    not_ready: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshStatus:
    """A whole mesh; `revision` is None while its sidecars do not agree on one."""

    supervisor: int
    policies: str
    services: tuple[ServiceStatus, ...]
    third_parties: tuple[ThirdPartyStatus, ...]
    complete: bool
    issuer: int | None
    hub: int | None = None
    hub_url: str | None = None

    @property
    def ready(self) -> bool:
        """Whether every process lives, every Envoy is ready and every sidecar has a usable set."""
        waiting = [one.not_ready for one in self.services] + [one.not_ready for one in self.third_parties]
        hub_serves = self.hub_url is None or self.hub is not None
        return self.complete and self.issuer is not None and hub_serves and not any(waiting)

    @property
    def revision(self) -> str | None:
        """The revision that every sidecar decides by."""
        revisions = {one.policy.revision for one in self.services}
        return revisions.pop() if len(revisions) == 1 else None

    def to_json(self) -> dict[str, Any]:
        """Give the contract's JSON, with `third_parties` beside it."""
        return {
            "ready": self.ready,
            "revision": self.revision,
            "hub": self.hub_url,
            "services": [_service_json(one) for one in self.services],
            "third_parties": [_third_party_json(one) for one in self.third_parties],
            "pids": {"supervisor": self.supervisor}
            | ({} if self.issuer is None else {"issuer": self.issuer})
            | ({} if self.hub is None else {"hub": self.hub}),
        }


def read_mesh(directory: StateDirectory) -> MeshState:
    """Give the record of the mesh that runs with this state directory; raises NoMeshError if none does."""
    supervisor = directory.supervisor()
    state = directory.read()
    if supervisor is None or state is None:
        hint = f"`authz mesh up --policies DIR --detach --state {directory.shown}` starts one"
        if state is not None:
            hint = f"one has ended without cleaning up; `authz mesh down --state {directory.shown}` does"
        raise NoMeshError(f"no mesh runs with the state directory `{directory.shown}`: {hint}")
    return state


def mesh_status(state: MeshState) -> MeshStatus:
    """Look at every process of a mesh; takes a second for each Envoy that hangs."""
    found: dict[tuple[str, Role], RunningProcess] = {(one.of, one.role): one for one in state.processes}
    issuers = [one for one in state.processes if one.role is Role.ISSUER]
    hubs = [one for one in state.processes if one.role is Role.HUB]
    return MeshStatus(
        supervisor=state.supervisor.pid,
        policies=state.policies,
        services=tuple(_service_status(one, found) for one in state.services),
        third_parties=tuple(_third_party_status(one, found) for one in state.third_parties),
        complete=state.laid_out,
        issuer=next((_pid(one) for one in issuers if one.ready and _lives(one)), None),
        hub=next((_pid(one) for one in hubs if one.ready and _lives(one)), None),
        hub_url=state.hub,
    )


def _service_status(service: RunningService, found: dict[tuple[str, Role], RunningProcess]) -> ServiceStatus:
    roles = (Role.APP, Role.ENVOY, Role.SIDECAR)
    processes = {role: found.get((service.name, role)) for role in roles}
    living = {role: process for role, process in processes.items() if process is not None and _lives(process)}
    sidecar = living.get(Role.SIDECAR)
    policy, said = _said(service.sidecar_state, None if sidecar is None else _pid(sidecar))
    serves = {
        Role.APP: Role.APP in living and living[Role.APP].ready,
        Role.ENVOY: Role.ENVOY in living and envoy_is_ready_now(service.admin.removeprefix("unix:")),
        Role.SIDECAR: sidecar is not None and policy.usable,
    }
    return ServiceStatus(
        service=service,
        pids={str(role): _pid(process) for role, process in living.items()},
        policy=policy,
        not_ready=tuple(str(role) for role in roles if not serves[role]),
        identity=None if said is None else said.identity,
        clock=None if said is None else said.clock,
        drain=None if said is None else said.drain,
    )


def _third_party_status(
    third_party: RunningThirdParty, found: dict[tuple[str, Role], RunningProcess]
) -> ThirdPartyStatus:
    process = found.get((third_party.name, Role.STAND_IN))
    lives = process is not None and _lives(process)
    serves = third_party.address is None or (process is not None and lives and process.ready)
    return ThirdPartyStatus(
        third_party=third_party,
        pids={} if process is None or not lives else {str(Role.STAND_IN): _pid(process)},
        not_ready=() if serves else (str(Role.STAND_IN),),
    )


def _lives(process: RunningProcess) -> bool:
    return process.mark is not None and process.mark.lives()


def _pid(process: RunningProcess) -> int:
    return 0 if process.mark is None else process.mark.pid


def _said(sidecar_state: str, pid: int | None) -> tuple[PolicyStatus, ReportedStatus | None]:
    """Read what a sidecar says of itself; what another process wrote, or what is damaged, does not count."""
    said = reported_status(sidecar_state)
    if said is None or said.pid != pid:
        return PolicyStatus(), None
    policy = PolicyStatus(usable=said.ready, revision=said.revision, stale=said.stale, faults=said.faults)
    return policy, said


def _service_json(status: ServiceStatus) -> dict[str, Any]:
    service = status.service
    return {
        "name": service.name,
        "identity": service.identity,
        "app": service.app,
        "inbound": service.inbound,
        "outbound": service.outbound,
        "admin": service.admin,
        "authz_socket": service.authz_socket,
        "decision_log": service.decision_log,
        "certificate": service.certificate,
        "key": service.key,
        "bundle": service.bundle,
        "pids": status.pids,
        "policy": {
            "revision": status.policy.revision,
            "stale": status.policy.stale,
            "faults": list(status.policy.faults),
        },
        "clock": None if status.clock is None else _clock_json(status.clock),
        "drain": None if status.drain is None else _drain_json(status.drain),
        # Only where the set has callers that need it: whoever knows the contract's names has all of them.
        **({} if service.third_party_inbound is None else {"third_party_inbound": service.third_party_inbound}),
    }


def _clock_json(clock: ReportedClock) -> dict[str, Any]:
    return {
        "behind": clock.behind,
        "latest": None if clock.latest is None else f"{clock.latest:%Y-%m-%dT%H:%M:%SZ}",
        "steps_forward": clock.steps_forward,
        "steps_back": clock.steps_back,
        "last_step_s": clock.last_step_s,
        "unsafe": clock.unsafe,
        "fault": clock.fault,
        "peers": [
            {
                "service": peer.service,
                "skew_s": peer.skew_s,
                "within_s": peer.within_s,
                "seen": None if peer.seen is None else f"{peer.seen:%Y-%m-%dT%H:%M:%SZ}",
            }
            for peer in clock.peers
        ],
    }


def _drain_json(drain: ReportedDrain) -> dict[str, Any]:
    return {"drains": drain.drains, "ended_calls": drain.ended_calls, "failed": drain.failed}


def _third_party_json(status: ThirdPartyStatus) -> dict[str, Any]:
    third_party = status.third_party
    return {
        "name": third_party.name,
        "hosts": list(third_party.hosts),
        "identity": third_party.identity,
        "address": third_party.address,
        "certificate": third_party.certificate,
        "key": third_party.key,
        "bundle": third_party.bundle,
        "authority": third_party.authority,
        "pids": status.pids,
    }
