"""What Envoy's access log says of a call that was cut, and what becomes of it in the decision log."""

from __future__ import annotations

import json
from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from hypothesis import given, strategies as st

from authz.decision import Reason
from authz.records.call_ends import Caller, Destination, Tls
from authz.records.cut_call import CutCall, cut_line
from authz.records.decision_record import record_from_json
from authz.records.flow import FlowKey
from authz.request import Direction
from authz.sidecar.control import access_log_receiver, cut_records
from authz.sidecar.control.access_log_receiver import Heard
from authz.sidecar.control.cut_message import end_of_call
from authz.sidecar.control.cut_records import CutRecords

ORDERS, GATEWAY = "spiffe://shop.example/orders", "spiffe://shop.example/gateway"
SAID = {"decision_id": "0f" * 16, "reason": "allowed", "policy": "timed", "cut_reason": "closed"}


def entry(
    *,
    said: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    peer: tuple[str, ...] = (ORDERS,),
    cluster: str = "app",
    version: str = "HTTP2",
    details: str = "max_duration_timeout",
) -> accesslog_pb2.HTTPAccessLogEntry:
    """Give an entry as Envoy 1.40 wrote it of a call that came to a workload."""
    return json_format.ParseDict(
        {
            "protocol_version": version,
            "common_properties": {
                "downstream_direct_remote_address": {"socket_address": {"address": "192.0.2.7", "port_value": 54097}},
                "tls_properties": {
                    "tls_version": "TLSv1_3",
                    "tls_cipher_suite": 4865,
                    "peer_certificate_properties": {"subject_alt_name": [{"uri": uri} for uri in peer]},
                },
                "start_time": "2026-11-23T12:52:52.152186Z",
                "duration": "5.000193s",
                "upstream_cluster": cluster,
                "metadata": {"filter_metadata": {"envoy.filters.http.ext_authz": SAID if said is None else said}},
                "custom_tags": {"direction": "inbound", "workload": "spiffe://shop.example/catalog", "serial": "0a1b"}
                | (tags or {}),
            },
            "request": {
                "authority": "catalog",
                "path": "/x?q=1",
                "request_id": "r-1",
                "request_body_bytes": 11,
                "request_headers": {":method": "GET", "x-authz-caller": ORDERS, **(headers or {})},
            },
            "response": {
                "response_code": 200,
                "response_body_bytes": 770,
                "response_code_details": details,
            },
        },
        accesslog_pb2.HTTPAccessLogEntry(),
    )


def cut_call(entry: accesslog_pb2.HTTPAccessLogEntry) -> CutCall | None:
    """Give the call of an entry that was cut."""
    end = end_of_call(entry)
    return end.call if end is not None and end.cut else None


def test_a_cut_call_has_the_decision_that_had_allowed_it_and_its_end() -> None:
    read = cut_call(entry())
    assert read is not None
    assert (read.decision_id, read.policy, read.reason) == ("0f" * 16, "timed", Reason.CLOSED)
    assert (read.ended_ns - 1_795_438_372_152_186_000, read.duration_ns) == (5_000_193_000, 5_000_193_000)
    assert (read.received_bytes, read.sent_bytes, read.status) == (11, 770, 200)
    assert (read.method, read.path, read.protocol, read.request_id) == ("GET", "/x?q=1", "http/2", "r-1")
    assert (read.tls_version, read.tls_cipher, read.serial) == ("TLSv1_3", "TLS_AES_128_GCM_SHA256", "a1b")


def test_the_caller_is_who_the_check_had_proven_and_the_peer_presented_its_token() -> None:
    read, of_token = cut_call(entry()), cut_call(entry(peer=(GATEWAY,)))
    assert read is not None
    assert of_token is not None
    assert (str(read.caller), read.presenter) == (ORDERS, None)
    assert (str(of_token.caller), str(of_token.presenter)) == (ORDERS, GATEWAY)


def test_a_peer_that_the_check_had_not_proven_is_nobody() -> None:
    read = cut_call(entry(headers={"x-authz-caller": ""}))
    assert read is not None
    assert read.caller is None


