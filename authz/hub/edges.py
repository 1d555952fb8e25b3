"""The edges of a map, put together from the sums of their series. Pure.

A map of some thousand edges is made while somebody waits for it: each series is looked at once, and latencies of
edges with the same few calls are found once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from authz.hub.histogram_text import latencies_ms
from authz.instant import rfc3339_from_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from authz.hub import answers
    from authz.hub.known_series import SeriesOfMap

#: what the map adds up of a series, besides its latency histogram
SUMMED_ON_MAP: Final = ("calls", "cut", "unreached", "received", "sent")

_time: Final = lru_cache(4096)(rfc3339_from_s)


def edges_of(
    rows: Iterable[Sequence[Any]], known: Mapping[int, SeriesOfMap], service: str | None = None
) -> dict[tuple[str, str], answers.Edge]:
    """Give the edges of rows that have, of a series each, its part of a span; only those of one party if it is named.

    Rows are the series, the first and the last time (s), SUMMED_ON_MAP, and the latency histogram as text
    (:mod:`authz.hub.histogram_text`); a series may have several. One that is not known is not stored yet, and nor is
    the rest of its batch: it is left out.
    """
    edges: dict[tuple[str, str], answers.Edge] = {}
    beside: dict[tuple[str, str], tuple[list[int], list[str], set[str]]] = {}
    for series, first_s, last_s, calls, cut, unreached, received, sent, durations in rows:
        of_series = known.get(series)
        if of_series is None:
            continue
        ends, route, protocol, version, allowed, denied, observed = of_series
        edge = edges.get(ends)
        if edge is None:
            if service is not None and service not in ends:
                continue
            edges[ends] = {
                "from": ends[0],
                "to": ends[1],
                "calls": calls,
                "allowed": allowed and calls,
                "denied": denied and calls,
                "observed": observed and calls,
                "cut": cut,
                "unreached": unreached,
                "bytes_received": received,
                "bytes_sent": sent,
                "p50_ms": None,
                "p99_ms": None,
                "protocols": {protocol: calls},
                "tls": {version: calls},
                "routes": 1,
                "first_seen": None,
                "last_seen": None,
            }
            beside[ends] = [first_s, last_s], [durations], {route}
            continue
        times, texts, routes = beside[ends]
        times[0] = min(times[0], first_s)
        times[1] = max(times[1], last_s)
        texts.append(durations)
        routes.add(route)
        edge["calls"] += calls
        if allowed:
            edge["allowed"] += calls
        elif denied:
            edge["denied"] += calls
        if observed:
            edge["observed"] += calls
        edge["cut"] += cut
        edge["unreached"] += unreached
        edge["bytes_received"] += received
        edge["bytes_sent"] += sent
        by_protocol, by_version = edge["protocols"], edge["tls"]
        by_protocol[protocol] = by_protocol.get(protocol, 0) + calls
        by_version[version] = by_version.get(version, 0) + calls
    for ends, ((first_s, last_s), texts, routes) in beside.items():
        edge = edges[ends]
        edge["p50_ms"], edge["p99_ms"] = latencies_ms(texts)
        edge["routes"] = len(routes)
        edge["first_seen"] = _time(first_s)
        edge["last_seen"] = _time(max(last_s, first_s))
    return edges
