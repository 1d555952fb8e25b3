"""Flows and kept records as OpenTelemetry's protocol has them (OTLP 1.x): metrics with delta temporality, and logs.

The messages are of our own, with the protocol's field numbers (a test reads them by OpenTelemetry's own classes): the
generated classes cannot be relied on, because xds-protos, which Envoy's messages come from, installs older ones under
the same names as opentelemetry-proto.

Names are those of the semantic conventions for HTTP and RPC. Labels of metrics are words of closed lists and names of
the policies: what callers make up (methods that nobody knows, hosts, paths, addresses) is in none of them.

https://opentelemetry.io/docs/specs/semconv/http/http-metrics/, .../rpc/rpc-metrics/, .../specs/otlp/
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from authz.instant import NS_PER_S
from authz.records.decision_record import record_from_json
from authz.records.latency_histogram import MAX_BUCKETS, NONE, LatencyHistogram
from authz.request import Direction
from authz.sidecar.control.field_table import FieldTable, message_classes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from authz.records.decision_record import DecisionRecord
    from authz.records.flow import Flow

_PACKAGE: Final = "authz.otlp"
#: opentelemetry/proto/{collector,metrics,logs,resource,common}/v1
FIELDS: Final[FieldTable] = {
    "ExportMetricsServiceRequest": (("resource_metrics", 1, "ResourceMetrics[]"),),
    "ResourceMetrics": (("resource", 1, "Resource"), ("scope_metrics", 2, "ScopeMetrics[]")),
    "Resource": (("attributes", 1, "KeyValue[]"),),
    "ScopeMetrics": (("scope", 1, "Scope"), ("metrics", 2, "Metric[]")),
    "Scope": (("name", 1, "string"), ("version", 2, "string")),
    "Metric": (
        ("name", 1, "string"),
        ("description", 2, "string"),
        ("unit", 3, "string"),
        ("sum", 7, "Sum"),
        ("histogram", 9, "Histogram"),
    ),
    "Sum": (
        ("data_points", 1, "NumberDataPoint[]"),
        ("aggregation_temporality", 2, "int32"),
        ("is_monotonic", 3, "bool"),
    ),
    "NumberDataPoint": (
        ("attributes", 7, "KeyValue[]"),
        ("start_time_unix_nano", 2, "fixed64"),
        ("time_unix_nano", 3, "fixed64"),
        ("as_int", 6, "sfixed64"),
    ),
    "Histogram": (("data_points", 1, "HistogramDataPoint[]"), ("aggregation_temporality", 2, "int32")),
    "HistogramDataPoint": (
        ("attributes", 9, "KeyValue[]"),
        ("start_time_unix_nano", 2, "fixed64"),
        ("time_unix_nano", 3, "fixed64"),
        ("count", 4, "fixed64"),
        ("bucket_counts", 6, "fixed64[]"),
        ("explicit_bounds", 7, "double[]"),
    ),
    "ExportLogsServiceRequest": (("resource_logs", 1, "ResourceLogs[]"),),
    "ResourceLogs": (("resource", 1, "Resource"), ("scope_logs", 2, "ScopeLogs[]")),
    "ScopeLogs": (("scope", 1, "Scope"), ("log_records", 2, "LogRecord[]")),
    "LogRecord": (
        ("time_unix_nano", 1, "fixed64"),
        ("severity_number", 2, "int32"),
        ("severity_text", 3, "string"),
        ("body", 5, "AnyValue"),
        ("attributes", 6, "KeyValue[]"),
        ("event_name", 12, "string"),
    ),
    "KeyValue": (("key", 1, "string"), ("value", 2, "AnyValue")),
    "AnyValue": (("string_value", 1, "string"), ("int_value", 3, "int64")),
}
#: unions in the protocol: of those a field counts also where it is 0 or empty
_UNIONS: Final = {"AnyValue": frozenset({"string_value", "int_value"}), "NumberDataPoint": frozenset({"as_int"})}
_DELTA: Final = 1
#: SeverityNumber: INFO and WARN
_INFO, _WARN = (9, "INFO"), (13, "WARN")
#: bounds in seconds of the buckets of a latency histogram, but for the last, which has none
_BOUNDS_S: Final = tuple((1 << (bucket + 1)) / 1_000_000 for bucket in range(MAX_BUCKETS - 1))
#: RFC 9110 9, RFC 5789; every other one is `_OTHER`, as the conventions have it
_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_VERSIONS: Final = {"http/1.1": "1.1", "http/2": "2", "websocket": "1.1"}
_GRPC: Final = "grpc"

_Attributes = tuple[tuple[str, str], ...]


_CLASSES: Final = message_classes(_PACKAGE, FIELDS, unions=_UNIONS)


def metrics_message(flows: Sequence[Flow], *, service: str) -> bytes:
    """Give an ExportMetricsServiceRequest of what flows count, each of which is counted in one message only."""
    decisions: dict[tuple[int, int, _Attributes], int] = defaultdict(int)
    received: dict[tuple[int, int, _Attributes], int] = defaultdict(int)
    durations: dict[str, dict[tuple[int, int, _Attributes], LatencyHistogram]] = defaultdict(dict)
    for flow in flows:
        span = flow.time_ns, flow.time_ns + flow.interval_s * NS_PER_S
        attributes = _decision_attributes(flow)
        decisions[(*span, attributes)] += flow.count
        for direction, count in (("receive", flow.bytes_received), ("transmit", flow.bytes_sent)):
            if count:
                received[(*span, (*attributes, ("network.io.direction", direction)))] += count
        if flow.durations.counts:
            of_name = durations[_duration_name(flow)]
            place = *span, _call_attributes(flow)
            of_name[place] = of_name.get(place, NONE) + flow.durations
    request = _CLASSES["ExportMetricsServiceRequest"]()
    scope = _scope(request.resource_metrics.add(), "scope_metrics", service)
    _sum(scope, "authz.decisions", "{decision}", "Decisions about calls", decisions)
    _sum(scope, "authz.call.io", "By", "Bytes of bodies of calls", received)
    for name, of_name in sorted(durations.items()):
        metric = scope.metrics.add(name=name, unit="s", description="How long calls took")
        metric.histogram.aggregation_temporality = _DELTA
        for (start_ns, end_ns, attributes), histogram in of_name.items():
            counts = [*histogram.counts, *[0] * (MAX_BUCKETS - len(histogram.counts))]
            point = metric.histogram.data_points.add(
                start_time_unix_nano=start_ns,
                time_unix_nano=end_ns,
                count=histogram.total,
                bucket_counts=counts,
                explicit_bounds=_BOUNDS_S,
            )
            _attributes(point.attributes, attributes)
    return bytes(request.SerializeToString())


def logs_message(lines: Sequence[bytes], *, service: str) -> bytes:
    """Give an ExportLogsServiceRequest of records that are kept in full, as lines of JSON."""
    request = _CLASSES["ExportLogsServiceRequest"]()
    scope = _scope(request.resource_logs.add(), "scope_logs", service)
    for line in lines:
        record = record_from_json(json.loads(line))
        number, text = _INFO if record.reason.allows else _WARN
        written = scope.log_records.add(
            time_unix_nano=max(0, record.time_ns),
            severity_number=number,
            severity_text=text,
            event_name="authz.decision",
        )
        written.body.string_value = line.decode("ascii").rstrip("\n")
        for key, value in _record_attributes(record).items():
            entry = written.attributes.add(key=key)
            if isinstance(value, int):
                entry.value.int_value = value
            else:
                entry.value.string_value = value
    return bytes(request.SerializeToString())


def _scope(of_resource: Any, field: str, service: str) -> Any:
    _attributes(of_resource.resource.attributes, (("service.name", service), ("service.namespace", "authz")))
    scope = getattr(of_resource, field).add()
    scope.scope.name = "authz.sidecar"
    return scope


def _sum(scope: Any, name: str, unit: str, description: str, sums: Mapping[tuple[int, int, _Attributes], int]) -> None:
    metric = scope.metrics.add(name=name, unit=unit, description=description)
    metric.sum.aggregation_temporality = _DELTA
    metric.sum.is_monotonic = True
    for (start_ns, end_ns, attributes), count in sums.items():
        point = metric.sum.data_points.add(start_time_unix_nano=start_ns, time_unix_nano=end_ns, as_int=count)
        _attributes(point.attributes, attributes)


def _attributes(into: Any, attributes: _Attributes) -> None:
    for key, value in attributes:
        into.add(key=key).value.string_value = value


def _decision_attributes(flow: Flow) -> _Attributes:
    key = flow.key
    return (
        ("authz.direction", key.direction.value),
        ("authz.decision", key.reason.verdict.value),
        ("authz.reason", key.reason.value),
        ("authz.policy", key.policy or ""),
        ("authz.caller", key.caller.service or key.caller.third_party or ""),
        ("authz.destination", key.destination.service or key.destination.third_party or ""),
    )


def _duration_name(flow: Flow) -> str:
    side = "server" if flow.key.direction is Direction.INBOUND else "client"
    return f"rpc.{side}.call.duration" if flow.key.protocol == _GRPC else f"http.{side}.request.duration"


def _call_attributes(flow: Flow) -> _Attributes:
    key = flow.key
    attributes = [("authz.decision", key.reason.verdict.value)]
    if key.protocol == _GRPC:
        attributes.append(("rpc.system.name", _GRPC))
        if key.route is not None:
            attributes.append(("rpc.method", key.route.removeprefix("/")))
    else:
        attributes.append(("http.request.method", key.method if key.method in _METHODS else "_OTHER"))
        if key.route is not None:
            attributes.append(("http.route", key.route))
        if key.protocol in _VERSIONS:
            attributes.append(("network.protocol.version", _VERSIONS[key.protocol]))
    if not key.reason.allows:
        attributes.append(("error.type", key.reason.value))
    destination = key.destination.service or key.destination.third_party
    if destination is not None:
        attributes.append(("server.address", destination))
    return tuple(attributes)


def _record_attributes(record: DecisionRecord) -> dict[str, str | int]:
    said: dict[str, str | int | None] = {
        "authz.decision_id": record.decision_id,
        "authz.direction": record.direction.value,
        "authz.decision": record.reason.verdict.value,
        "authz.reason": record.reason.value,
        "authz.policy": record.policy,
        "authz.caller": record.caller.service or record.caller.third_party or record.caller.identity,
        "client.address": record.caller.address,
        "server.address": record.destination.service or record.destination.third_party or record.destination.host,
        "http.request.method": record.method,
        "http.route": record.route,
        "url.path": record.path,
        "http.response.status_code": record.status,
        "tls.protocol.version": record.tls.version,
        "tls.cipher": record.tls.cipher,
    }
    return {key: value for key, value in said.items() if value not in {None, ""}}
