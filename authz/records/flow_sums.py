"""Flows as they grow: every decision counted once, in bounded memory.

An interval has at most MOST_KEYS keys, however often it is taken meanwhile, and those that are open have no more
together. What comes beyond is counted under a key that says
less: first without what callers can make up (method, route, host and address), then without the caller as well. There
are few of those, whatever callers send: by direction, reason and the two names of the policies, then by direction and
reason alone.

# INVARIANT (counted once): whatever is taken, before and after each other, adds up to what was given.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from authz.decision import Reason, Shadow
from authz.instant import NS_PER_S
from authz.records.call_ends import (
    MAX_HOST_CHARS,
    MAX_IDENTITY_CHARS,
    MAX_METHOD_CHARS,
    MAX_NAME_CHARS,
    MAX_PROTOCOL_CHARS,
    MAX_REVISION_CHARS,
    MAX_ROUTE_CHARS,
    MAX_TLS_CHARS,
    Caller,
    Destination,
    Tls,
    cut_text,
)
from authz.records.failed_handshake import MAX_ADDRESS_CHARS
from authz.records.flow import INTERVAL_S, Flow, FlowKey
from authz.records.latency_histogram import MAX_BUCKETS, bucket_of, histogram_of
from authz.request import Direction

if TYPE_CHECKING:
    from authz.records.call_end import CallEnd, RunningBytes
    from authz.records.recorded_decision import DecisionKind

#: A busy workload has some hundred kinds of calls; a flow has about 900 bytes when it is written.
MOST_KEYS: Final = 2048
#: keys without what callers make up, beyond those; there are fewer than this of keys without a caller
MOST_COARSE_KEYS: Final = 512
_INTERVAL_NS: Final = INTERVAL_S * NS_PER_S
#: further ahead nothing of this clock lies: what decides and what counts read the same machine's
_AHEAD_NS: Final = 60 * NS_PER_S
#: intervals whose keys are remembered: the one that is open, and those in which something was heard late
_TOLD_INTERVALS: Final = 4
#: where nothing can be written for long, what is older than so many intervals is put together by the hour
MOST_INTERVALS: Final = 30
COARSE_S: Final = 3600
_COARSE_NS: Final = COARSE_S * NS_PER_S


#: the beginning of an interval, its length in seconds, and what was counted in it
_Place: TypeAlias = "tuple[int, int, FlowKey]"


@dataclass(slots=True)
class _Sums:
    count: int = 0
    cut: int = 0
    unreached: int = 0
    unjoined: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    check_us: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    durations: list[int] = field(default_factory=lambda: [0] * MAX_BUCKETS)


class FlowSums:
    """Counts what happened to calls, by interval and key; for one thread. Times are since the epoch."""

    def __init__(self, sidecar: str, *, most_keys: int = MOST_KEYS, most_coarse_keys: int = MOST_COARSE_KEYS) -> None:
        self._sidecar = cut_text(sidecar, MAX_NAME_CHARS)
        self._most_keys = most_keys
        self._most_coarse_keys = most_coarse_keys
        self._sums: dict[_Place, _Sums] = {}
        #: by the interval and the identity of a known key: what most calls find
        self._fast: dict[tuple[int, int], _Sums] = {}
        self._known: dict[FlowKey, FlowKey] = {}
        self._coarse = 0
        #: the keys of the newest intervals, also of what was forgotten
        self._told: dict[int, set[FlowKey]] = {}
        #: decisions that were counted under a key that says less than they did
        self.coarsened = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted that has not been taken."""
        return not self._sums

    def key(self, kind: DecisionKind, address: str) -> FlowKey:
        """Give the key of a decision's flow, the same object for the same key as long as it is in use."""
        key = kind.key
        if key is None:
            key = self._key(kind, address)
            if key.caller.identity is not None:
                kind.key = key
        return key

    def decided(self, key: FlowKey, time_ns: int, check_us: int) -> None:
        """Count a decision."""
        sums = self._of(key, time_ns)
        sums.count += 1
        sums.check_us += check_us

    def ended(self, key: FlowKey, end: CallEnd) -> None:
        """Count the end of a call."""
        sums = self._of(key, end.ended_ns)
        status = end.status
        if status is not None:
            sums.statuses[status] = sums.statuses.get(status, 0) + 1
        sums.received_bytes += end.received_bytes
        sums.sent_bytes += end.sent_bytes
        sums.durations[bucket_of(end.duration_us)] += 1
        if end.unreached and key.direction is Direction.OUTBOUND and key.reason.allows:
            sums.unreached += 1

    def moved(self, key: FlowKey, running: RunningBytes) -> None:
        """Count the bytes of a call that still runs."""
        sums = self._of(key, running.at_ns)
        sums.received_bytes += running.received_bytes
        sums.sent_bytes += running.sent_bytes

    def cut(self, key: FlowKey, time_ns: int) -> None:
        """Count that a call was cut."""
        self._of(key, time_ns).cut += 1

    def unjoined(self, key: FlowKey, time_ns: int) -> None:
        """Count a decision of which nothing else was heard; `time_ns` is the decision's."""
        self._of(key, time_ns).unjoined += 1

    @property
    def decisions(self) -> int:
        """How many decisions were counted and not forgotten."""
        return sum(sums.count for sums in self._sums.values())

    def flows(self, before_ns: int | None = None) -> tuple[Flow, ...]:
        """Give what was counted in intervals that ended by an instant, or all of it."""
        return tuple(
            Flow(
                time_ns=place[0],
                interval_s=place[1],
                key=place[2],
                count=sums.count,
                cut=sums.cut,
                unreached=sums.unreached,
                unjoined=sums.unjoined,
                statuses=tuple(sorted(sums.statuses.items())),
                bytes_received=sums.received_bytes,
                bytes_sent=sums.sent_bytes,
                durations=histogram_of(sums.durations),
                check_us_sum=sums.check_us,
            )
            for place, sums in self._sums.items()
            if _has_ended(place, before_ns)
        )

    def forget(self, before_ns: int | None = None) -> None:
        """Forget what `flows` gives."""
        self._sums = {place: sums for place, sums in self._sums.items() if not _has_ended(place, before_ns)}
        self._fast.clear()
        self._coarse = sum(1 for _, _, key in self._sums if key.method == _OTHER)

    def put_together(self, now_ns: int) -> None:
        """Put intervals that ended long ago together by the hour: for as long as nobody takes them."""
        before_ns = now_ns - now_ns % _INTERVAL_NS - MOST_INTERVALS * _INTERVAL_NS
        for place, sums in [each for each in self._sums.items() if each[0][0] < before_ns]:
            start_ns, interval_s, key = place
            if interval_s != COARSE_S:
                del self._sums[place]
                coarse = start_ns - start_ns % _COARSE_NS, COARSE_S, _without_caller(key)
                self._add(self._sums.setdefault(coarse, _Sums()), sums)
        self._fast.clear()
        self._coarse = sum(1 for _, _, key in self._sums if key.method == _OTHER)

    @staticmethod
    def _add(into: _Sums, sums: _Sums) -> None:
        into.count += sums.count
        into.cut += sums.cut
        into.unreached += sums.unreached
        into.unjoined += sums.unjoined
        into.received_bytes += sums.received_bytes
        into.sent_bytes += sums.sent_bytes
        into.check_us += sums.check_us
        for status, count in sums.statuses.items():
            into.statuses[status] = into.statuses.get(status, 0) + count
        for bucket, count in enumerate(sums.durations):
            into.durations[bucket] += count

    def _of(self, key: FlowKey, time_ns: int) -> _Sums:
        start_ns = max(0, time_ns - time_ns % _INTERVAL_NS)
        sums = self._fast.get((start_ns, id(key)))
        if sums is None:
            sums = self._counted(key, start_ns)
        return sums

    def _counted(self, key: FlowKey, start_ns: int) -> _Sums:
        sums = self._sums.get((start_ns, INTERVAL_S, key))
        if sums is not None:
            # Only keys that live as long as this do have an id that nobody else gets.
            if self._known.get(key) is key:
                self._fast[start_ns, id(key)] = sums
            return sums
        counted = key
        told = self._told.get(start_ns)
        if told is None:
            told = self._told[start_ns] = set()
            if len(self._told) > _TOLD_INTERVALS:
                del self._told[min(self._told)]
        if len(self._sums) - self._coarse < self._most_keys and (key in told or len(told) < self._most_keys):
            told.add(key)
        else:
            self.coarsened += 1
            counted = _without_what_callers_make_up(key)
            if (start_ns, INTERVAL_S, counted) not in self._sums and self._coarse >= self._most_coarse_keys:
                counted = _without_caller(key)
        known = self._sums.get((start_ns, INTERVAL_S, counted))
        if known is None:
            known = self._sums[start_ns, INTERVAL_S, counted] = _Sums()
            self._coarse += counted is not key
        return known

    def _key(self, kind: DecisionKind, address: str) -> FlowKey:
        key = _key_of(kind, self._sidecar, address)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= 2 * self._most_keys:
                self._known.clear()
                self._fast.clear()
            known = self._known[key] = key
        return known


