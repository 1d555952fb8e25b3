"""What an entry of a running call becomes: a check that a worker reads as it read the call's own."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from hypothesis import given, strategies as st

from authz.request import Direction, TlsVersion
from authz.sidecar.check.question import Question, QuestionReader
from authz.sidecar.control.cut_message import end_of_call
from authz.sidecar.control.drained_listeners import Chain
from authz.sidecar.control.running_message import is_running, running_call, was_drained

SAID = {"decision_id": "0f" * 16, "reason": "allowed", "policy": "timed", "cut_reason": "closed", "cut_after": "60s"}
STARTED_NS = 1_795_438_372_152_186_000


def entry(
    *,
    said: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    cluster: str = "app",
    kind: str = "DownstreamPeriodic",
    details: str = "",
    flags: dict[str, bool] | None = None,
) -> accesslog_pb2.HTTPAccessLogEntry:
    """Give an entry as Envoy 1.40 wrote it of a call that came to a workload."""
    return json_format.ParseDict(
        {
            "protocol_version": "HTTP2",
            "common_properties": {
                "access_log_type": kind,
                "downstream_direct_remote_address": {"socket_address": {"address": "192.0.2.7", "port_value": 54097}},
                "tls_properties": {"tls_version": "TLSv1_3", "tls_cipher_suite": 4865},
                "start_time": "2026-11-23T12:52:52.152186Z",
                "duration": "1.0s",
                "upstream_cluster": cluster,
                "response_flags": flags or {},
                "metadata": {"filter_metadata": {"envoy.filters.http.ext_authz": SAID if said is None else said}},
                "custom_tags": {
                    "direction": "inbound",
                    "workload": "spiffe://shop.example/catalog",
                    "chain": "main",
                    "certificate": "-----BEGIN%20CERTIFICATE-----",
                }
                | (tags or {}),
            },
            "request": {"authority": "catalog", "path": "/x?q=1", "request_headers": {":method": "GET"}},
            "response": {"response_code": 200, "response_code_details": details},
        },
        accesslog_pb2.HTTPAccessLogEntry(),
    )


def question(of: accesslog_pb2.HTTPAccessLogEntry) -> Question:
    call = running_call(of, 0.0)
    assert call is not None
    return QuestionReader("catalog").question(call.message)


def test_a_worker_reads_of_a_running_call_what_it_read_of_its_check() -> None:
    read = question(entry())
    assert (read.direction, read.method, read.path, read.host) == (Direction.INBOUND, "GET", "/x?q=1", "catalog")
    assert read.certificate == b"-----BEGIN%20CERTIFICATE-----"
    assert (read.address, read.tls, read.tls_version) == ("192.0.2.7:54097", TlsVersion.TLS_1_3, "TLSv1_3")
    assert (read.started_ns, read.protocol) == (STARTED_NS, "http/2")
    assert read.context == (Direction.INBOUND, None, "spiffe://shop.example/catalog", None, False, False)


@pytest.mark.parametrize(
    ("cluster", "destination"),
    [("service_catalog", "catalog"), ("service_catalog_held", "catalog"), ("third_party_acme_x_443", "acme")],
)
def test_an_outbound_call_leads_where_it_led(cluster: str, destination: str) -> None:
    read = question(entry(tags={"direction": "outbound"}, cluster=cluster))
    assert (read.context.direction, read.context.destination) == (Direction.OUTBOUND, destination)


def test_who_came_in_without_a_spiffe_id_is_asked_about_as_such() -> None:
    assert question(entry(tags={"chain": "third-party-door"})).context.certificates
    assert not question(entry()).context.certificates


def test_a_running_call_has_its_chain_its_end_and_who_else_judges_it() -> None:
    inbound, outbound = (
        running_call(entry(), 7.0),
        running_call(entry(tags={"direction": "outbound"}, cluster="service_catalog"), 7.0),
    )
    outside = running_call(entry(tags={"direction": "outbound"}, cluster="third_party_acme_x_443"), 7.0)
    assert inbound is not None
    assert outbound is not None
    assert outside is not None
    assert (inbound.chain, outbound.chain) == (Chain(Direction.INBOUND, "main"), Chain(Direction.OUTBOUND, "main"))
    assert inbound.ends_ns == STARTED_NS + 60 * 10**9
    assert [call.is_followed_by_callee for call in (inbound, outbound, outside)] == [False, True, False]


@pytest.mark.parametrize(
    "unread", [{"said": {}}, {"said": {"decision_id": "x"}}, {"tags": {"direction": "up"}}, {"tags": {"workload": ""}}]
)
def test_an_entry_that_says_too_little_is_no_call(unread: dict[str, Any]) -> None:
    assert running_call(entry(**unread), 0.0) is None


def test_an_entry_of_a_call_that_runs_is_no_end_and_one_of_a_drained_call_is() -> None:
    assert is_running(entry())
    assert end_of_call(entry()) is None
    drained = entry(
        kind="DownstreamEnd",
        details="downstream_local_disconnect(filter_chain_is_being_removed)",
        flags={"downstream_connection_termination": True},
    )
    assert not is_running(drained)
    assert was_drained(drained)
    end = end_of_call(drained)
    assert end is not None
    assert not end.cut  # that is for who asks again to say


def test_a_long_call_that_ended_in_peace_is_never_taken_for_a_cut_one() -> None:
    assert end_of_call(entry(kind="DownstreamEnd", said=SAID | {"cut_after": "3600s"})) is None


@given(st.binary())
def test_any_entry_is_a_call_or_none(content: bytes) -> None:
    try:
        read = accesslog_pb2.HTTPAccessLogEntry.FromString(content)
    except DecodeError:
        return
    running_call(read, 0.0)
