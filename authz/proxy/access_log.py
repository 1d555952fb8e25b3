"""How Envoy tells of connections whose handshake failed: an access log of the inbound listener, sent to control.

No check is made for who could not even shake hands. The listener's own access log has an entry for each connection when
it ends, with the address that it came from and, where TLS failed, the reason. What Envoy 1.40 says of which failure,
and what each becomes as a record, stands in docs/handshakes.md.

Two filters take out what is no failed handshake, and neither of them could alone:

- Envoy sends only entries of connections that ended by a failure of TLS or by a timeout of Envoy's own
  (:data:`FAILED`): nothing is sent for a connection that served calls and ended in peace.
- A connection may break after its handshake, with the same words. The duration of the handshake is there only if there
  was one that succeeded; it travels along as a tag (:data:`~authz.proxy.access_log_names.HANDSHAKE_TAG`), and who
  receives the entry drops it.

Envoy does not wait for the receiver, and keeps nothing for it: entries that find nobody are lost, and Envoy's counters
of the access log do not say so. Its counters of handshakes do: `listener.inbound.ssl.fail_verify_no_cert`,
`.fail_verify_error` and `.connection_error` count every failure, whether or not anybody was told.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    DurationFilter,
    ExtensionFilter,
    LogTypeFilter,
    MetadataFilter,
    OrFilter,
    ResponseFlagFilter,
)
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Http2ProtocolOptions,
    RuntimeUInt32,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.data.accesslog.v3 import AccessLogType
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
    TcpGrpcAccessLogConfig,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerHcmAccessLogOptions,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import (
    MetadataMatcher,
    MetadataMatcherPathSegment,
    StringMatcher,
    ValueMatcher,
)
from envoy_data_plane.envoy.type.tracing.v3 import CustomTag, CustomTagLiteral

from authz.proxy.access_log_names import (
    CALLS_LOG,
    CERTIFICATE_TAG,
    CHAIN_TAG,
    CONTENT_TYPE_HEADER,
    CUTS_LOG,
    DIRECTION_TAG,
    HANDSHAKE_TAG,
    HANDSHAKES_LOG,
    METHOD_HEADER,
    RUNNING_LOG,
    SERIAL_TAG,
    UPGRADE_HEADER,
    UPSTREAM_TLS_TAG,
    WORKLOAD_TAG,
)
from authz.proxy.addresses import UnixAddress
from authz.proxy.cut_reply import CUT_BY_HOLD, HAS_DEADLINE, HOLD_LOST, IS_HELD, METADATA, OVER
from authz.proxy.header_names import CUT_AFTER, DRAINED_DETAILS, EXT_AUTHZ, HELD, X_AUTHZ_CALLER, X_AUTHZ_REASON
from authz.proxy.rendering import packed
from authz.proxy.socket_address import socket_address
from authz.request import Direction

if TYPE_CHECKING:
    from authz.proxy.spec import SidecarSpec

ACCESS_LOG_CLUSTER: Final = "access_log"
#: CEL over Envoy's attributes: TLS failed, or Envoy ended the connection (the handshake took too long).
FAILED: Final = "connection.transport_failure_reason != '' || connection.termination_details != ''"
#: Both sidecars of a call have its deadline, and whichever comes first by its clock ends it for the other one too: that
#: one sees a stream that was reset, or a refusal instead of an answer, so little before its own deadline at most.
CLOCKS_APART: Final = timedelta(milliseconds=250)
#: CEL over Envoy's attributes: the deadline that the check had set has ended the call, here or at the other sidecar.
CUT_BY_DEADLINE: Final = (
    f"{HAS_DEADLINE} && ({OVER} || ("
    f'(response.flags != 0 || "{X_AUTHZ_REASON}" in response.headers)'
    f' && request.duration >= duration({METADATA}["{CUT_AFTER}"]) - duration("{CLOCKS_APART.total_seconds()}s")))'
)
#: A held call was cut by the hold here, or broke, which may come of the hold of the other sidecar: whoever receives the
#: entry finds out.
HELD_AND_BROKEN: Final = (
    f'{IS_HELD} && ({CUT_BY_HOLD} || {HOLD_LOST} || response.flags != 0 || "{X_AUTHZ_REASON}" in response.headers)'
)
#: What is told of calls.
CUT: Final = f"({CUT_BY_DEADLINE}) || ({HELD_AND_BROKEN})"
#: A call tells of itself so often while it runs: one that is shorter never does.
RUNNING_INTERVAL: Final = timedelta(seconds=1)
#: A call that was decided and is not held.
IS_NOT_HELD: Final = f'"{EXT_AUTHZ}" in metadata.filter_metadata && "decision_id" in {METADATA} && !({IS_HELD})'
#: Its end, where it had told of itself before, or its connection was drained.
HAS_RUN: Final = (
    f'{IS_NOT_HELD} && (request.duration >= duration("{RUNNING_INTERVAL.total_seconds()}s")'
    f' || response.code_details.contains("{DRAINED_DETAILS}"))'
)
#: What the check says of deadlines under a second begins so (`stream_deadline.duration_text`), of no other ones.
SOON: Final = "00000"
#: A call that is shorter, has no such deadline, is not held and has no flag was not cut, whatever CEL would say.
SHORT: Final = timedelta(seconds=1) - CLOCKS_APART
#: An entry is sent so long after its connection has ended, or when so many bytes have come together.
FLUSH_INTERVAL: Final = timedelta(milliseconds=200)
#: What runs may have to be ended.
RUNNING_FLUSH_INTERVAL: Final = timedelta(milliseconds=50)
#: So often it is told of a call that runs how many bytes have gone over the wire: an interval of flows has 10 s.
BYTES_INTERVAL: Final = timedelta(seconds=5)
BUFFER_BYTES: Final = 16_384


def access_log_clusters(spec: SidecarSpec) -> list[Cluster]:
    """Give the cluster of the receiver, or none where there is no receiver."""
    return [] if spec.access_log_socket is None else [_cluster(spec.access_log_socket)]


def failed_handshakes(spec: SidecarSpec) -> list[AccessLog]:
    """Give the access log of a listener that demands certificates, or none where nobody receives it."""
    if spec.access_log_socket is None:
        return []
    config = TcpGrpcAccessLogConfig(
        common_config=_to_the_receiver(
            HANDSHAKES_LOG, CustomTag(tag=HANDSHAKE_TAG, value="%DOWNSTREAM_HANDSHAKE_DURATION%")
        )
    )
    return [AccessLog(name="envoy.access_loggers.tcp_grpc", filter=_only(FAILED), typed_config=packed(config))]


def cut_calls(spec: SidecarSpec, direction: Direction) -> list[AccessLog]:
    """Give the access log of a listener's calls that their deadline cut, or none where nobody receives it.

    The caller that the check proved stands in the header that the app sees; nobody else can have written it.
    """
    if spec.access_log_socket is None:
        return []
    tags = [
        CustomTag(tag=DIRECTION_TAG, literal=CustomTagLiteral(value=direction.value)),
        CustomTag(tag=WORKLOAD_TAG, literal=CustomTagLiteral(value=spec.identity)),
    ]
    if direction is Direction.INBOUND:
        tags.append(CustomTag(tag=SERIAL_TAG, value="%DOWNSTREAM_PEER_SERIAL%"))
    if not spec.drains:
        return [_calls_log(CUTS_LOG, tags, _all_of(_may_be_cut(), _only(CUT)))]
    ends = _all_of(_of_type(AccessLogType.DownstreamEnd), _may_be_cut(), _only(f"({CUT}) || ({HAS_RUN})"))
    running = [*tags, CustomTag(tag=CHAIN_TAG, value="%FILTER_CHAIN_NAME%")]
    if direction is Direction.INBOUND:
        running.append(CustomTag(tag=CERTIFICATE_TAG, value="%DOWNSTREAM_PEER_CERT%"))
    return [
        _calls_log(CUTS_LOG, tags, ends),
        _calls_log(RUNNING_LOG, running, _all_of(_of_type(AccessLogType.DownstreamPeriodic), _only(IS_NOT_HELD))),
    ]


def while_they_run(spec: SidecarSpec) -> HttpConnectionManagerHcmAccessLogOptions | None:
    """Give how often calls tell of themselves while they run, None where nobody receives it."""
    if spec.access_log_socket is None:
        return None
    interval = RUNNING_INTERVAL if spec.drains else BYTES_INTERVAL
    return HttpConnectionManagerHcmAccessLogOptions(access_log_flush_interval=interval)


def _calls_log(name: str, tags: list[CustomTag], which: AccessLogFilter) -> AccessLog:
    common = _to_the_receiver(name, *tags)
    if name == RUNNING_LOG:
        common.buffer_flush_interval = RUNNING_FLUSH_INTERVAL
    config = HttpGrpcAccessLogConfig(
        common_config=common,
        additional_request_headers_to_log=[METHOD_HEADER, CONTENT_TYPE_HEADER, UPGRADE_HEADER, X_AUTHZ_CALLER],
    )
    return AccessLog(name="envoy.access_loggers.http_grpc", filter=which, typed_config=packed(config))


def _of_type(of: AccessLogType) -> AccessLogFilter:
    return AccessLogFilter(log_type_filter=LogTypeFilter(types=[of]))


def _all_of(*filters: AccessLogFilter) -> AccessLogFilter:
    """Give a filter that asks these in turn, and no further than to the first that says no."""
    return AccessLogFilter(and_filter=AndFilter(filters=list(filters)))


def _may_be_cut() -> AccessLogFilter:
    """Give what lets through every call that CUT or HAS_RUN can mean, and few others, without CEL.

    INVARIANT (no cut is missed): what CEL says yes to is held, or was drained, which sets a flag, or lasted until
    CLOCKS_APART before its deadline at least, or for RUNNING_INTERVAL (tests/integration/test_told_ends.py).
    """
    lasted = ComparisonFilter(
        op=ComparisonFilterOp.GE,
        # Envoy wants a name by which the bootstrap could override it.
        value=RuntimeUInt32(default_value=SHORT // timedelta(milliseconds=1), runtime_key="authz.short_ms"),
    )
    return AccessLogFilter(
        or_filter=OrFilter(
            filters=[
                AccessLogFilter(duration_filter=DurationFilter(comparison=lasted)),
                AccessLogFilter(response_flag_filter=ResponseFlagFilter()),
                _said_by_the_check(HELD, StringMatcher(exact="yes")),
                _said_by_the_check(CUT_AFTER, StringMatcher(prefix=SOON)),
            ]
        )
    )


def _said_by_the_check(field: str, value: StringMatcher) -> AccessLogFilter:
    matcher = MetadataMatcher(
        filter=EXT_AUTHZ, path=[MetadataMatcherPathSegment(key=field)], value=ValueMatcher(string_match=value)
    )
    # Where the check has said nothing Envoy would take that for yes.
    return AccessLogFilter(metadata_filter=MetadataFilter(matcher=matcher, match_if_key_not_found=False))


def all_calls(spec: SidecarSpec, direction: Direction) -> list[AccessLog]:
    """Give the access log of a listener's calls, each when it ends, or none where nobody receives it.

    By the decision's id, which the check has left in the metadata, each is joined with its decision. An entry itself
    has the TLS of the connection that the call came by; that of the one it went on by is a tag.
    """
    if spec.access_log_socket is None:
        return []
    tags = []
    if direction is Direction.OUTBOUND:
        tags.append(CustomTag(tag=UPSTREAM_TLS_TAG, value="%UPSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER%"))
    config = HttpGrpcAccessLogConfig(common_config=_to_the_receiver(CALLS_LOG, *tags))
    return [AccessLog(name="envoy.access_loggers.http_grpc", typed_config=packed(config))]


def _only(expression: str) -> AccessLogFilter:
    return AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=packed(ExpressionFilter(expression=expression)),
        )
    )


def _to_the_receiver(log_name: str, *tags: CustomTag) -> CommonGrpcAccessLogConfig:
    return CommonGrpcAccessLogConfig(
        log_name=log_name,
        grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=ACCESS_LOG_CLUSTER)),
        transport_api_version=ApiVersion.V3,
        buffer_flush_interval=FLUSH_INTERVAL,
        buffer_size_bytes=BUFFER_BYTES,
        custom_tags=list(tags),
    )


def _cluster(socket: str) -> Cluster:
    # No keepalive: a receiver that dies closes its socket, and one that hangs is killed by its supervisor. What waits
    # for it meanwhile is bounded by the stream's window; Envoy drops the rest.
    return Cluster(
        name=ACCESS_LOG_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(milliseconds=100),
        load_assignment=ClusterLoadAssignment(
            cluster_name=ACCESS_LOG_CLUSTER,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=socket_address(UnixAddress(path=socket))))]
                )
            ],
        ),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(
                HttpProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=Http2ProtocolOptions()
                    )
                )
            )
        },
    )
