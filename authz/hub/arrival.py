"""A batch as it arrives from a sidecar: bytes of JSON to rows that a store can add.

It reads what :mod:`authz.records.batch` writes, many times as fast: flows come by the ten thousand, and what is the
same in flows of one kind is checked once, when the kind is new, and known again: by its bytes where a batch has the
form in which sidecars write it (:mod:`authz.hub.flow_text`), else by its values. Numbers are checked in every flow.

# INVARIANT (total): any bytes give an arrival or an ArrivalError; nothing else is raised.
# INVARIANT (once): a call is counted by exactly one flow of an edge: at the callee's sidecar; at the caller's where it
# was refused there, went to a ThirdParty or to a host that is nobody's, or never arrived.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from authz.errors import AuthzError
from authz.hub.columns import NO_DURATIONS, STATUSES, Row, duration_counts, require_counts, status_counts
from authz.hub.errors import ArrivalError
from authz.hub.flow_text import FlowTexts, ReadFlows, UnusualError
from authz.hub.kept_record import KeptRecord, kept_record
from authz.hub.series import Series, series_of
from authz.instant import NS_PER_MS, NS_PER_S
from authz.records.batch import MAX_BATCH_BYTES, MAX_FLOWS, MAX_RECORDS, SidecarStatus, batch_from_json
from authz.records.flow import INTERVAL_S, flow_from_json
from authz.records.json_fields import instant_ns_of, list_of

#: kinds of flows that are known again: 200 sidecars with 500 each
MOST_KINDS: Final = 100_000
_MOST_TIMES: Final = 4096
_FLOW_FIELDS: Final = 24
#: The largest instant that is kept: the year 9999 in seconds has 12 digits, and nobody's clock is there.
_LAST_S: Final = 253_402_300_799

_FLOWS: Final = b'],"flows":['
_END: Final = b"]}"
_NOTHING: Final = (0,) * len(STATUSES) + NO_DURATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A batch: `(sidecar, boot, sequence)` is its id, `series` describes what `rows` count.

    `revisions` are those by which its flows and records were decided.
    """

    sidecar: str
    boot: str
    sequence: int
    service: str
    sent_ms: int
    series: dict[int, Series]
    rows: list[Row]
    records: list[KeptRecord]
    revisions: frozenset[str]
    status: SidecarStatus


