"""What a call hears that is cut before the answer began: the refusal that a new call would get.

Envoy ends a stream whose time is over with a 504, or a 408 where the request was unfinished, and tells a gRPC caller 4
(DEADLINE_EXCEEDED). The check's answer said in its dynamic metadata why the call is refused from then on; a call that
was ended by a limit of its caller's own has no such word, and hears what Envoy says.

A held call that the hold cuts hears the hold server's own words; where the hold broke off, or could not begin, it hears
`internal_error`, as from a check server that is not there.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ExtensionFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeUInt32,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)

from authz.decision import Reason
from authz.proxy.header_names import (
    CUT_REASON,
    EXT_AUTHZ,
    HELD,
    HOLD_CUT_DETAILS,
    HOLD_LOST_DETAILS,
    OVER_DETAILS,
    X_AUTHZ_DECISION_ID,
    X_AUTHZ_REASON,
)
from authz.proxy.rendering import packed

#: reasons -> (HTTP status, gRPC status), as a refusal by the check has them; all others are 403 PERMISSION_DENIED
_UNAUTHENTICATED: Final = (401, 16)
_PERMISSION_DENIED: Final = (403, 7)
_UNAVAILABLE: Final = (503, 14)
#: What Envoy itself says to a call that is over, or has lost its hold, is this or more (408, 500, 503, 504); what the
#: check says to one that it refuses is mostly less.
_LEAST_CUT_STATUS: Final = 408

METADATA: Final = f'metadata.filter_metadata["{EXT_AUTHZ}"]'
#: CEL over Envoy's attributes: a call to which the check had set a deadline for a reason.
HAS_DEADLINE: Final = f'"{EXT_AUTHZ}" in metadata.filter_metadata && "{CUT_REASON}" in {METADATA}'
#: A call that the check had held.
IS_HELD: Final = f'"{EXT_AUTHZ}" in metadata.filter_metadata && "{HELD}" in {METADATA}'
#: One that the hold server has cut, and one that was ended because it is not there.
CUT_BY_HOLD: Final = f'response.code_details.startsWith("{HOLD_CUT_DETAILS}")'
HOLD_LOST: Final = f'response.code_details.startsWith("{HOLD_LOST_DETAILS}")'
OVER: Final = f'response.code_details == "{OVER_DETAILS}"'
_IS_CUT: Final = f"{OVER} && {HAS_DEADLINE}"
_HAS_LOST_HOLD: Final = f"{IS_HELD} && {HOLD_LOST}"
_IS_UNPROVEN: Final = f'{METADATA}["{CUT_REASON}"] in ["unidentified", "untrusted"]'
_IS_GRPC: Final = (
    '"content-type" in request.headers && request.headers["content-type"].matches("^application/grpc([+;].*)?$")'
)
#: What the check's own words are called in a format of Envoy's.
_REASON_OF_THE_CHECK: Final = f"%DYNAMIC_METADATA({EXT_AUTHZ}:{CUT_REASON})%"
_DECISION_ID: Final = f"%DYNAMIC_METADATA({EXT_AUTHZ}:decision_id)%"


def cut_replies() -> LocalReplyConfig:
    """Give what turns Envoy's answer to a call that was cut into ours; others stay as they are."""
    return LocalReplyConfig(
        mappers=[
            _mapper(f"{_IS_CUT} && {_IS_UNPROVEN} && {_IS_GRPC}", _UNAUTHENTICATED, is_grpc=True),
            _mapper(f"{_IS_CUT} && {_IS_UNPROVEN}", _UNAUTHENTICATED, is_grpc=False),
            _mapper(f"{_IS_CUT} && {_IS_GRPC}", _PERMISSION_DENIED, is_grpc=True),
            _mapper(_IS_CUT, _PERMISSION_DENIED, is_grpc=False),
            _mapper(f"{_HAS_LOST_HOLD} && {_IS_GRPC}", _UNAVAILABLE, is_grpc=True, reason=Reason.INTERNAL_ERROR.value),
            _mapper(_HAS_LOST_HOLD, _UNAVAILABLE, is_grpc=False, reason=Reason.INTERNAL_ERROR.value),
        ]
    )


def _mapper(
    expression: str, status: tuple[int, int], *, is_grpc: bool, reason: str = _REASON_OF_THE_CHECK
) -> ResponseMapper:
    http_status, grpc_status = status
    headers = [(X_AUTHZ_REASON, reason), (X_AUTHZ_DECISION_ID, _DECISION_ID)]
    if is_grpc:
        headers.append(("grpc-status", str(grpc_status)))
    elif http_status == _UNAUTHENTICATED[0]:
        headers.append(("www-authenticate", "SPIFFE"))
    body = f'{{"error": "denied", "reason": "{reason}", "decision_id": "{_DECISION_ID}"}}'
    return ResponseMapper(
        filter=AccessLogFilter(and_filter=AndFilter(filters=[_may_be_cut(), _only(expression)])),
        status_code=http_status,
        body_format_override=SubstitutionFormatString(
            text_format_source=DataSource(inline_string=body), content_type="application/json"
        ),
        headers_to_add=[
            HeaderValueOption(
                header=HeaderValue(key=name, value=value),
                append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for name, value in headers
        ],
    )


def _may_be_cut() -> AccessLogFilter:
    """Give what spares refused calls six expressions in CEL each."""
    status = ComparisonFilter(
        op=ComparisonFilterOp.GE,
        # Envoy wants a name by which the bootstrap could override it.
        value=RuntimeUInt32(default_value=_LEAST_CUT_STATUS, runtime_key="authz.least_cut_status"),
    )
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=status))


def _only(expression: str) -> AccessLogFilter:
    return AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=packed(ExpressionFilter(expression=expression)),
        )
    )
