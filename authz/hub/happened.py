"""What a batch brings that somebody may want to know at once: denials, new edges, attempts on windows. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.hub.events import Event
from authz.hub.kept_record import unpacked
from authz.instant import NS_PER_MS, rfc3339_from_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from authz.hub.arrival import Arrival

#: of one batch; who needs all of them asks `GET /calls`
MAX_DENIALS: Final = 500
_OF_WINDOWS: Final = frozenset({"decommissioned", "not_commissioned", "closed", "not_yet_open"})


class Happened:
    """Remembers the edges and revisions that were seen."""

    def __init__(self, edges: Iterable[tuple[str, str]], revisions: Iterable[tuple[str, str]]) -> None:
        """`revisions` are pairs of a sidecar and the revision that it had last."""
        self._edges = set(edges)
        self._revisions = dict(revisions)

    def events(self, arrivals: Sequence[Arrival], *, listened: bool = True) -> Iterator[Event]:
        """Give what is new in batches that were stored; without denials where nobody has `listened`."""
        for arrival in arrivals:
            yield from self._new_edges(arrival)
            denied = [each for each in arrival.records if each.decision == "deny"] if listened else []
            for each in denied[:MAX_DENIALS]:
                record = unpacked(each.body)
                yield Event(kind="deny", data={**record})
                if each.reason in _OF_WINDOWS and not each.cut:
                    yield Event(
                        kind="window",
                        data={
                            "name": each.policy,
                            "what": "attempt",
                            "reason": each.reason,
                            "time": record["time"],
                            "from": each.source,
                            "to": each.target,
                            "sidecar": arrival.sidecar,
                            "decision_id": each.decision_id,
                        },
                    )
            revision = arrival.status.revision
            if revision is not None and self._revisions.get(arrival.sidecar) != revision:
                before = self._revisions.get(arrival.sidecar)
                self._revisions[arrival.sidecar] = revision
                yield Event(
                    kind="revision",
                    data={
                        "revision": revision,
                        "previous": before,
                        "sidecar": arrival.sidecar,
                        "time": rfc3339_from_ns(arrival.sent_ms * NS_PER_MS),
                    },
                )

    def _new_edges(self, arrival: Arrival) -> Iterator[Event]:
        seen = {row[1]: row[0] for row in reversed(arrival.rows) if row[3]}
        for series, time_s in seen.items():
            each = arrival.series[series]
            ends = each.source, each.target
            if ends not in self._edges:
                self._edges.add(ends)
                yield Event(
                    kind="edge",
                    data={
                        "from": each.source,
                        "to": each.target,
                        "time": rfc3339_from_ns(time_s * 1_000_000_000),
                        "decision": each.decision,
                        "sidecar": each.sidecar,
                    },
                )
