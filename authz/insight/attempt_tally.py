"""How often windows were tried that were not open, by whom, first and last: in bounded memory, whoever tries.

An attempt is one request. The second sidecar of a call, and whoever asks again for it, records the same request id:
what comes with the id of an earlier record within `SAME_REQUEST_NS` is the same attempt, and belongs to the side that
refused it first. Behind that span it is another one: a caller can choose its request ids, and one that uses a single id
for all of its calls does not hide them. `records` counts every refusal, whatever its id.

# INVARIANT (bounded): at most `MAX_SOURCES` sources a window are told apart; the others are counted together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.insight.attempt import Source, WindowKind
from authz.instant import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.insight.attempt import Attempt
    from authz.insight.window_dates import WindowDates

#: A check is asked again for 350 ms at most, a call for some seconds.
SAME_REQUEST_NS: Final = 10 * NS_PER_S
#: A caller that changes its identity or address with each call is one report, not a gigabyte.
MAX_SOURCES: Final = 10_000
#: request ids that are remembered, the oldest go first; of 10 s of refusals at 10,000 a second
MAX_REQUESTS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCount:
    """A source and its attempts; one without identity and address, at the end, is all others together."""

    source: Source
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Attempts on one side of a window: `first_ns` and `last_ns` are None where there are none.

    `sources` are sorted, those with most attempts first; `records` are the refusals, repeated ones counted.
    """

    count: int = 0
    records: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    sources: tuple[SourceCount, ...] = ()


NO_ATTEMPTS: Final = Attempts()


class _Side:
    """What is counted of one side of one window."""

    __slots__ = ("first_ns", "last_ns", "records", "sources")

    def __init__(self, time_ns: int) -> None:
        self.records = 0
        self.first_ns = self.last_ns = time_ns
        self.sources: dict[Source, int] = {}

    def attempts(self) -> Attempts:
        return attempts_of(self.sources, self.records, self.first_ns, self.last_ns)


def attempts_of(sources: Mapping[Source, int], records: int, first_ns: int, last_ns: int) -> Attempts:
    """Put together what was counted by source."""
    ordered = sorted(sources.items(), key=lambda each: (-each[1], _sort_key(each[0])))
    return Attempts(
        count=sum(sources.values()),
        records=records,
        first_ns=first_ns,
        last_ns=last_ns,
        sources=tuple(SourceCount(source=source, count=count) for source, count in ordered),
    )


def _sort_key(source: Source) -> tuple[str, str, str, str, str]:
    return source.identity or "", source.service or "", source.address, source.direction, source.sidecar


class RequestMemory:
    """Remembers the request ids of attempts, the oldest go first."""

    def __init__(self) -> None:
        self._requests: OrderedDict[tuple[WindowKind, str, bool, str], tuple[int, Source]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def is_new(self, attempt: Attempt) -> bool:
        """Say whether an attempt is one of its own, and not told of by an earlier record of the same request."""
        if attempt.request_id is None:
            return True
        request = attempt.kind, attempt.name, attempt.after, attempt.request_id
        seen = self._requests.get(request)
        if seen is not None and abs(attempt.time_ns - seen[0]) <= SAME_REQUEST_NS and _same_caller(seen[1], attempt):
            return False
        self._requests[request] = attempt.time_ns, attempt.source
        self._requests.move_to_end(request)
        if len(self._requests) > MAX_REQUESTS:
            self._requests.popitem(last=False)
        return True


class AttemptTally:
    """Counts attempts on some windows; they come sorted by time, as far as their logs are."""

    def __init__(self, windows: Mapping[tuple[WindowKind, str], WindowDates]) -> None:
        self._windows = windows
        self._sides: dict[tuple[WindowKind, str, bool], _Side] = {}
        self._requests = RequestMemory()

    def add(self, attempt: Attempt) -> None:
        """Count an attempt, if it was made after this close of its window, or before this opening."""
        window = self._windows.get((attempt.kind, attempt.name))
        if window is None or not window.was_tried_at(attempt.time_ns, after=attempt.after):
            return
        key = (attempt.kind, attempt.name, attempt.after)
        side = self._sides.get(key)
        if side is None:
            side = self._sides[key] = _Side(attempt.time_ns)
        side.records += 1
        side.first_ns = min(side.first_ns, attempt.time_ns)
        side.last_ns = max(side.last_ns, attempt.time_ns)
        if self._requests.is_new(attempt):
            source = self._told_apart(side, attempt.source)
            side.sources[source] = side.sources.get(source, 0) + 1

    def _told_apart(self, side: _Side, source: Source) -> Source:
        if source in side.sources or len(side.sources) < MAX_SOURCES:
            return source
        return untold(source)

    def attempts(self, kind: WindowKind, name: str, *, after: bool) -> Attempts:
        """Give what was counted of one side of a window."""
        side = self._sides.get((kind, name, after))
        return NO_ATTEMPTS if side is None else side.attempts()


def untold(source: Source) -> Source:
    """Give the source as which those are counted together that are too many to be told apart."""
    return Source(identity=None, service=None, address="", direction=source.direction, sidecar=source.sidecar)


def _same_caller(first: Source, attempt: Attempt) -> bool:
    """Whether who is refused under an id may be who was refused under it before: nobody hides behind another's id."""
    other = attempt.source
    return first.identity == other.identity and (first.identity is not None or first.address == other.address)
