"""What runs, as it says of itself: a sidecar or a mesh by its state folder, Envoy's secrets by their socket."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from authz.doctor.identity_source import PATIENCE_S, unreachable_socket
from authz.doctor.observation import missing, ok, span, warning
from authz.errors import AuthzError
from authz.identity.errors import quoted
from authz.mesh.process_mark import mark_of
from authz.mesh.running_mesh import Mesh
from authz.mesh.state_directory import StateDirectory
from authz.proxy.spec import TRUST_SECRET
from authz.sidecar.control.sds_resources import SECRET_TYPE
from authz.sidecar.control.sds_server import SERVICE
from authz.sidecar.reported_status import FILE_NAME, reported_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.doctor.observation import Observation
    from authz.mesh.status import ServiceStatus
    from authz.sidecar.reported_status import ReportedFederation, ReportedIdentity, ReportedStatus

#: SDS has a few KiB for each trust domain
_MAX_SECRETS_BYTES: Final = 4 * 1024 * 1024
_LOG = "see its log"
_SDS_REMEDIES: Final[dict[grpc.StatusCode, str]] = {
    grpc.StatusCode.UNAVAILABLE: "it takes connections of its own user and root only; else see the sidecar's log",
    grpc.StatusCode.UNIMPLEMENTED: "this is another gRPC server; give the sidecar's --sds-socket",
}


def state_observations(state: str) -> Iterator[Observation]:
    """Look at the state folder of a sidecar, or at the state directory of a mesh."""
    try:
        of_a_mesh = StateDirectory(state).left_behind()
    except OSError as error:
        says = f"{state} cannot be looked at: {(error.strerror or str(error)).lower()}"
        yield missing("state", says, "run as the user of the sidecar or mesh")
        return
    if of_a_mesh:
        yield from _mesh(state)
        return
    said = reported_status(state)
    if said is None:
        says = f"{state} has neither the {FILE_NAME} of a sidecar nor the record of a mesh that can be read"
        yield missing("state", says, "give what `authz sidecar --state` or `authz mesh up --state` was given")
        return
    yield from _sidecar(said)


def _mesh(state: str) -> Iterator[Observation]:
    try:
        status = Mesh(state).status()
    except AuthzError as error:
        yield missing("mesh", str(error), f"authz mesh down --state {state}")
        return
    yield ok("mesh", f"supervisor {status.supervisor}, policies {status.policies}")
    if status.issuer is None:
        yield missing("issuer", "does not run: no SVID is renewed", _LOG)
    else:
        yield ok("issuer", f"process {status.issuer}")
    for one in status.services:
        yield from _service(one)


def _service(one: ServiceStatus) -> Iterator[Observation]:
    name = one.service.name
    if one.not_ready:
        waits = ", ".join(one.not_ready)
        yield missing(f"service {name}", f"waits for {waits}", "`authz mesh status`, and the logs of its state")
    said = reported_status(one.service.sidecar_state)
    if said is not None and said.pid == one.pids.get("sidecar"):
        yield from _sidecar(said)


def _sidecar(said: ReportedStatus) -> Iterator[Observation]:
    about = f"sidecar {said.service}"
    if said.pid <= 0 or mark_of(said.pid) is None:
        yield missing(about, f"process {said.pid}, which wrote the status, has gone", "start the sidecar")
        return
    revision = "no revision" if said.revision is None else f"revision {said.revision[:12]}"
    if said.ready:
        yield ok(about, f"process {said.pid} is ready, {revision} is in force")
    else:
        yield missing(about, f"process {said.pid} is not ready, {revision}: calls are denied", _LOG)
    if said.stale:
        first = said.faults[0] if said.faults else "it does not say why"
        yield warning(about, f"the newest policies are not used: {first}", "authz lint DIR")
    if said.identity is not None:
        yield from _identity(f"identity of {said.service}", said.identity, datetime.now(UTC))
    for one in said.federation:
        yield _federation(one)


def _identity(about: str, identity: ReportedIdentity, now: datetime) -> Iterator[Observation]:
    who = f"{identity.spiffe_id or 'none yet'}, from {identity.source}"
    fault = "" if identity.fault is None else f": {identity.fault}"
    ask = f"authz doctor --identity {identity.source}, as the sidecar's user"
    if identity.not_after is None:
        yield missing(about, f"{who}{fault}", ask)
    elif identity.not_after < now:
        yield missing(about, f"{who}, has ended {span(now - identity.not_after)} ago{fault}", ask)
    elif identity.stale:
        silent = span(timedelta(seconds=identity.lag_s))
        left = span(identity.not_after - now)
        yield warning(about, f"{who}: nothing new for {silent}, and {left} left{fault}", ask)
    elif identity.fault is not None:
        yield warning(about, f"{who}{fault}", ask)
    else:
        yield ok(about, f"{who}, {span(identity.not_after - now)} left")
    if identity.sds_fault is not None:
        remedy = "Envoy goes on with the secrets of before; see that it is the version that is supported"
        yield warning(f"{about} at Envoy", f"is refused: {identity.sds_fault}", remedy)


def _federation(one: ReportedFederation) -> Observation:
    about = f"federation {one.trust_domain}"
    errors = "; ".join(error for error in (one.endpoint_error, one.file_error) if error is not None)
    success = "never" if one.last_success is None else f"{one.last_success:%Y-%m-%dT%H:%M:%SZ}"
    following = "" if one.next_poll is None else f", next poll {one.next_poll:%Y-%m-%dT%H:%M:%SZ}"
    says = f"bundle from {one.origin or 'nowhere'}, sequence {one.sequence}, last success {success}{following}"
    if one.origin is None:
        # The source of the identity may deliver one, which counts before this.
        why = errors or "not fetched yet"
        return warning(about, f"{says}: {why}", "unless the identity's source delivers it, nobody of it is believed")
    if errors:
        return warning(about, f"{says}: {errors}", "the bundle of before stays in force; ask its owner")
    return ok(about, says)


def sds_observation(path: str, *, patience_s: float = PATIENCE_S) -> Observation:
    """Ask an SDS socket for whom it trusts; a private key is not asked for."""
    about = "sds"
    unreachable = unreachable_socket(about, path, start="start `authz sidecar --sds-socket` with this path")
    if unreachable is not None:
        return unreachable
    request = discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE, resource_names=[TRUST_SECRET])
    options = [
        ("grpc.max_receive_message_length", _MAX_SECRETS_BYTES),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.default_authority", "localhost"),
    ]
    try:
        with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
            ask = channel.unary_unary(f"/{SERVICE}/FetchSecrets")
            content = ask(request.SerializeToString(), timeout=patience_s)
        answer = discovery_pb2.DiscoveryResponse.FromString(content)
    except grpc.RpcError as error:
        code = error.code()
        remedy = _SDS_REMEDIES.get(code, _LOG)
        return missing(about, f"{path}: {code.name}: {quoted(error.details() or 'no word why')}", remedy)
    except DecodeError:
        return missing(about, f"{path}: the answer is none of SDS", "give the sidecar's --sds-socket")
    if not answer.resources:
        remedy = "see `authz doctor --state DIR` of the sidecar: it has no identity, or trusts nobody yet"
        return missing(about, f"{path} answers, and has no bundle to give", remedy)
    return ok(about, f"{path} answers, and has the bundles; keys are not asked for here")