@pytest.mark.parametrize(
    ("cluster", "service", "third_party"),
    [
        ("service_payments", "payments", None),
        ("third_party_acme_any.cdn.example_443", None, "acme"),
        ("app", None, None),
    ],
)
def test_what_leaves_a_workload_is_its_own_call_to_where_it_was_routed(
    cluster: str, service: str | None, third_party: str | None
) -> None:
    read = cut_call(entry(tags={"direction": "outbound"}, peer=(), cluster=cluster))
    assert read is not None
    assert (read.direction, str(read.caller)) == (Direction.OUTBOUND, "spiffe://shop.example/catalog")
    assert (read.service, read.third_party) == (service, third_party)


@pytest.mark.parametrize(
    ("headers", "version", "protocol"),
    [
        ({}, "HTTP11", "http/1.1"),
        ({"content-type": "application/grpc+proto"}, "HTTP2", "grpc"),
        ({"upgrade": "websocket"}, "HTTP11", "websocket"),
    ],
)
def test_the_protocol_is_called_as_in_every_record(headers: dict[str, str], version: str, protocol: str) -> None:
    read = cut_call(entry(headers=headers, version=version))
    assert read is not None
    assert read.protocol == protocol


@pytest.mark.parametrize(
    "said",
    [
        {},
        SAID | {"cut_reason": ""},
        SAID | {"cut_reason": "allowed"},
        SAID | {"cut_reason": "late"},
        SAID | {"decision_id": ""},
        SAID | {"decision_id": 'x"\n'},
    ],
)
def test_what_names_no_decision_and_no_refusal_is_no_record(said: dict[str, str]) -> None:
    assert cut_call(entry(said=said)) is None


def test_what_names_no_direction_is_no_record() -> None:
    assert cut_call(entry(tags={"direction": "sideways"})) is None


def test_a_burst_is_written_in_turns_and_nothing_of_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_records, "MOST_A_LOOK", 2)
    heard, lines = Heard(end_of_call), []
    records = CutRecords(heard=heard, sidecar="catalog", put=lines.append)
    records.revision = "r2"
    heard.add(entry() for _ in range(5))
    written = []
    for _ in range(4):
        records.look()
        written.append(len(lines))
    assert written == [2, 4, 5, 5]
    assert {json.loads(line)["revision"] for line in lines} == {"r2"}


def test_what_finds_no_room_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(access_log_receiver, "MOST_WAITING", 3)
    heard, lines = Heard(end_of_call), []
    heard.add(entry() for _ in range(5))
    CutRecords(heard=heard, sidecar="catalog", put=lines.append).look()
    assert len(lines) == 3
    assert "2 so far" in caplog.text


def test_names_and_route_are_those_of_the_decision_where_it_is_still_known() -> None:
    heard, lines = Heard(end_of_call), []
    heard.add(entry() for _ in range(2))
    decided = FlowKey(
        sidecar="catalog",
        direction=Direction.INBOUND,
        caller=Caller(identity=ORDERS, third_party="acme"),
        destination=Destination(service="catalog", host="catalog"),
        method="GET",
        route="/items/{id}",
        protocol="http/2",
        reason=Reason.ALLOWED,
        policy="timed",
        shadow=None,
        revision="a" * 64,
        tls=Tls(),
    )
    keys = iter([decided, None])
    CutRecords(heard=heard, sidecar="catalog", put=lines.append, cut=lambda *_: next(keys)).look()
    known, forgotten = (json.loads(line) for line in lines)
    assert (known["caller"]["third_party"], known["route"]) == ("acme", "/items/{id}")
    assert (forgotten["caller"]["third_party"], forgotten["route"]) == (None, None)
    for written in (known, forgotten):
        record_from_json(written)


HELD = {**SAID, "held": "yes", "cut_after": "00009000ms"}


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ("authz_hold_cut:no_policy", Reason.NO_POLICY),
        ("authz_hold_cut:internal_error", Reason.INTERNAL_ERROR),
        ("authz_hold_cut:allowed", Reason.INTERNAL_ERROR),
        ("authz_hold_cut:", Reason.INTERNAL_ERROR),
        ("ext_proc_error_gRPC_error_14{connection_termination}", Reason.INTERNAL_ERROR),
        ("max_duration_timeout", Reason.CLOSED),
    ],
)
def test_a_held_call_that_is_cut_says_why(details: str, reason: Reason) -> None:
    read = cut_call(entry(said=HELD, details=details))
    assert read is not None
    assert read.reason is reason


