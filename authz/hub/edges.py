"""The edges of a map, put together from the sums of their series. Pure.

A map of some thousand edges is made while somebody waits for it: each series is looked at once, and latencies of
edges with the same few calls are found once.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
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
    by_ends: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for row in rows:
        of_series = known.get(row[0])
        if of_series is not None:
            of_edge = by_ends.get(of_series[0])
            if of_edge is None:
                by_ends[of_series[0]] = [row]
            else:
                of_edge.append(row)
    if service is not None:
        by_ends = {ends: of_edge for ends, of_edge in by_ends.items() if service in ends}
    return {ends: _edge(ends, of_edge, known) for ends, of_edge in by_ends.items()}


def _edge(ends: tuple[str, str], rows: Sequence[Sequence[Any]], known: Mapping[int, SeriesOfMap]) -> answers.Edge:
    series, first_s, last_s, calls, cut, unreached, received, sent, text = rows[0]
    _, route, protocol, version, is_allowed, is_denied, is_observed = known[series]
    allowed, denied, observed = is_allowed and calls, is_denied and calls, is_observed and calls
    protocols, tls, routes = {protocol: calls}, {version: calls}, 1
    texts = [text]
    if len(rows) > 1:
        seen = {route}
        for row in islice(rows, 1, None):
            series, row_first_s, row_last_s, more, row_cut, row_unreached, row_received, row_sent, text = row
            _, route, protocol, version, is_allowed, is_denied, is_observed = known[series]
            calls += more
            if is_allowed:
                allowed += more
            elif is_denied:
                denied += more
            if is_observed:
                observed += more
            cut += row_cut
            unreached += row_unreached
            received += row_received
            sent += row_sent
            protocols[protocol] = protocols.get(protocol, 0) + more
            tls[version] = tls.get(version, 0) + more
            texts.append(text)
            seen.add(route)
            first_s = min(first_s, row_first_s)
            last_s = max(last_s, row_last_s)
        routes = len(seen)
    p50_ms, p99_ms = latencies_ms(texts)
    return {
        "from": ends[0],
        "to": ends[1],
        "calls": calls,
        "allowed": allowed,
        "denied": denied,
        "observed": observed,
        "cut": cut,
        "unreached": unreached,
        "bytes_received": received,
        "bytes_sent": sent,
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        "protocols": protocols,
        "tls": tls,
        "routes": routes,
        "first_seen": _time(first_s),
        "last_seen": _time(max(last_s, first_s)),
    }