#: stands for every method, where more kinds of calls come than are kept apart
_OTHER: Final = "*"


def is_over(start_ns: int, before_ns: int | None) -> bool:
    """Say whether the interval that begins then has ended by an instant: None is the end of all.

    One that lies far ahead is of another clock than the instant's (it was set for tests, or was wrong): it is taken as
    it comes.
    """
    return before_ns is None or start_ns + _INTERVAL_NS <= before_ns or start_ns > before_ns + _AHEAD_NS


def _has_ended(place: _Place, before_ns: int | None) -> bool:
    return is_over(place[0], before_ns) or place[1] != INTERVAL_S


def _without_what_callers_make_up(key: FlowKey) -> FlowKey:
    return replace(
        key,
        caller=replace(key.caller, identity=None, presented_by=None, address=None),
        destination=replace(key.destination, host=""),
        method=_OTHER,
        route=None,
        shadow=None,
        tls=Tls(),
    )


def _without_caller(key: FlowKey) -> FlowKey:
    return replace(
        _without_what_callers_make_up(key),
        caller=Caller(),
        destination=Destination(),
        policy=None,
        protocol=_OTHER,
        revision="",
    )


def _key_of(kind: DecisionKind, sidecar: str, address: str) -> FlowKey:
    (
        inbound, _, caller, presenter, host, method,
        reason, policy, shadow, revision, _,
        caller_service, caller_third_party, destination_service, destination_third_party, route,
        protocol, tls_version, tls_cipher, _,
    ) = kind.facts  # fmt: skip
    identity = _cut(caller, MAX_IDENTITY_CHARS)
    return FlowKey(
        sidecar=sidecar,
        direction=Direction.INBOUND if inbound else Direction.OUTBOUND,
        caller=Caller(
            identity=identity,
            service=_cut(caller_service, MAX_NAME_CHARS),
            third_party=_cut(caller_third_party, MAX_NAME_CHARS),
            presented_by=_cut(presenter, MAX_IDENTITY_CHARS),
            address=None if identity is not None else cut_text(host_of(address), MAX_ADDRESS_CHARS),
        ),
        destination=Destination(
            service=_cut(destination_service, MAX_NAME_CHARS),
            third_party=_cut(destination_third_party, MAX_NAME_CHARS),
            host=_cut(host, MAX_HOST_CHARS) or "",
        ),
        method=_cut(method, MAX_METHOD_CHARS) or "",
        route=_cut(route, MAX_ROUTE_CHARS),
        protocol=_cut(protocol, MAX_PROTOCOL_CHARS) or "",
        reason=Reason(str(reason)),
        policy=_cut(policy, MAX_NAME_CHARS),
        shadow=_shadow(cast("tuple[str, str | None] | None", shadow)),
        revision=_cut(revision, MAX_REVISION_CHARS) or "",
        tls=Tls(version=_cut(tls_version, MAX_TLS_CHARS), cipher=_cut(tls_cipher, MAX_TLS_CHARS)),
    )


def _shadow(shadow: tuple[str, str | None] | None) -> Shadow | None:
    if shadow is None:
        return None
    reason = Reason(shadow[0])
    return Shadow(decision=reason.verdict, reason=reason, policy=_cut(shadow[1], MAX_NAME_CHARS))


def _cut(text: object, most_chars: int) -> str | None:
    return None if text is None else cut_text(str(text), most_chars)


def host_of(address: str) -> str:
    """Give an address without its port."""
    host, colon, port = address.rpartition(":")
    return host if colon and port.isdecimal() else address
