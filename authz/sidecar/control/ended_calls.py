"""What Envoy's access log says of every call: the decision that it had, and how it ended or how far it is.

One entry for each call when it ends, of either listener, and entries of those that run long. Read by messages of its
own that leave out what is not asked for (a test holds their numbers to Envoy's descriptors): there are as many entries
as decisions. Nothing here is believed further than to be counted: the decision's id is the check's own word, statuses
and bytes are those that Envoy counted.

envoy/service/accesslog/v3/als.proto, envoy/data/accesslog/v3/accesslog.proto, google/protobuf/struct.proto
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from authz.instant import NS_PER_S
from authz.proxy.access_log_names import PEER_CLOCK, SERVICE_CLUSTER_PREFIX, UPSTREAM_TLS_TAG
from authz.proxy.header_names import EXT_AUTHZ
from authz.records.call_end import CallEnd, RunningBytes, UpstreamTls
from authz.records.decision_record import MAX_DURATION_US, MAX_STATUS
from authz.records.json_fields import MAX_COUNT
from authz.sidecar.control.field_table import FieldTable, message_classes
from authz.sidecar.control.peer_clocks import PeerClocks

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE: Final = "authz.access_log"
FIELDS: Final[FieldTable] = {
    "StreamAccessLogsMessage": (("http_logs", 2, "HTTPAccessLogEntries"),),
    "HTTPAccessLogEntries": (("log_entry", 1, "HTTPAccessLogEntry[]"),),
    "HTTPAccessLogEntry": (
        ("common_properties", 1, "AccessLogCommon"),
        ("request", 3, "HTTPRequestProperties"),
        ("response", 4, "HTTPResponseProperties"),
    ),
    "AccessLogCommon": (
        ("start_time", 5, "Timestamp"),
        ("time_to_first_upstream_tx_byte", 7, "Timestamp"),
        ("time_to_first_upstream_rx_byte", 9, "Timestamp"),
        ("upstream_cluster", 15, "bytes"),
        ("response_flags", 16, "bytes"),
        ("metadata", 17, "Metadata"),
        ("duration", 23, "Timestamp"),
        ("custom_tags", 22, "CustomTagsEntry[]"),
        ("access_log_type", 33, "int32"),
    ),
    "CustomTagsEntry": (("key", 1, "bytes"), ("value", 2, "bytes")),
    "Timestamp": (("seconds", 1, "int64"), ("nanos", 2, "int32")),
    "Metadata": (("filter_metadata", 1, "FilterMetadataEntry[]"),),
    "FilterMetadataEntry": (("key", 1, "bytes"), ("value", 2, "Struct")),
    "Struct": (("fields", 1, "FieldsEntry[]"),),
    "FieldsEntry": (("key", 1, "bytes"), ("value", 2, "Value")),
    "Value": (("string_value", 3, "bytes"),),
    "HTTPRequestProperties": (("request_body_bytes", 12, "uint64"),),
    "HTTPResponseProperties": (
        ("response_code", 1, "UInt32Value"),
        ("response_body_bytes", 3, "uint64"),
        ("response_code_details", 6, "bytes"),
    ),
    "UInt32Value": (("value", 1, "uint32"),),
}
_DECISION_ID: Final = re.compile(rb"[0-9a-f]{32}")
_DECISION_ID_FIELD: Final = b"decision_id"
_EXT_AUTHZ: Final = EXT_AUTHZ.encode()
_PEER_CLOCK: Final = PEER_CLOCK.encode()
_UPSTREAM_TLS: Final = UPSTREAM_TLS_TAG.encode()
_SERVICE: Final = SERVICE_CLUSTER_PREFIX.encode()
#: how Envoy writes what is known of the connection: `TLSv1.3 TLS_AES_256_GCM_SHA384`, `- -` where there was none
_TLS: Final = re.compile(rb"(TLSv1(?:\.[1-3])?) ([A-Za-z0-9_-]{1,64})")
_VERSIONS: Final = {b"TLSv1": "TLSv1_0", b"TLSv1.1": "TLSv1_1", b"TLSv1.2": "TLSv1_2", b"TLSv1.3": "TLSv1_3"}
#: envoy.data.accesslog.v3.AccessLogType; 0 is said by versions that know no others
_NOT_SET, _PERIODIC, _END = 0, 5, 6
#: what ends a call whose destination has answered it
_VIA_UPSTREAM: Final = b"via_upstream"
#: envoy.data.accesslog.v3.ResponseFlags that say that nobody was reached: no_healthy_upstream, upstream_connection_
#: failure, upstream_overflow, no_route_found, no_cluster_found, dns_resolution_failure
UNREACHED_FLAGS: Final = frozenset({2, 6, 8, 9, 25, 27})
#: flags are a message of a few varints: the same few bytes each time
_MOST_FLAGS: Final = 256
#: versions and ciphers that a connection may have
_MOST_TLS: Final = 256

#: entries that wait to be joined: two seconds of the most that a workload's sidecar decides
MOST_HEARD: Final = 50_000


_StreamAccessLogsMessage: Final = message_classes(_PACKAGE, FIELDS)["StreamAccessLogsMessage"]


class EndedCalls:
    """Reads messages of the log of all calls; for one thread."""

    def __init__(self) -> None:
        self._flags: dict[bytes, bool] = {b"": False}
        self._known_tls: dict[bytes, UpstreamTls | None] = {b"": None}
        #: what calls to other Services show of their clocks
        self.clocks = PeerClocks()
        #: messages that were none, and entries without a decision's id
        self.unread = 0

    def read(self, message: bytes) -> Iterator[tuple[bytes, CallEnd | RunningBytes]]:
        """Give the decision's id and the end, or the bytes so far, of each entry; what is none is counted."""
        try:
            entries = _StreamAccessLogsMessage.FromString(message).http_logs.log_entry
        except DecodeError:
            self.unread += 1
            return
        # One call of each Service is enough: messages come five times a second, or more often.
        looked_at: set[bytes] = set()
        for entry in entries:
            common = entry.common_properties
            kind = common.access_log_type
            said = common.metadata.filter_metadata
            decision_id = self._decision_id(said)
            if decision_id is None or kind not in {_NOT_SET, _PERIODIC, _END}:
                # A call that Envoy itself refused before the check has no decision.
                self.unread += decision_id is None and kind != _PERIODIC
                continue
            began, lasted = common.start_time, common.duration
            duration_us = lasted.seconds * 1_000_000 + lasted.nanos // 1000
            at_ns = began.seconds * NS_PER_S + began.nanos + duration_us * 1000
            if at_ns < 0 or not 0 <= duration_us <= MAX_DURATION_US:
                self.unread += 1
                continue
            if (cluster := common.upstream_cluster) not in looked_at and self._saw_clock(cluster, common, said, at_ns):
                looked_at.add(cluster)
            response = entry.response
            received_bytes = min(entry.request.request_body_bytes, MAX_COUNT)
            sent_bytes = min(response.response_body_bytes, MAX_COUNT)
            if kind == _PERIODIC:
                yield decision_id, RunningBytes(at_ns, received_bytes, sent_bytes)
                continue
            flags = common.response_flags
            unreached = self._flags.get(flags)
            if unreached is None:
                unreached = self._read_flags(flags)
            status = response.response_code.value
            yield (
                decision_id,
                CallEnd(
                    at_ns,
                    duration_us,
                    status if 100 <= status <= MAX_STATUS else None,  # noqa: PLR2004 RFC 9110 15
                    received_bytes,
                    sent_bytes,
                    unreached,
                    bool(flags) or response.response_code_details != _VIA_UPSTREAM,
                    self._tls(common),
                ),
            )

    def _decision_id(self, said: Any) -> bytes | None:
        for each in said:
            if each.key == _EXT_AUTHZ:
                for field in each.value.fields:
                    if field.key == _DECISION_ID_FIELD:
                        decision_id: bytes = field.value.string_value
                        return decision_id if _DECISION_ID.fullmatch(decision_id) is not None else None
        return None

    def _tls(self, common: Any) -> UpstreamTls | None:
        """Give the TLS of the connection to a third party; a Service's own sidecar tells of that to a Service."""
        if common.upstream_cluster.startswith(_SERVICE):
            return None
        said = next((each.value for each in common.custom_tags if each.key == _UPSTREAM_TLS), b"")
        if said not in self._known_tls:
            if len(self._known_tls) >= _MOST_TLS:
                self._known_tls.clear()
            found = _TLS.fullmatch(said)
            version = None if found is None else _VERSIONS.get(found[1])
            self._known_tls[said] = None if found is None or version is None else (version, found[2].decode("ascii"))
        return self._known_tls[said]

    def _saw_clock(self, cluster: bytes, common: Any, said: Any, at_ns: int) -> bool:
        """Take what a call shows of the other sidecar's clock; gives whether there is no need to look at more."""
        if (service := self.clocks.service_of(cluster)) is None:
            return True
        received_us = next(
            (field.value.string_value for each in said if each.key == _PEER_CLOCK for field in each.value.fields), None
        )
        if received_us is None:
            return False
        began, left, answered = (
            common.start_time,
            common.time_to_first_upstream_tx_byte,
            common.time_to_first_upstream_rx_byte,
        )
        began_ns = began.seconds * NS_PER_S + began.nanos
        return self.clocks.heard(
            service,
            received_us,
            left_ns=began_ns + left.seconds * NS_PER_S + left.nanos,
            answered_ns=began_ns + answered.seconds * NS_PER_S + answered.nanos,
            at_ns=at_ns,
        )

    def _read_flags(self, encoded: bytes) -> bool:
        """Say whether flags mean that nobody was reached: numbers of fields, each a bool but for one message."""
        unreached = not UNREACHED_FLAGS.isdisjoint(_true_fields(encoded))
        if len(self._flags) >= _MOST_FLAGS:
            self._flags.clear()
        self._flags[encoded] = unreached
        return unreached


