"""What Envoy's access log says of every call: which decision it had, how it ended, and what is no such thing."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf import duration_pb2, json_format, struct_pb2, wrappers_pb2
from hypothesis import given, strategies as st

from authz.records.call_end import CallEnd, RunningBytes
from authz.sidecar.control import ended_calls
from authz.sidecar.control.ended_calls import FIELDS, UNREACHED_FLAGS, EndedCalls, HeardCalls

DECISION_ID = "0f" * 16
STARTED_NS = 1_795_438_372_152_186_000


def message(
    *,
    said: dict[str, Any] | None = None,
    flags: dict[str, Any] | None = None,
    kind: str = "DownstreamEnd",
    cluster: str = "service_catalog",
    received_us: Any = None,
    tls: str | None = None,
    many: int = 1,
    **response: Any,
) -> bytes:
    """Give a message with an entry, or as many of it, as Envoy 1.40 wrote it."""
    entry = {
        "protocol_version": "HTTP2",
        "common_properties": {
            "downstream_direct_remote_address": {"socket_address": {"address": "192.0.2.7", "port_value": 54097}},
            "start_time": "2026-11-23T12:52:52.152186Z",
            "duration": "0.005193999s",
            "access_log_type": kind,
            "time_to_first_upstream_tx_byte": "0.001s",
            "time_to_first_upstream_rx_byte": "0.005s",
            "upstream_cluster": cluster,
            "custom_tags": {} if tls is None else {"upstream_tls": tls},
            "response_flags": flags or {},
            "metadata": {
                "filter_metadata": {
                    "envoy.other": {"decision_id": "no"},
                    "envoy.filters.http.ext_authz": {"reason": "allowed", "decision_id": DECISION_ID}
                    if said is None
                    else said,
                    **({} if received_us is None else {"authz.peer_clock": {"received_us": received_us}}),
                }
            },
        },
        "request": {"authority": "catalog", "path": "/x?q=1", "request_body_bytes": 11},
        "response": {
            "response_code": 200,
            "response_body_bytes": 770,
            "response_code_details": "via_upstream",
            **response,
        },
    }
    logs = als_pb2.StreamAccessLogsMessage.HTTPAccessLogEntries(
        log_entry=[json_format.ParseDict(entry, accesslog_pb2.HTTPAccessLogEntry())] * many
    )
    return als_pb2.StreamAccessLogsMessage(http_logs=logs).SerializeToString()


def read(content: bytes) -> list[tuple[bytes, CallEnd | RunningBytes]]:
    return list(EndedCalls().read(content))


def test_the_end_of_a_call_is_read_whole() -> None:
    assert read(message()) == [
        (DECISION_ID.encode(), CallEnd(STARTED_NS + 5_193_000, 5193, 200, 11, 770, unreached=False, is_odd=False))
    ]


def test_of_a_call_that_runs_the_bytes_so_far_are() -> None:
    assert read(message(kind="DownstreamPeriodic")) == [
        (DECISION_ID.encode(), RunningBytes(STARTED_NS + 5_193_000, 11, 770))
    ]


def test_a_call_without_an_answer_has_no_status() -> None:
    ((_, end),) = read(message(response_code=0, response_code_details="downstream_remote_disconnect"))
    assert isinstance(end, CallEnd)
    assert (end.status, end.is_odd) == (None, True)


def test_a_call_that_found_nobody_is_unreached() -> None:
    for flags in ({"no_healthy_upstream": True}, {"upstream_connection_failure": True}, {"no_route_found": True}):
        ((_, end),) = read(message(flags=flags))
        assert isinstance(end, CallEnd)
        assert (end.unreached, end.is_odd) == (True, True)
    for flags in ({"upstream_request_timeout": True}, {"unauthorized_details": {"reason": "EXTERNAL_SERVICE"}}):
        ((_, end),) = read(message(flags=flags))
        assert isinstance(end, CallEnd)
        assert (end.unreached, end.is_odd) == (False, True)


def test_an_entry_without_a_decision_is_counted_and_nothing_else() -> None:
    calls = EndedCalls()
    for said in ({}, {"decision_id": ""}, {"decision_id": "0F" * 16}, {"decision_id": 5}):
        assert list(calls.read(message(said=said))) == []
    assert list(calls.read(b"\x0a\xff")) == []
    assert calls.unread == 5
    assert list(calls.read(message(kind="DownstreamStart"))) == []
    assert calls.unread == 5


RECEIVED_US = str(STARTED_NS // 1000 + 3_000)
#: the callee's reading may be a microsecond later than it says
_NEARLY_ZERO, _TWO_MS = pytest.approx(0, abs=0.000002), pytest.approx(0.002, abs=0.000002)


def test_the_end_of_a_call_and_one_that_runs_show_the_other_sidecars_clock() -> None:
    for kind in ("DownstreamEnd", "DownstreamPeriodic"):
        calls = EndedCalls()
        assert len(list(calls.read(message(kind=kind, received_us=RECEIVED_US)))) == 1
        (shown,) = calls.clocks.to_json()
        assert (shown["service"], shown["skew_s"], shown["within_s"]) == ("catalog", _NEARLY_ZERO, _TWO_MS)


def test_an_app_and_a_third_party_show_no_clock() -> None:
    for cluster in ("app", "third_party_acme_api.acme.example_443", ""):
        calls = EndedCalls()
        list(calls.read(message(cluster=cluster, received_us=RECEIVED_US)))
        assert (calls.clocks.to_json(), calls.clocks.malformed) == ([], 0)


def test_one_call_of_a_service_is_looked_at_in_a_message() -> None:
    calls = EndedCalls()
    assert len(list(calls.read(message(received_us="no time", many=7)))) == 7
    assert calls.clocks.malformed == 7
    with pytest.MonkeyPatch.context() as patch:
        looked: list[str] = []
        patch.setattr(calls.clocks, "heard", lambda service, *_, **__: looked.append(service) or True)
        list(calls.read(message(received_us=RECEIVED_US, many=7)))
    assert looked == ["catalog"]


@given(
    received_us=st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.integers(0, 2**63).map(str)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)
def test_whatever_a_peer_says_of_its_clock_the_end_of_its_call_is_the_same(received_us: Any) -> None:
    assert read(message(received_us=received_us)) == read(message())


@given(st.binary(max_size=300))
def test_any_bytes_are_entries_or_counted(content: bytes) -> None:
    calls = EndedCalls()
    assert all(len(decision_id) == 32 for decision_id, _ in calls.read(content))


@given(cut=st.integers(0, 400), to=st.binary(max_size=8))
def test_a_damaged_message_is_entries_or_counted(cut: int, to: bytes) -> None:
    content = message()
    calls = EndedCalls()
    assert all(len(each) == 32 for each, _ in calls.read(content[:cut] + to + content[cut + len(to) :]))


def test_beyond_so_many_entries_that_wait_messages_are_dropped_and_counted(
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(ended_calls, "MOST_HEARD", 3)
    heard = HeardCalls()
    for _ in range(10):
        heard.add(message())
    assert heard.dropped == 6
    assert len(list(heard.take())) == 4
    heard.add(message())
    assert len(list(heard.take())) == 1


@pytest.mark.parametrize(
    ("cluster", "said", "tls"),
    [
        ("third_party_acme_api", "TLSv1.3 TLS_AES_256_GCM_SHA384", ("TLSv1_3", "TLS_AES_256_GCM_SHA384")),
        ("third_party_acme_api", "TLSv1.2 ECDHE-RSA-AES128-GCM-SHA256", ("TLSv1_2", "ECDHE-RSA-AES128-GCM-SHA256")),
        ("third_party_acme_api", "- -", None),
        ("third_party_acme_api", None, None),
        ("third_party_acme_api", "TLSv9 X", None),
        ("third_party_acme_api", "TLSv1.3 " + "A" * 65, None),
        # The callee's own sidecar tells of it.
        ("service_catalog", "TLSv1.3 TLS_AES_256_GCM_SHA384", None),
    ],
)
def test_an_end_has_the_tls_by_which_its_call_went_on_to_a_third_party(
    cluster: str, said: str | None, tls: tuple[str, str] | None
) -> None:
    calls = EndedCalls()
    for _ in range(2):
        ((_, end),) = calls.read(message(cluster=cluster, tls=said))
        assert isinstance(end, CallEnd)
        assert end.tls == tls


def test_the_messages_are_envoys_own() -> None:
    envoys = {
        "StreamAccessLogsMessage": als_pb2.StreamAccessLogsMessage,
        "HTTPAccessLogEntries": als_pb2.StreamAccessLogsMessage.HTTPAccessLogEntries,
        "HTTPAccessLogEntry": accesslog_pb2.HTTPAccessLogEntry,
        "AccessLogCommon": accesslog_pb2.AccessLogCommon,
        "CustomTagsEntry": accesslog_pb2.AccessLogCommon.CustomTagsEntry,
        "Timestamp": duration_pb2.Duration,
        "Metadata": base_pb2.Metadata,
        "FilterMetadataEntry": base_pb2.Metadata.FilterMetadataEntry,
        "Struct": struct_pb2.Struct,
        "FieldsEntry": struct_pb2.Struct.FieldsEntry,
        "Value": struct_pb2.Value,
        "HTTPRequestProperties": accesslog_pb2.HTTPRequestProperties,
        "HTTPResponseProperties": accesslog_pb2.HTTPResponseProperties,
        "UInt32Value": wrappers_pb2.UInt32Value,
    }
    assert envoys.keys() == FIELDS.keys()
    for message_name, fields in FIELDS.items():
        numbers = {field.name: field.number for field in envoys[message_name].DESCRIPTOR.fields}
        assert {name: number for name, number, _ in fields}.items() <= numbers.items()
    names = {
        "no_healthy_upstream", "upstream_connection_failure", "upstream_overflow", "no_route_found",
        "no_cluster_found", "dns_resolution_failure",
    }  # fmt: skip
    flags = {field.name: field.number for field in accesslog_pb2.ResponseFlags.DESCRIPTOR.fields}
    assert {flags[name] for name in names} == UNREACHED_FLAGS
    kinds = accesslog_pb2.AccessLogType
    assert (kinds.Value("NotSet"), kinds.Value("DownstreamPeriodic"), kinds.Value("DownstreamEnd")) == (0, 5, 6)
