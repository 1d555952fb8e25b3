"""How one sidecar learns what the other's clock says: from the answer to each call that it makes anyway.

The callee's inbound listener writes into the answers of some calls when, by its own clock, they came in
(:func:`received_here`, :func:`told_of_some_calls`). The caller's outbound listener moves that into the call's metadata
(:func:`clock_filter`): the app sees nothing of it, and the access log, which has the caller's own times of the same
call, brings it to control.

It is in the answer, and not in the request, for three reasons: no check ever sees it, so that nobody can make checks
differ by it; who says it is the Service whose certificate the caller has just verified, not whoever calls; and the
caller knows both when the call left and when the answer came, between which the other clock was read: a bound on either
side, where a request would give one, and that with the network's delay in it.

Not of every call: the word costs the callee's Envoy about 2 us and the caller's 6, of some 300 that each spends on a
call, and a clock does not move from call to call.

A ThirdParty's answer has no word in it: its routes remove the header. Whatever comes instead of a time is no time.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeFractionalPercent,
)
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 import (
    Config,
    ConfigKeyValuePair,
    ConfigRule,
    ConfigValueType,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.v3 import FractionalPercent

from authz.proxy.access_log_names import PEER_CLOCK, RECEIVED_US
from authz.proxy.header_names import X_AUTHZ_RECEIVED
from authz.proxy.rendering import packed

#: One call in so many tells, drawn by Envoy.
CALLS_TO_ONE_TOLD: Final = 10
#: Microseconds since 1970-01-01T00:00:00Z.
_STARTED_US: Final = "%START_TIME(%s%6f)%"


def received_here() -> HeaderValueOption:
    """Give what the routes of an inbound listener write into answers; the app's own word is overwritten."""
    return HeaderValueOption(
        header=HeaderValue(key=X_AUTHZ_RECEIVED, value=_STARTED_US),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def told_of_some_calls() -> RuntimeFractionalPercent:
    """Give which calls' routes write it."""
    return RuntimeFractionalPercent(default_value=FractionalPercent(numerator=100 // CALLS_TO_ONE_TOLD))


def clock_filter() -> HttpFilter:
    """Give the filter of an outbound listener; it touches answers only."""
    return HttpFilter(
        name="envoy.filters.http.header_to_metadata",
        typed_config=packed(
            Config(
                response_rules=[
                    ConfigRule(
                        header=X_AUTHZ_RECEIVED,
                        on_header_present=ConfigKeyValuePair(
                            metadata_namespace=PEER_CLOCK, key=RECEIVED_US, type=ConfigValueType.STRING
                        ),
                        remove=True,
                    )
                ]
            )
        ),
    )