def _true_fields(encoded: bytes) -> set[int]:
    """Give the numbers of the fields of one message that are true; what cannot be read says nothing."""
    from envoy.data.accesslog.v3 import accesslog_pb2  # noqa: PLC0415 large, and only read for calls that failed

    try:
        flags = accesslog_pb2.ResponseFlags.FromString(encoded)
    except DecodeError:
        return set()
    return {field.number for field, value in flags.ListFields() if value is True}


class HeardCalls:
    """What was heard of calls and not joined yet: the services' loop adds messages, control's main loop takes entries.

    # INVARIANT (bounded): beyond MOST_HEARD entries that wait, messages are dropped and counted; their decisions are
    # counted as unjoined in their time.
    """

    def __init__(self) -> None:
        self._calls = EndedCalls()
        # A deque's append and popleft are atomic.
        self._heard: deque[list[tuple[bytes, CallEnd | RunningBytes]]] = deque()
        self._waiting = 0
        self._taken = 0
        #: messages that came while too many entries waited
        self.dropped = 0

    @property
    def unread(self) -> int:
        """How many messages and entries said nothing."""
        return self._calls.unread

    @property
    def clocks(self) -> PeerClocks:
        """What they show of other Services' clocks."""
        return self._calls.clocks

    def add(self, message: bytes) -> None:
        """Take a message: called in the services' loop."""
        if self._waiting - self._taken > MOST_HEARD:
            self.dropped += 1
            return
        entries = list(self._calls.read(message))
        self._waiting += len(entries)
        self._heard.append(entries)

    def take(self) -> Iterator[tuple[bytes, CallEnd | RunningBytes]]:
        """Give what was heard: called in control's main loop."""
        for _ in range(len(self._heard)):
            entries = self._heard.popleft()
            self._taken += len(entries)
            yield from entries
