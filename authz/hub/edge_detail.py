"""One edge in detail, put together from what it has of each kind of calls. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from authz.hub.columns import DURATIONS, STATUSES
from authz.hub.known_series import NONE
from authz.hub.latency import quantiles_ms
from authz.instant import rfc3339_from_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.hub import answers
    from authz.hub.span import Span

#: of the numbers of a row, so many come before its statuses and its latency histogram
_NUMBERS_COUNT: Final = 8
_STATUS_NAMES: Final = ("none", "2xx", "3xx", "4xx", "5xx")


class EdgeRow(NamedTuple):
    """What an edge has of one kind of calls; `numbers` are those of a series, in its order."""

    method: str
    route: str | None
    policy: str | None
    reason: str
    protocol: str | None
    version: str | None
    cipher: str | None
    sidecar: str
    identity: str | None
    first_s: int
    last_s: int
    numbers: tuple[int, ...]

    @property
    def calls(self) -> int:
        """How many calls these were."""
        return self.numbers[0]


#: so many columns come before the numbers
EDGE_ROW: Final = 11


def edge_detail(
    source: str, target: str, span: Span, rows: Sequence[EdgeRow], seen: tuple[int | None, int | None]
) -> answers.EdgeDetail:
    """Give an edge with its routes; `seen` is when its calls were seen at all, first and last (s)."""
    first_seen, last_seen = seen
    routes: dict[tuple[str, str | None], list[EdgeRow]] = {}
    protocols: dict[str, int] = {}
    tls: dict[str, int] = {}
    ciphers: dict[str, int] = {}
    reasons: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for row in rows:
        routes.setdefault((row.method, row.route), []).append(row)
        _add(protocols, row.protocol, row.calls)
        _add(tls, row.version, row.calls)
        _add(ciphers, row.cipher, row.calls)
        _add(reasons, row.reason, row.calls)
        _add(sidecars, row.sidecar, row.calls)
    total = _totals(rows)
    ordered = sorted(
        (_route(method, route, of_route) for (method, route), of_route in routes.items()),
        key=lambda each: (-each["calls"], each["method"], each["route"] or ""),
    )
    return {
        "from": source,
        "to": target,
        "since": rfc3339_from_s(span.from_s),
        "until": rfc3339_from_s(span.until_s),
        **numbers_of(
            min((row.first_s for row in rows), default=first_seen),
            max((row.last_s for row in rows), default=last_seen),
            total,
        ),
        "protocols": protocols,
        "tls": tls,
        "ciphers": ciphers,
        "routes": ordered,
        "identities": sorted({row.identity for row in rows if row.identity is not None}),
        "reasons": reasons,
        "statuses": _statuses(total),
        "sidecars": sidecars,
    }


def numbers_of(first_s: int | None, last_s: int | None, numbers: Sequence[int]) -> answers.Numbers:
    """Give what an edge, a route or a rule shows of sums, in the order of a row; times are seconds."""
    calls, allowed, denied, observed, cut, unreached, received, sent = numbers[:_NUMBERS_COUNT]
    p50_ms, p99_ms = quantiles_ms(numbers[-len(DURATIONS) :], (0.5, 0.99))
    return {
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
        "first_seen": None if first_s is None else rfc3339_from_s(first_s),
        "last_seen": None if last_s is None else rfc3339_from_s(max(last_s, first_s or last_s)),
    }


def _route(method: str, route: str | None, rows: Sequence[EdgeRow]) -> answers.Route:
    total = _totals(rows)
    policies: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for row in rows:
        if row.policy is not None:
            _add(policies, row.policy, row.calls)
        _add(reasons, row.reason, row.calls)
    return {
        "method": method,
        "route": route,
        **numbers_of(min(row.first_s for row in rows), max(row.last_s for row in rows), total),
        "policy": max(policies, key=lambda name: (policies[name], name)) if policies else None,
        "policies": policies,
        "reasons": reasons,
        "statuses": _statuses(total),
    }


def _totals(rows: Sequence[EdgeRow]) -> list[int]:
    none = (0,) * (_NUMBERS_COUNT + len(STATUSES) + len(DURATIONS))
    return [sum(column) for column in zip(none, *(row.numbers for row in rows), strict=True)]


def _statuses(total: Sequence[int]) -> dict[str, int]:
    counts = total[_NUMBERS_COUNT : _NUMBERS_COUNT + len(STATUSES)]
    return {name: count for name, count in zip(_STATUS_NAMES, counts, strict=True) if count}


def point(start_s: int, numbers: Sequence[int]) -> answers.Point:
    """Give one step of a history, from its sums in the order of a row."""
    calls, allowed, denied, _, _, _, received, sent = numbers[:_NUMBERS_COUNT]
    p50_ms, p99_ms = quantiles_ms(numbers[-len(DURATIONS) :], (0.5, 0.99))
    return {
        "time": rfc3339_from_s(start_s),
        "calls": calls,
        "allowed": allowed,
        "denied": denied,
        "bytes_received": received,
        "bytes_sent": sent,
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
    }


def _add(counts: dict[str, int], name: str | None, calls: int) -> None:
    counts[name or NONE] = counts.get(name or NONE, 0) + calls
