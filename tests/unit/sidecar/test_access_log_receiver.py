"""What Envoy's access log says of connections, read: which of them are failed handshakes, and what is believed."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from hypothesis import given, strategies as st

from authz.decision import Reason
from authz.sidecar.control import access_log_receiver
from authz.sidecar.control.access_log_message import failed_handshake
from authz.sidecar.control.access_log_receiver import AccessLogReceiver, Heard
from authz.sidecar.control.cut_message import end_of_call

REFUSED = (
    "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: "
    "X509_verify_cert: certificate verification error at depth 0: unable to get local issuer certificate:TLS_error_end"
)


def entry(
    *, uris: tuple[str, ...] = ("spiffe://shop.example/orders",), **common: Any
) -> accesslog_pb2.TCPAccessLogEntry:
    """Give an entry as Envoy 1.40 wrote it of a certificate of another authority."""
    return json_format.ParseDict(
        {
            "common_properties": {
                "downstream_direct_remote_address": {"socket_address": {"address": "192.0.2.7", "port_value": 54097}},
                "tls_properties": {
                    "tls_version": "TLSv1_3",
                    "tls_cipher_suite": 4866,
                    "peer_certificate_properties": {
                        "subject_alt_name": [{"uri": uri} for uri in uris],
                        "issuer": "CN=picoseg authority 9301f6616c07497b",
                    },
                },
                "start_time": "2026-11-23T12:52:52.152186Z",
                "duration": "0.001193841s",
                "downstream_transport_failure_reason": REFUSED,
                **common,
            },
            "connection_properties": {},
        },
        accesslog_pb2.TCPAccessLogEntry(),
    )


def message(*entries: accesslog_pb2.TCPAccessLogEntry) -> als_pb2.StreamAccessLogsMessage:
    return als_pb2.StreamAccessLogsMessage(
        tcp_logs=als_pb2.StreamAccessLogsMessage.TCPAccessLogEntries(log_entry=entries)
    )


def test_a_failed_handshake_is_read_whole() -> None:
    read = failed_handshake(entry())
    assert read is not None
    assert (read.address, read.time_ns) == ("192.0.2.7:54097", 1_795_438_372_152_186_000)
    assert (read.reason, str(read.claimed)) == (Reason.UNTRUSTED, "spiffe://shop.example/orders")
    assert (read.tls_version, read.tls_cipher) == ("TLSv1_3", "TLS_AES_256_GCM_SHA384")


def test_a_connection_that_broke_after_its_handshake_is_none() -> None:
    assert failed_handshake(entry(custom_tags={"handshake_ms": "3"})) is None
    after_a_request = entry()
    after_a_request.connection_properties.received_bytes = 16
    assert failed_handshake(after_a_request) is None


def test_a_connection_that_ended_in_peace_is_none() -> None:
    assert failed_handshake(entry(downstream_transport_failure_reason="")) is None


def test_without_an_agreed_cipher_there_is_no_version() -> None:
    # What Envoy says then is the default of a field of its library's, whatever the client spoke.
    read = failed_handshake(entry(tls_properties={"tls_version": "TLSv1_2", "tls_cipher_suite": 65535}))
    assert read is not None
    assert (read.tls_version, read.tls_cipher) == (None, None)


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("spiffe://shop.example/a", "spiffe://shop.example/b"),
        ("https://shop.example/a",),
        ('spiffe://shop.example/a"\n\x1b[31m',),
        ("spiffe://shop.example/" + "a" * 3000,),
    ],
)
def test_nothing_is_claimed_by_what_names_not_exactly_one_spiffe_id(uris: tuple[str, ...]) -> None:
    read = failed_handshake(entry(uris=uris))
    assert read is not None
    assert read.claimed is None


def test_an_ipv6_address_stands_in_brackets() -> None:
    read = failed_handshake(
        entry(downstream_direct_remote_address={"socket_address": {"address": "2001:db8::1", "port_value": 4}})
    )
    assert read is not None
    assert (read.address, read.host) == ("[2001:db8::1]:4", "[2001:db8::1]")


def test_what_finds_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log_receiver, "MOST_WAITING", 3)
    heard = Heard(failed_handshake)
    receiver = AccessLogReceiver("", connections=heard.add, calls=Heard(end_of_call).add)
    receiver.take(message(*(entry() for _ in range(5))))
    taken, unread = heard.take()
    assert (len(taken), unread) == (3, 2)
    assert heard.take() == ([], 0)
    receiver.take(message(entry()))
    assert len(heard.take()[0]) == 1


def test_connections_and_calls_go_to_whom_they_are_for() -> None:
    connections: list[object] = []
    calls: list[object] = []
    receiver = AccessLogReceiver("", connections=connections.extend, calls=calls.extend)
    call = accesslog_pb2.HTTPAccessLogEntry(common_properties=entry().common_properties)
    receiver.take(
        als_pb2.StreamAccessLogsMessage(
            http_logs=als_pb2.StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=[call])
        )
    )
    receiver.take(message(entry()))
    receiver.take(als_pb2.StreamAccessLogsMessage())
    assert (connections, calls) == ([entry()], [call])


class TestAnyBytes:
    @given(data=st.binary(max_size=300))
    def test_are_no_message_or_one_that_can_be_read(self, data: bytes) -> None:
        heard = Heard(failed_handshake)
        try:
            parsed = als_pb2.StreamAccessLogsMessage.FromString(data)
        except DecodeError:
            return
        AccessLogReceiver("", connections=heard.add, calls=Heard(end_of_call).add).take(parsed)

    @given(data=st.data())
    def test_in_the_place_of_any_part_of_an_entry_change_no_more_than_what_is_read(self, data: st.DataObject) -> None:
        whole = message(entry(), entry()).SerializeToString()
        at = data.draw(st.integers(0, len(whole) - 1))
        changed = whole[:at] + data.draw(st.binary(min_size=1, max_size=4)) + whole[at + 1 :]
        heard = Heard(failed_handshake)
        try:
            parsed = als_pb2.StreamAccessLogsMessage.FromString(changed)
        except DecodeError:
            return
        AccessLogReceiver("", connections=heard.add, calls=Heard(end_of_call).add).take(parsed)
        for read in heard.take()[0]:
            assert read.reason in {Reason.UNIDENTIFIED, Reason.UNTRUSTED}