class ArrivalReader:
    """Reads batches; for one thread, and bounded."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[Any, ...], Series] = OrderedDict()
        self._times: dict[str, int] = {}
        self._texts = FlowTexts()

    def read(self, content: bytes) -> Arrival:
        """Read a batch of JSON; raises ArrivalError."""
        if len(content) > MAX_BATCH_BYTES:
            raise ArrivalError(f"a batch has at most {MAX_BATCH_BYTES} bytes")
        try:
            usual = self._of_usual_form(content)
            if usual is not None:
                return usual
            batch = json.loads(content, parse_constant=_no_number)
            return self._arrival(batch)
        except ArrivalError:
            raise
        except (ValueError, RecursionError) as error:
            raise ArrivalError("it is no JSON") from error
        except (TypeError, KeyError, AttributeError) as error:
            raise ArrivalError("a flow lacks a field, or has one of another kind") from error
        except AuthzError as error:
            raise ArrivalError(str(error)) from error

    def _of_usual_form(self, content: bytes) -> Arrival | None:
        """Read a batch whose flows are the last that it has, as `written_batch` writes it; None for any other."""
        before, found, flows = content.partition(_FLOWS)
        if not found or not flows.endswith(_END) or not content.isascii():
            return None
        try:
            batch = json.loads(before + _END, parse_constant=_no_number)
            if type(batch) is not dict or "flows" in batch:
                return None
            read = self._texts.read(flows[: -len(_END)])
        except (ValueError, RecursionError, UnusualError):
            return None
        return _arrival(batch, read)

    def _arrival(self, batch: Any) -> Arrival:
        if not isinstance(batch, dict):
            raise ArrivalError("a batch is an object")
        flows = list_of(batch.get("flows"), MAX_FLOWS, of="batch.flows")
        series: dict[int, Series] = {}
        revisions: set[str] = set()
        rows = [self._row(flow, series, revisions) for flow in flows]
        return _arrival(batch, ReadFlows(rows, series, revisions))

    def _row(self, flow: dict[str, Any], series: dict[int, Series], revisions: set[str]) -> Row:
        caller, destination, shadow, tls = flow["caller"], flow["destination"], flow["shadow"], flow["tls"]
        kind = (
            flow["sidecar"],
            flow["direction"],
            caller["identity"],
            caller["service"],
            caller["third_party"],
            caller["presented_by"],
            caller["address"],
            destination["service"],
            destination["third_party"],
            destination["host"],
            flow["method"],
            flow["route"],
            flow["protocol"],
            flow["decision"],
            flow["reason"],
            flow["policy"],
            None if shadow is None else (shadow["decision"], shadow["reason"], shadow["policy"]),
            flow["revision"],
            tls["version"],
            tls["cipher"],
            tls["peer_serial"],
        )
        known = self._kinds.get(kind)
        if known is None:
            known = self._new_kind(kind, flow)
        if len(flow) != _FLOW_FIELDS:
            raise ArrivalError("a flow has a field that is not known")
        series[known.id] = known
        revisions.add(flow["revision"])
        numbers = count, cut, unreached, unjoined, received, sent, check_us = (
            flow["count"],
            flow["cut"],
            flow["unreached"],
            flow["unjoined"],
            flow["bytes_received"],
            flow["bytes_sent"],
            flow["check_us_sum"],
        )
        require_counts(numbers)
        start = self._times.get(flow["time"]) or self._time(flow["time"])
        statuses, durations = status_counts(flow["statuses"]), duration_counts(flow["duration_us_log2"])
        if not known.counted:
            # The callee's sidecar tells of the others of these calls.
            return (start, known.id, count, unreached, 0, unreached, unjoined, 0, 0, check_us, *_NOTHING)
        return (
            start,
            known.id,
            count,
            count,
            cut,
            unreached,
            unjoined,
            received,
            sent,
            check_us,
            *statuses,
            *durations,
        )

    def _new_kind(self, kind: tuple[Any, ...], flow: dict[str, Any]) -> Series:
        found = series_of(flow_from_json(flow).key)
        self._kinds[kind] = found
        if len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
        return found

    def _time(self, text: Any) -> int:
        seconds = instant_ns_of(text, of="flow.time") // NS_PER_S
        seconds -= seconds % INTERVAL_S
        if not 0 < seconds <= _LAST_S:
            raise ArrivalError("a flow's `time` is before 1970")
        if len(self._times) >= _MOST_TIMES:
            self._times.clear()
        self._times[text] = seconds
        return seconds


def _arrival(batch: dict[str, Any], flows: ReadFlows) -> Arrival:
    records = list_of(batch.get("records"), MAX_RECORDS, of="batch.records")
    head = batch_from_json(json.dumps({**batch, "flows": [], "records": []}).encode())
    if not head.sidecar or not head.service:
        raise ArrivalError("`sidecar` and `service` are not empty")
    if any(each.sidecar != head.sidecar for each in flows.series.values()):
        raise ArrivalError("a batch has flows of its own sidecar only")
    kept = [kept_record(record, head.sidecar) for record in records]
    return Arrival(
        sidecar=head.sidecar,
        boot=head.boot,
        sequence=head.sequence,
        service=head.service,
        sent_ms=head.sent_ns // NS_PER_MS,
        series=flows.series,
        rows=flows.rows,
        records=kept,
        revisions=frozenset(flows.revisions | {each.revision for each in kept}),
        status=head.status,
    )


def _no_number(_: str) -> None:
    raise ArrivalError("NaN and Infinity are no JSON")
