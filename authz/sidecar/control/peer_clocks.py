"""How far the clocks of the Services that this workload calls are from its own, as calls between their sidecars show.

Each call gives three readings: when it left here and when its answer came back, by this machine's clock, and when it
was received there, by that one's (:mod:`authz.proxy.peer_clock`). The third lies between the other two, so that the
other clock is ahead of this one by at least `received - answered` and at most `received - left`: a bound, whatever the
network did, and the narrower the quicker the other sidecar answered. The narrowest call of an interval counts, as in
NTP's clock filter (RFC 5905 10).

It is shown, and takes part in no decision. A peer that lies about its clock is shown with the clock that it claims.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Final

from authz.instant import NS_PER_S, rfc3339_from_ns
from authz.proxy.access_log_names import SERVICE_CLUSTER_PREFIX

_log = logging.getLogger(__name__)

#: what counts is the narrowest call of so long
INTERVAL_NS: Final = 10 * NS_PER_S
#: Windows are written in seconds: sidecars whose clocks are this far apart answer a call differently for that long.
APART_NS: Final = NS_PER_S
#: a peer whose clock comes and goes is warned of so often at most
WARNED_INTERVAL_NS: Final = 600 * NS_PER_S
#: Names come from Envoy's own configuration, two for a Service; its check servers decide for sets of so many
MOST_CLUSTERS: Final = 20_000
_NS_PER_US: Final = 1000
_SERVICE_CLUSTER: Final = SERVICE_CLUSTER_PREFIX.encode()
#: microseconds between 2001 and 2286; what any other text says is not known
_RECEIVED_US: Final = re.compile(rb"[1-9][0-9]{15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerClock:
    """The other clock is ahead of ours by `low_ns` to `high_ns` (behind, where negative), seen at `at_ns` of ours."""

    low_ns: int
    high_ns: int
    at_ns: int

    @property
    def skew_ns(self) -> int:
        """The middle of what it can be."""
        return (self.low_ns + self.high_ns) // 2

    @property
    def within_ns(self) -> int:
        """By how much the middle may be wrong."""
        return self.high_ns - self.skew_ns

    @property
    def is_apart(self) -> bool:
        """Whether it is certain that the clocks differ by more than APART_NS."""
        return self.low_ns > APART_NS or self.high_ns < -APART_NS

    def to_json(self) -> dict[str, object]:
        """Give what the status file says: {"skew_s", "within_s", "seen"}."""
        return {
            "skew_s": round(self.skew_ns / NS_PER_S, 6),
            "within_s": round(self.within_ns / NS_PER_S, 6),
            "seen": rfc3339_from_ns(self.at_ns),
        }


def peer_clock(*, left_ns: int, received_us: int, answered_ns: int, at_ns: int) -> PeerClock | None:
    """Give what one call shows that is told of at `at_ns`; None where that is too late, or it was answered unasked."""
    if not left_ns <= answered_ns <= at_ns < answered_ns + INTERVAL_NS:
        return None
    received_ns = received_us * _NS_PER_US
    # The other side's reading is cut off after its microseconds.
    return PeerClock(low_ns=received_ns - answered_ns, high_ns=received_ns + _NS_PER_US - left_ns, at_ns=at_ns)


class _Seen:
    """The narrowest call of the interval that runs, and of the one before."""

    __slots__ = ("before", "began_ns", "best", "warned", "warned_ns")

    def __init__(self, first: PeerClock) -> None:
        self.best = first
        self.began_ns = first.at_ns
        self.before: PeerClock | None = None
        self.warned = False
        self.warned_ns = 0

    def add(self, clock: PeerClock) -> None:
        elapsed_ns = clock.at_ns - self.began_ns
        # Entries overtake each other a little; a clock of ours that was set back by more begins anew.
        if -INTERVAL_NS < elapsed_ns < INTERVAL_NS:
            if clock.within_ns < self.best.within_ns:
                self.best = clock
            return
        self.before = self.best if 0 < elapsed_ns < 2 * INTERVAL_NS else None
        self.best, self.began_ns = clock, clock.at_ns

    @property
    def clock(self) -> PeerClock:
        """What counts: the narrowest of an interval that is over, or of the one that runs where it is narrower."""
        before = self.before
        return before if before is not None and before.within_ns < self.best.within_ns else self.best


class PeerClocks:
    """What is known of the clocks of others, by Service: one thread adds calls, another reads and warns."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        #: by the name of a cluster
        self._services: dict[bytes, str | None] = {}
        #: answers whose word was no time
        self.malformed = 0

    def heard(self, service: str, said: bytes, *, left_ns: int, answered_ns: int, at_ns: int) -> bool:
        """Take what a call has shown, and when the other sidecar says that it came; gives whether that was of use."""
        if _RECEIVED_US.fullmatch(said) is None:
            self.malformed += 1
            return False
        clock = peer_clock(left_ns=left_ns, received_us=int(said), answered_ns=answered_ns, at_ns=at_ns)
        if clock is None:
            return False
        seen = self._seen.get(service)
        if seen is None:
            self._seen[service] = _Seen(clock)
        else:
            seen.add(clock)
        return True

    def service_of(self, cluster: bytes) -> str | None:
        """Give the Service that a cluster leads to; None where it leads to none."""
        known = self._services.get(cluster, "")
        if known != "":
            return known
        service = None
        if cluster.startswith(_SERVICE_CLUSTER):
            # No name has an underscore (RFC 1123 2.1).
            name = cluster[len(_SERVICE_CLUSTER) :].partition(b"_")[0]
            service = name.decode("ascii", "replace") or None
        if len(self._services) < MOST_CLUSTERS:
            self._services[cluster] = service
            return service
        return None

    def clocks(self) -> dict[str, PeerClock]:
        """Give what counts of each Service, by name."""
        return {name: seen.clock for name, seen in sorted(self._seen.copy().items())}

    @property
    def furthest_s(self) -> float | None:
        """By how many seconds the clock is ahead that differs most; None where nothing is known of any."""
        skews = [clock.skew_ns for clock in self.clocks().values()]
        return max(skews, key=abs) / NS_PER_S if skews else None

    def to_json(self) -> list[dict[str, object]]:
        """Give what the status file says: [{"service", "skew_s", "within_s", "seen"}]."""
        return [{"service": name} | clock.to_json() for name, clock in self.clocks().items()]

    def warn(self, now_ns: int) -> None:
        """Say of whose clock it is certain that it is too far from ours, once, and when it is not any more."""
        for name, seen in self._seen.copy().items():
            clock = seen.clock
            if clock.is_apart and not seen.warned and now_ns - seen.warned_ns >= WARNED_INTERVAL_NS:
                seen.warned, seen.warned_ns = True, now_ns
                _log.warning("%s", too_far_apart(name, clock))
            elif seen.warned and not clock.is_apart:
                seen.warned = False
                _log.info("the clock of `%s` is within %d s of ours again", name, APART_NS // NS_PER_S)


def too_far_apart(service: str, clock: PeerClock) -> str:
    """Say how a clock differs."""
    which = "ahead of" if clock.skew_ns > 0 else "behind"
    return (
        f"the clock of `{service}` is {abs(clock.skew_ns) / NS_PER_S:.3f} s (within {clock.within_ns / NS_PER_S:.3f} s)"
        f" {which} ours: near a window's edge the two sidecars decide differently; see that both machines follow a"
        " time server"
    )