@pytest.mark.parametrize(("after", "is_cut"), [("00005200ms", True), ("00005300ms", False), ("000000005s", True)])
def test_what_breaks_shortly_before_its_deadline_was_cut_by_the_other_sidecar(after: str, is_cut: bool) -> None:  # noqa: FBT001 a case
    end = end_of_call(entry(said={**HELD, "cut_after": after}, details="upstream_reset"))
    assert end is not None
    assert end.cut == is_cut


def test_a_call_that_is_not_held_and_breaks_is_no_record() -> None:
    said = {key: value for key, value in HELD.items() if key != "held"}
    assert end_of_call(entry(said=said, details="upstream_reset")) is None


class TestAHeldCallThatBroke:
    """It is a cut where the hold says that its grant was lost: before or after the end was heard."""

    broken = staticmethod(lambda: entry(said=HELD, details="upstream_reset"))
    word = SAID["decision_id"].encode() + b"no_policy"

    def records(self) -> CutRecords:
        self.lines: list[bytes] = []
        self.now_s = 0.0
        self.heard = Heard(end_of_call)
        return CutRecords(heard=self.heard, sidecar="catalog", put=self.lines.append, clock=lambda: self.now_s)

    def reasons(self) -> list[str]:
        return [json.loads(line)["reason"] for line in self.lines]

    @pytest.mark.parametrize("word_first", [True, False])
    def test_is_recorded_once_with_the_reason_that_the_hold_says(self, word_first: bool) -> None:  # noqa: FBT001 a case
        records = self.records()
        for is_word in (word_first, not word_first):
            if is_word:
                records.lost_grant(self.word)
            else:
                self.heard.add([self.broken()])
            records.look()
        records.lost_grant(self.word)
        records.look()
        assert self.reasons() == ["no_policy"]

    def test_is_not_recorded_where_no_word_comes(self) -> None:
        records = self.records()
        self.heard.add([self.broken()])
        records.look()
        self.now_s = cut_records.WORD_PATIENCE_S + 1
        records.look()
        records.lost_grant(self.word)
        assert self.reasons() == []

    def test_has_no_second_record_where_it_was_cut_here(self) -> None:
        records = self.records()
        self.heard.add([entry(said=HELD, details="authz_hold_cut:closed")])
        records.look()
        records.lost_grant(self.word)
        records.look()
        assert self.reasons() == ["closed"]

    def test_is_forgotten_where_too_many_break(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cut_records, "MOST_WAITING", 2)
        records = self.records()
        ids = [f"{number:032x}" for number in range(4)]
        self.heard.add(entry(said={**HELD, "decision_id": each}, details="upstream_reset") for each in ids)
        records.look()
        for each in ids:
            records.lost_grant(each.encode() + b"closed")
        assert [json.loads(line)["decision_id"] for line in self.lines] == ids[2:]

    @given(content=st.binary(max_size=80))
    def test_any_bytes_of_a_word_are_no_fault(self, content: bytes) -> None:
        records = self.records()
        self.heard.add([self.broken()])
        records.look()
        records.lost_grant(content)
        assert len(self.lines) <= 1


class TestAnyBytes:
    @given(data=st.data())
    def test_in_the_place_of_any_part_of_an_entry_are_one_line_or_nothing(self, data: st.DataObject) -> None:
        whole: bytes = entry().SerializeToString()
        at = data.draw(st.integers(0, len(whole) - 1))
        changed = whole[:at] + data.draw(st.binary(min_size=1, max_size=4)) + whole[at + 1 :]
        try:
            parsed: Any = accesslog_pb2.HTTPAccessLogEntry.FromString(changed)
        except DecodeError:
            return
        read = cut_call(parsed)
        if read is not None:
            written = cut_line(read, sidecar="catalog", revision="r")
            assert all(0x20 <= byte < 0x7F for byte in written[:-1])
            assert json.loads(written)["decision"] == "deny"
