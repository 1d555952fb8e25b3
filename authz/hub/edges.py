"""The edges of a map, put together from the sums of their series. Pure.

A map of some thousand edges is made while somebody waits for it: each series is looked at once, and latencies of
edges with the same few calls are found once.
"""

from __future__ import annotations

from functools import lru_cache
from operator import add
from typing import TYPE_CHECKING, Any, Final

from authz.hub.columns import DURATIONS
from authz.hub.latency import quantiles_ms
from authz.instant import rfc3339_from_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from authz.hub import answers

#: what an edge without TLS, or without a protocol, stands under
NONE: Final = "none"
#: What the map shows of a series: each column less is some hundredths of the work, since rows are sorted with all they
#: have.
SUMMED_ON_MAP: Final = ("calls", "cut", "unreached", "received", "sent", *DURATIONS)
#: where in a row the sums begin, and among them the latency histogram
_SUMS: Final = 10
_HISTOGRAM: Final = len(SUMMED_ON_MAP) - len(DURATIONS)


def edges_of(rows: Iterable[Sequence[Any]]) -> dict[tuple[str, str], answers.Edge]:
    """Give the edges of rows that have, of a series each, its part of a span.

    Rows are source, target, method, route, protocol, version of TLS, decision, reason, the first and the last time (s),
    and SUMMED_ON_MAP; a series may have several.
    """
    by_ends: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for row in rows:
        by_ends.setdefault((row[0], row[1]), []).append(row)
    return {ends: _edge(ends, of_edge) for ends, of_edge in by_ends.items()}


def _edge(ends: tuple[str, str], rows: Sequence[Sequence[Any]]) -> answers.Edge:
    first = rows[0]
    allowed = denied = observed = 0
    first_s, last_s, sums = first[8], first[9], first[_SUMS:]
    protocols: dict[str, int] = {}
    tls: dict[str, int] = {}
    routes: set[str] = set()
    for row in rows:
        _, _, method, route, protocol, version, decision, reason, row_first_s, row_last_s, calls = row[: _SUMS + 1]
        if decision == "allow":
            allowed += calls
        elif decision == "deny":
            denied += calls
        if reason == "observed":
            observed += calls
        protocols[protocol or NONE] = protocols.get(protocol or NONE, 0) + calls
        tls[version or NONE] = tls.get(version or NONE, 0) + calls
        routes.add(f"{method} {route or ''}")
        if row is not first:
            first_s, last_s = min(first_s, row_first_s), max(last_s, row_last_s)
            sums = list(map(add, sums, row[_SUMS:]))
    calls, cut, unreached, received, sent = sums[:_HISTOGRAM]
    p50_ms, p99_ms = _latencies_ms(tuple(sums[_HISTOGRAM:]))
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
        "routes": len(routes),
        "first_seen": rfc3339_from_s(first_s),
        "last_seen": rfc3339_from_s(max(last_s, first_s)),
    }


@lru_cache(4096)
def _latencies_ms(histogram: tuple[int, ...]) -> list[float | None]:
    return quantiles_ms(histogram, (0.5, 0.99))
