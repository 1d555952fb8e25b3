"""Reads flows in the very form that sidecars write them in, without taking all of their JSON apart.

What flows of one kind have in common is most of their text, and it is the same bytes every time: those bytes are
read strictly once (`flow_from_json`, no name twice), and known again by themselves afterwards. What is left of a flow,
its time and its numbers, has to have exactly one form. Whatever differs from it in a single byte is nothing that this
module reads: the batch is then read as any JSON is (:mod:`authz.hub.arrival`).

# INVARIANT (one meaning): a text that is cut here into pieces, each of which is JSON in its place, is the JSON that
# these pieces make, since JSON can be read in one way only: a cut inside of a string leaves pieces that are none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.hub.columns import NO_DURATIONS, STATUSES, Row, duration_counts, status_counts
from authz.hub.series import Series, series_of
from authz.identity.json_document import json_object
from authz.instant import NS_PER_S
from authz.records.batch import MAX_FLOWS
from authz.records.flow import INTERVAL_S, flow_from_json
from authz.records.json_fields import MAX_TIME_CHARS, instant_ns_of
from authz.records.latency_histogram import MAX_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Texts of kinds that are known again: 200 sidecars with 500 kinds of 600 bytes each; then it begins anew.
MOST_KNOWN_BYTES: Final = 64 * 1024 * 1024
#: A kind has four names of at most 2,048 characters, which JSON may write as six bytes each; a usual one has 500 bytes.
_MOST_KIND_BYTES: Final = 8192
_MOST_TIMES: Final = 4096
_MOST_COUNTS: Final = 16_384
_MOST_COUNTS_BYTES: Final = 256
#: the year 9999: see `arrival`
_LAST_S: Final = 253_402_300_799
_NOTHING: Final = (0,) * len(STATUSES) + NO_DURATIONS

_BEFORE: Final = b'{"time":"'
_BETWEEN: Final = b"}," + _BEFORE
_AFTER: Final = b"}"
_INTERVAL: Final = b'","interval_s":%d,' % INTERVAL_S
_COUNT: Final = b',"count":'
#: 13 digits: below the largest number of a flow (`columns.MAX_NUMBER`)
_NUMBER: Final = rb"(0|[1-9][0-9]{0,12})"
_NUMBERS: Final = re.compile(
    _NUMBER
    + b"".join(b',"%s":%s' % (name, _NUMBER) for name in (b"cut", b"unreached", b"unjoined"))
    + rb',"statuses":\{([^{}]*)\},"bytes_received":'
    + _NUMBER
    + rb',"bytes_sent":'
    + _NUMBER
    + rb',"duration_us_log2":\[([0-9,]*)\],"check_us_sum":'
    + _NUMBER
)
_ONE_STATUS: Final = rb'"([1-9][0-9]{2})":' + _NUMBER
_STATUSES: Final = re.compile(rb"(?:%s(?:,%s)*)?" % (_ONE_STATUS, _ONE_STATUS))
_EACH_STATUS: Final = re.compile(_ONE_STATUS)
_DURATIONS: Final = re.compile(rb"(?:%s(?:,%s){0,%d})?" % (_NUMBER, _NUMBER, MAX_BUCKETS - 1))
_NO_NUMBERS: Final = (
    b'0,"cut":0,"unreached":0,"unjoined":0,"statuses":{},"bytes_received":0,"bytes_sent":0,"duration_us_log2":[],'
    b'"check_us_sum":0}'
)


class UnusualError(Exception):
    """The text has another form; it may be a batch, or none."""


@dataclass(slots=True, eq=False)
class _Kind:
    id: int
    counted: bool
    series: Series
    revision: str


@dataclass(frozen=True, slots=True)
class ReadFlows:
    """What was read: the rows, the series that they count, and the revisions that their calls were decided by."""

    rows: list[Row]
    series: dict[int, Series]
    revisions: set[str]


class FlowTexts:
    """Reads flows, and remembers what it has read; for one thread, and bounded."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, _Kind] = {}
        self._kinds_bytes = 0
        self._times: dict[bytes, int] = {}
        self._statuses: dict[bytes, tuple[int, ...]] = {}
        self._durations: dict[bytes, tuple[int, ...]] = {}

    def read(self, text: bytes) -> ReadFlows:
        """Read what stands between the brackets of `flows`, in ASCII; raises UnusualError."""
        rows: list[Row] = []
        if not text:
            return ReadFlows(rows, {}, set())
        if not text.startswith(_BEFORE) or not text.endswith(_AFTER):
            raise UnusualError
        pieces = text[len(_BEFORE) : -len(_AFTER)].split(_BETWEEN)
        if len(pieces) > MAX_FLOWS:
            raise UnusualError
        return self._read(pieces, rows)

    def _read(self, pieces: Sequence[bytes], rows: list[Row]) -> ReadFlows:
        kinds, times, statuses, durations = self._kinds, self._times, self._statuses, self._durations
        used: set[_Kind] = set()
        matched, add = _NUMBERS.fullmatch, rows.append
        for piece in pieces:
            time, _, rest = piece.partition(_INTERVAL)
            text, _, numbers = rest.partition(_COUNT)
            found = matched(numbers)
            if found is None:
                raise UnusualError
            start = times.get(time) or self._time(time)
            kind = kinds.get(text) or self._kind(text)
            used.add(kind)
            count, cut, unreached, unjoined, received, sent, check_us = map(int, found.group(1, 2, 3, 4, 6, 7, 9))
            of_statuses, of_durations = found.group(5, 8)
            by_status = statuses.get(of_statuses) or self._status_counts(of_statuses)
            by_duration = durations.get(of_durations) or self._duration_counts(of_durations)
            if kind.counted:
                counts = count, count, cut, unreached, unjoined, received, sent, check_us
                add((start, kind.id, *counts, *by_status, *by_duration))
            else:  # the callee's sidecar tells of the others of these calls
                add((start, kind.id, count, unreached, 0, unreached, unjoined, 0, 0, check_us, *_NOTHING))
        return ReadFlows(rows, {kind.id: kind.series for kind in used}, {kind.revision for kind in used})

    def _kind(self, text: bytes) -> _Kind:
        # INVARIANT (one meaning): the text is JSON in its place, and says each thing once.
        whole = b'{"time":"1970-01-01T00:00:00.000Z' + _INTERVAL + text + _COUNT + _NO_NUMBERS
        try:
            key = flow_from_json(json_object(whole)).key
        except AuthzError as error:
            raise UnusualError from error
        series = series_of(key)
        kind = _Kind(series.id, series.counted, series, key.revision)
        if len(text) <= _MOST_KIND_BYTES:
            self._kinds_bytes += len(text)
            if self._kinds_bytes > MOST_KNOWN_BYTES:
                self._kinds.clear()
                self._kinds_bytes = len(text)
            self._kinds[text] = kind
        return kind

    def _time(self, text: bytes) -> int:
        try:
            # What is longer is none, and a quote or a backslash is in no time.
            seconds, rest = divmod(instant_ns_of(text[: MAX_TIME_CHARS + 1].decode("ascii"), of="flow.time"), NS_PER_S)
        except AuthzError as error:
            raise UnusualError from error
        if rest or seconds % INTERVAL_S or not 0 < seconds <= _LAST_S:
            raise UnusualError
        if len(self._times) >= _MOST_TIMES:
            self._times.clear()
        self._times[text] = seconds
        return seconds

    def _status_counts(self, text: bytes) -> tuple[int, ...]:
        if _STATUSES.fullmatch(text) is None:
            raise UnusualError
        each = _EACH_STATUS.findall(text)
        by_status = {status.decode("ascii"): int(count) for status, count in each}
        if len(by_status) != len(each):
            raise UnusualError
        counts = status_counts(by_status)
        _remember(self._statuses, text, counts)
        return counts

    def _duration_counts(self, text: bytes) -> tuple[int, ...]:
        if _DURATIONS.fullmatch(text) is None:
            raise UnusualError
        buckets = [int(each) for each in text.split(b",")] if text else []
        if buckets and not buckets[-1]:
            raise UnusualError
        counts = duration_counts(buckets)
        _remember(self._durations, text, counts)
        return counts


def _remember(known: dict[bytes, tuple[int, ...]], text: bytes, counts: tuple[int, ...]) -> None:
    if len(text) <= _MOST_COUNTS_BYTES:
        if len(known) >= _MOST_COUNTS:
            known.clear()
        known[text] = counts
