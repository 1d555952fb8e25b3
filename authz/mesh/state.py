"""What a running mesh says of itself to the commands that come later: the record in `state.json`.

The supervisor is its only writer and replaces the file whenever a process comes or goes; `mesh status`, `call` and
`down` read it. It holds addresses, paths and pids, never a secret. What is read is checked: a record that is damaged
is a MeshError, never half a mesh.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final, TypeVar

from authz.mesh.errors import MeshError
from authz.mesh.process_mark import ProcessMark

#: a hundred Services take 100 KiB
MAX_STATE_BYTES: Final = 16 * 1024 * 1024


class Role(StrEnum):
    """What a process of the mesh is there for."""

    APP = "app"
    ENVOY = "envoy"
    SIDECAR = "sidecar"
    STAND_IN = "stand_in"
    ISSUER = "issuer"
    HUB = "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """A Service of the mesh, under the names that the contract of `mesh status` gives to its parts."""

    name: str
    identity: str
    app: str
    inbound: str
    outbound: str
    admin: str
    authz_socket: str
    decision_log: str
    certificate: str
    key: str
    bundle: str
    sidecar_state: str
    #: where ThirdParties without SPIFFE IDs come in
    third_party_inbound: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningThirdParty:
    """A ThirdParty's stand-in: what has no hosts has no address, what cannot call has no certificate.

    One with a certificate and no `identity` is known by that certificate alone.

    `authority` is the file with the authority of its hosts' TLS certificates.
    """

    name: str
    hosts: tuple[str, ...]
    identity: str | None
    address: str | None
    certificate: str | None
    key: str | None
    bundle: str | None
    authority: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningProcess:
    """A process that the supervisor keeps running; `mark` is None while it is being restarted."""

    of: str
    role: Role
    mark: ProcessMark | None
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshState:
    """A whole mesh; `runtime_directory` holds its sockets and goes with it.

    Until it is `laid_out`, nobody knows what it will consist of. `hub` is where its hub is, None without one.
    """

    supervisor: ProcessMark
    policies: str
    runtime_directory: str
    laid_out: bool
    services: tuple[RunningService, ...]
    third_parties: tuple[RunningThirdParty, ...]
    processes: tuple[RunningProcess, ...]
    hub: str | None = None

    def to_json(self) -> str:
        """Write the record as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: bytes) -> MeshState:
        """Read what :meth:`to_json` wrote; raises MeshError for anything else."""
        if len(text) > MAX_STATE_BYTES:
            raise MeshError(f"it has more than {MAX_STATE_BYTES} bytes")
        try:
            data = json.loads(text)
            return cls(
                supervisor=_mark(data["supervisor"]),
                policies=_text(data["policies"]),
                runtime_directory=_text(data["runtime_directory"]),
                laid_out=data["laid_out"] is True,
                services=tuple(_texts(RunningService, one) for one in _list(data["services"])),
                third_parties=tuple(_third_party(one) for one in _list(data["third_parties"])),
                processes=tuple(_process(one) for one in _list(data["processes"])),
                hub=None if data["hub"] is None else _text(data["hub"]),
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise MeshError("it is no record of a mesh") from error


_Record = TypeVar("_Record", RunningService, RunningThirdParty)


def _texts(record: type[_Record], data: Any, **given: Any) -> _Record:
    """Read a record whose fields are texts, but for those that are given."""
    optional = record is RunningThirdParty
    optional_of_services = {"third_party_inbound"}
    for field in fields(record):
        if field.name not in given:
            value = data[field.name]
            may_be_none = field.name != "name" if optional else field.name in optional_of_services
            given[field.name] = None if may_be_none and value is None else _text(value)
    return record(**given)


def _third_party(data: Any) -> RunningThirdParty:
    return _texts(RunningThirdParty, data, hosts=tuple(_text(host) for host in _list(data["hosts"])))


def _process(data: Any) -> RunningProcess:
    return RunningProcess(
        of=_text(data["of"]),
        role=Role(_text(data["role"])),
        mark=None if data["mark"] is None else _mark(data["mark"]),
        ready=data["ready"] is True,
    )


def _mark(data: Any) -> ProcessMark:
    pid, started = data["pid"], data["started"]
    # kill(2): 0 and negative numbers mean groups of processes, 1 is the system's own
    if type(pid) is not int or type(started) is not int or pid <= 1:
        raise ValueError
    return ProcessMark(pid=pid, started=started)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value
