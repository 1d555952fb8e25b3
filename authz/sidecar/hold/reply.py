"""What the hold server says to Envoy: that a call goes on, or that it ends, and why.

envoy/service/ext_proc/v3/external_processor.proto
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Final

from envoy.service.ext_proc.v3 import external_processor_pb2

from authz.proxy.header_names import HOLD_CUT_DETAILS, X_AUTHZ_DECISION_ID, X_AUTHZ_HOLD, X_AUTHZ_REASON
from authz.sidecar.check.answer import CHALLENGE, refusal_status
from authz.sidecar.hold.notice import ID_BYTES

if TYPE_CHECKING:
    from authz.decision import Reason

_Request = external_processor_pb2.ProcessingRequest
_Response = external_processor_pb2.ProcessingResponse

#: the call begins, with its headers as they are
BEGINS: Final = _Response(request_headers=external_processor_pb2.HeadersResponse()).SerializeToString()
#: the answer's trailers go on as they are
TRAILERS: Final = _Response(response_trailers=external_processor_pb2.TrailersResponse()).SerializeToString()
NO_ID: Final = b"-"
#: An id that no decision has and nothing else says, in the place of which others are put.
_ANY_ID: Final = b"~" * ID_BYTES


def decision_id_of(request: external_processor_pb2.ProcessingRequest) -> bytes:
    """Give the decision's id that a call is held by, `-` where Envoy says none."""
    if request.WhichOneof("request") != "request_headers":
        return NO_ID
    said = [
        header.raw_value or header.value.encode("latin-1", "replace")
        for header in request.request_headers.headers.headers
        if header.key == X_AUTHZ_HOLD
    ]
    return said[0] if len(said) == 1 and len(said[0]) == ID_BYTES else NO_ID


def cut(reason: Reason, decision_id: bytes) -> bytes:
    """Give what ends a call: where no answer has begun, with what a new call would hear."""
    if len(decision_id) != ID_BYTES or not decision_id.isalnum():
        return _cut(reason, decision_id)
    return decision_id.join(_parts(reason))


@cache
def _parts(reason: Reason) -> tuple[bytes, ...]:
    """Give what stands around the id: thousands of calls may end for one reason at once."""
    return tuple(_cut(reason, _ANY_ID).split(_ANY_ID))


def _cut(reason: Reason, decision_id: bytes) -> bytes:
    http_status, grpc_status = refusal_status(reason)
    response = _Response()
    reply = response.immediate_response
    reply.status.code = http_status
    reply.grpc_status.status = grpc_status
    reply.details = HOLD_CUT_DETAILS + reason.value
    said = decision_id.decode("latin-1")
    headers = {X_AUTHZ_REASON: reason.value, X_AUTHZ_DECISION_ID: said, "content-type": "application/json"}
    if http_status == 401:  # noqa: PLR2004 RFC 9110 15.5.2: a 401 names what would authenticate
        headers["www-authenticate"] = CHALLENGE
    for name, value in headers.items():
        option = reply.headers.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode("latin-1")
        option.append_action = option.OVERWRITE_IF_EXISTS_OR_ADD
    reply.body = json.dumps({"error": "denied", "reason": reason.value, "decision_id": said}).encode()
    content: bytes = response.SerializeToString()
    return content
