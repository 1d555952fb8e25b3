"""From a decision to the bytes of a CheckResponse. The only module that writes Envoy's messages.

To Envoy an empty CheckResponse is an ALLOW, and so is status 0 beside a denied_response. INVARIANT (no empty answer):
every answer sets `http_response`, a deny sets a status that is not 0, and no answer is the empty string; what would
break this is replaced by `FAULT`, which is built once when the module is read.

A caller learns the reason and the decision's id, never a policy, a revision or another identity.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2

from authz.decision import Decision, Reason, Verdict
from authz.proxy.header_names import (
    CUT_AFTER,
    CUT_REASON,
    GRPC_TIMEOUT,
    HELD,
    X_AUTHZ_CALLER,
    X_AUTHZ_DECISION_ID,
    X_AUTHZ_HOLD,
    X_AUTHZ_REASON,
)
from authz.sidecar.check.stream_deadline import duration_text

if TYPE_CHECKING:
    from authz.request import Call
    from authz.sidecar.check.stream_deadline import StreamDeadline

_OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

# google.rpc.Code, of the answer as a whole and for a caller that speaks gRPC
_INVALID_ARGUMENT, _PERMISSION_DENIED, _UNAVAILABLE, _UNAUTHENTICATED = 3, 7, 14, 16

#: reason -> (HTTP status, gRPC status); every deny that is not named here is 403 PERMISSION_DENIED
_STATUS: Final = {
    Reason.MALFORMED: (400, _INVALID_ARGUMENT),
    Reason.UNIDENTIFIED: (401, _UNAUTHENTICATED),
    Reason.UNTRUSTED: (401, _UNAUTHENTICATED),
    Reason.INTERNAL_ERROR: (503, _UNAVAILABLE),
    Reason.OVERLOADED: (503, _UNAVAILABLE),
}
_FORBIDDEN: Final = (403, _PERMISSION_DENIED)


#: RFC 9110 11.6.1: what would authenticate a call that nothing identifies: an SVID
CHALLENGE: Final = "SPIFFE"
#: RFC 6750 3: the same, where a token of a workload came that proves nobody. Why it does not is not told.
CHALLENGE_AFTER_BEARER: Final = 'Bearer error="invalid_token"'


def answer_bytes(
    *,
    decision: Decision,
    decision_id: str,
    call: Call | None,
    is_grpc: bool = False,
    deadline: StreamDeadline | None = None,
    is_held: bool = False,
    challenge: str = CHALLENGE,
) -> bytes:
    """Write an answer; `call` is None where the check could not be read, which only a deny may answer.

    An allowed call runs until `deadline`, and is held where `is_held`.
    """
    response = external_auth_pb2.CheckResponse()
    response.dynamic_metadata.update(
        {"decision_id": decision_id, "reason": decision.reason.value, "policy": decision.policy or ""}
    )
    if decision.verdict is Verdict.ALLOW and call is not None:
        _allow(response, call)
        if is_held:
            response.dynamic_metadata.update({HELD: "yes"})
        if deadline is not None:
            _set(response.ok_response.headers, GRPC_TIMEOUT, deadline.timeout.decode())
            if deadline.reason is not None:
                # What Envoy's local reply says to a call that it cuts then, and by which it knows one to tell of.
                response.dynamic_metadata.update(
                    {CUT_REASON: deadline.reason.value, CUT_AFTER: duration_text(deadline.timeout).decode()}
                )
        if is_held:
            # Behind the timeout: a prepared answer looks for that before it looks for the id.
            _set(response.ok_response.headers, X_AUTHZ_HOLD, decision_id)
    else:
        _deny(response, decision.reason, decision_id, is_grpc=is_grpc, challenge=challenge)
    return response.SerializeToString() or FAULT


def refusal_status(reason: Reason) -> tuple[int, int]:
    """Give the HTTP status and the gRPC status of a refusal."""
    return _STATUS.get(reason, _FORBIDDEN)


def _allow(response: external_auth_pb2.CheckResponse, call: Call) -> None:
    response.status.code = 0
    response.ok_response.SetInParent()
    if call.direction == "inbound" and call.caller is not None:
        _set(response.ok_response.headers, X_AUTHZ_CALLER, str(call.caller))


def _deny(
    response: external_auth_pb2.CheckResponse,
    reason: Reason,
    decision_id: str,
    *,
    is_grpc: bool = False,
    challenge: str = CHALLENGE,
) -> None:
    if reason.verdict is Verdict.ALLOW:
        reason = Reason.INTERNAL_ERROR
    http_status, grpc_status = refusal_status(reason)
    response.status.code = grpc_status
    denied = response.denied_response
    denied.status.code = http_status
    _set(denied.headers, X_AUTHZ_DECISION_ID, decision_id)
    _set(denied.headers, X_AUTHZ_REASON, reason.value)
    _set(denied.headers, "content-type", "application/json")
    if http_status == 401:  # noqa: PLR2004 RFC 9110 15.5.2: a 401 names what would authenticate
        _set(denied.headers, "www-authenticate", challenge)
    if is_grpc and grpc_status == _INVALID_ARGUMENT:
        # Envoy makes 13 (INTERNAL) of a 400; 401, 403 and 503 it maps right by itself.
        _set(denied.headers, "grpc-status", str(_INVALID_ARGUMENT))
    denied.body = json.dumps({"error": "denied", "reason": reason.value, "decision_id": decision_id})


def _set(headers: external_auth_pb2.HeaderValueOptions, name: str, value: str) -> None:
    option = headers.add()
    option.header.key = name
    option.header.value = value
    option.append_action = _OVERWRITE


def _fault() -> bytes:
    response = external_auth_pb2.CheckResponse()
    _deny(response, Reason.INTERNAL_ERROR, "")
    return bytes(response.SerializeToString())


#: A deny `internal_error` that needs nothing but itself.
FAULT: Final = _fault()
