"""One call through a running mesh: from whom, to whom, over which connection, and what came of it.

A Service calls through its own outbound listener, which asks its sidecar and goes on over mTLS; a ThirdParty, having no
sidecar, calls straight at the callee's inbound listener over mTLS with its own SVID or, where it has none, its own
certificate. The request is sent as it was
written: no byte of method, path, host or header is changed on the way to the first Envoy.

# INVARIANT (one request): method, path and headers cannot hold the line ends that would make two of one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from authz.mesh.calls.grpc_call import call_grpc
from authz.mesh.calls.http1_call import call_http1
from authz.mesh.calls.wire import ClientTls, Endpoint
from authz.mesh.errors import CallUsageError
from authz.mesh.state import RunningService, RunningThirdParty
from authz.proxy.header_names import X_AUTHZ_DECISION_ID, X_AUTHZ_REASON

if TYPE_CHECKING:
    from authz.mesh.calls.wire import WireAnswer
    from authz.mesh.state import MeshState

#: From the first byte sent to the last one received.
CALL_TIMEOUT_S: Final = 30.0

_METHOD = re.compile(rb"[^\s\x00]+")
_NOT_IN_PATH = re.compile(rb"[\r\n\x00]")
#: RFC 9110 5.1 and 5.5: a token, and anything that does not end the line
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_GRPC_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*")
_OK, _GRPC_OK = 200, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshCall:
    """A call as the user wrote it; `caller` is a Service or ThirdParty, `destination` too, or a host for a Service.

    Either `method` and `path` are given, or `grpc` as `pkg.Service/Method`. `host` replaces what the Host header would
    say: the destination's name, or the ThirdParty's first exact host.
    """

    caller: str
    destination: str
    method: bytes = b""
    path: bytes = b""
    grpc: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None
    host: bytes | None = None

    def __post_init__(self) -> None:
        for name, value in self.headers:
            if not _HEADER_NAME.fullmatch(name) or _NOT_IN_PATH.search(value):
                raise CallUsageError(f"`{_shown(name)}: {_shown(value)}` is no header")
        host = os.fsencode(self.destination) if self.host is None else self.host
        if _NOT_IN_PATH.search(host):
            raise CallUsageError(f"`{_shown(host)}` is no host")
        if self.grpc is not None:
            if self.method or self.path:
                raise CallUsageError("give --grpc, or --method and --path, not both")
            if not _GRPC_METHOD.fullmatch(self.grpc):
                raise CallUsageError(f"--grpc `{self.grpc}`: give pkg.Service/Method")
        elif not _METHOD.fullmatch(self.method) or not self.path or _NOT_IN_PATH.search(self.path):
            raise CallUsageError("give --method and --path without line ends, or --grpc pkg.Service/Method")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """What came back; `reason` and `decision_id` are set where a sidecar refused the call.

    `grpc_status` is None unless the answer is gRPC's. Header names are in lower case, repeats joined by `, `; gRPC's
    trailers are among them.
    """

    status: int
    grpc_status: int | None
    headers: dict[str, str] = field(hash=False)
    body: str
    reason: str | None
    decision_id: str | None

    @property
    def allowed(self) -> bool:
        """Whether the call went through to the app and back: nothing but the app answers 200 here."""
        return self.reason is None and self.status == _OK and self.grpc_status in {None, _GRPC_OK}

    def to_json(self) -> dict[str, Any]:
        """Give the contract's JSON."""
        return {
            "status": self.status,
            "grpc_status": self.grpc_status,
            "headers": self.headers,
            "body": self.body,
            "reason": self.reason,
            "decision_id": self.decision_id,
        }


def make_call(state: MeshState, call: MeshCall) -> CallAnswer:
    """Make a call through a running mesh; raises CallUsageError if it cannot be made, NoAnswerError without answer."""
    caller, destination = _found(state, call.caller), _found(state, call.destination)
    if caller is None:
        raise CallUsageError(f"there is no Service or ThirdParty `{call.caller}` in this mesh")
    endpoint = _endpoint(caller, destination, call.destination)
    host = call.host
    if host is None and not any(name.lower() == b"host" for name, _ in call.headers):
        host = os.fsencode(call.destination) if destination is None else _host(destination)
    if call.grpc is None:
        answer = call_http1(
            endpoint,
            method=call.method,
            path=call.path,
            host=host,
            headers=call.headers,
            body=call.body,
            timeout_s=CALL_TIMEOUT_S,
        )
    else:
        # HTTP/2 has no Host header beside :authority (RFC 9113 8.3.1)
        given = [value for name, value in call.headers if name.lower() == b"host"]
        answer = call_grpc(
            endpoint,
            authority=host if host is not None else given[0],
            path=b"/" + call.grpc.encode(),
            headers=tuple((name, value) for name, value in call.headers if name.lower() != b"host"),
            message=call.body or b"",
            timeout_s=CALL_TIMEOUT_S,
        )
    return _judged(answer)


def _found(state: MeshState, name: str) -> RunningService | RunningThirdParty | None:
    everyone: list[RunningService | RunningThirdParty] = [*state.services, *state.third_parties]
    for one in everyone:
        if one.name == name:
            return one
    return None


def _endpoint(
    caller: RunningService | RunningThirdParty, destination: RunningService | RunningThirdParty | None, name: str
) -> Endpoint:
    if isinstance(caller, RunningService):
        return Endpoint(address=caller.outbound, what=f"the outbound listener of `{caller.name}`")
    if not isinstance(destination, RunningService):
        raise CallUsageError(f"`{caller.name}` and `{name}` both are outside the mesh: no Envoy is between them")
    if caller.certificate is None or caller.key is None:
        raise CallUsageError(f"`{caller.name}` has no identities and no certificates, so it cannot call")
    address = destination.inbound if caller.identity is not None else destination.third_party_inbound
    if address is None:
        raise CallUsageError(f"`{caller.name}` has no SPIFFE ID, and nobody without one comes in at `{name}`")
    return Endpoint(
        address=address,
        what=f"the inbound listener of `{destination.name}`",
        tls=ClientTls(
            certificate=caller.certificate, key=caller.key, bundle=destination.bundle, peer=destination.identity
        ),
    )


def _host(destination: RunningService | RunningThirdParty) -> bytes:
    if isinstance(destination, RunningService):
        return destination.name.encode()
    for host in destination.hosts:
        if not host.startswith("*."):
            return host.encode()
    raise CallUsageError(f"`{destination.name}` has no exact host: give --host")


def _judged(answer: WireAnswer) -> CallAnswer:
    headers = answer.joined_headers()
    return CallAnswer(
        status=answer.status,
        grpc_status=answer.grpc_status,
        headers=headers,
        body=answer.body.decode("utf-8", "replace"),
        reason=headers.get(X_AUTHZ_REASON),
        decision_id=headers.get(X_AUTHZ_DECISION_ID),
    )


def _shown(value: bytes) -> str:
    return value.decode("utf-8", "replace")
