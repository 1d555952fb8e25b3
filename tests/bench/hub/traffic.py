"""Traffic of a mesh that never was, as the batches that its sidecars would have shipped: always the same for a seed.

Calls go along edges of which few have most (by the edge's rank), in days with a quiet night; some are refused, for
reasons that belong to their edge; third parties are called and call, and one window has closed.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from math import pi, sin
from typing import TYPE_CHECKING, Any

from authz.instant import NS_PER_S, rfc3339_from_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_S = 86_400
INTERVAL_S = 10
#: of the allowed calls, as a sidecar samples them
SAMPLED = 0.002
_REVISIONS = ("a" * 64, "b" * 64)
_DENIALS = (
    ("no_policy", None),
    ("closed", "batch-import"),
    ("guardrail", "no-admin-from-outside"),
    ("unidentified", None),
)
_TLS = {"version": "TLSv1_3", "cipher": "TLS_AES_128_GCM_SHA256", "peer_serial": None}
_NO_TLS = {"version": None, "cipher": None, "peer_serial": None}
_HOURS_A_DAY = 24
#: flows of one batch: what a sidecar with 250 flow rows a second has in two seconds
BATCH_FLOWS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One caller and one destination, with the routes that are called."""

    source: str
    target: str
    source_party: bool
    target_party: bool
    routes: tuple[tuple[str, str, str], ...]
    latency_us: float
    denied: float


@dataclass(slots=True, kw_only=True)
class Traffic:
    """What `decisions` of `services` over `days` look like, ending at `until_s`; another `part` has other calls."""

    services: int
    decisions: int
    days: float
    until_s: int
    edges_a_service: int = 10
    seed: int = 8
    part: int = 0
    rng: random.Random = field(init=False)
    edges: list[Edge] = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 it has to be the same every time
        self.edges = list(self._edges())

    def _edges(self) -> Iterator[Edge]:
        rng = self.rng
        names = [f"service-{number:03d}" for number in range(self.services)]
        parties = [f"partner-{number}" for number in range(max(1, self.services // 20))]
        for number, name in enumerate(names):
            others = rng.sample([each for each in names if each != name], min(self.edges_a_service, len(names) - 1))
            for other in others:
                yield self._edge(name, other)
            if number % 10 == 0:
                yield self._edge(name, rng.choice(parties), target_party=True)
            if number % 15 == 0:
                yield self._edge(rng.choice(parties), name, source_party=True)

    def _edge(self, source: str, target: str, *, source_party: bool = False, target_party: bool = False) -> Edge:
        rng = self.rng
        routes = tuple(
            (rng.choice(("GET", "GET", "GET", "POST", "PUT")), f"/v1/{word}/{{id}}", f"{source}-to-{target}")
            for word in rng.sample(("items", "orders", "stock", "users", "prices", "carts"), rng.randint(1, 4))
        )
        return Edge(
            source=source,
            target=target,
            source_party=source_party,
            target_party=target_party,
            routes=routes,
            latency_us=rng.lognormvariate(8.5, 1.0),
            denied=rng.choice((0.0, 0.0, 0.0, 0.005, 0.02, 0.3)),
        )

    def batches(self) -> Iterator[dict[str, Any]]:
        """Give the batches of all sidecars, the oldest first, some hours of each sidecar at once."""
        rng = self.rng
        if self.part:
            rng.seed(f"{self.seed}/{self.part}")
        weights = list(accumulate(1.0 / (rank + 3) for rank in range(len(self.edges))))
        order = self.edges[:]
        random.Random(self.seed).shuffle(order)  # noqa: S311 the same for every part
        hours = max(1, round(self.days * _HOURS_A_DAY))
        batch_hours = max(1, BATCH_FLOWS * self.services * hours // max(1, self.decisions))
        shares = [1.0 + 0.8 * sin(2 * pi * (hour % 24) / 24) for hour in range(hours)]
        total = sum(shares)
        sequences: defaultdict[str, int] = defaultdict(int)
        begin = self.until_s - hours * 3600
        begin -= begin % INTERVAL_S
        left, made = self.decisions, 0.0
        by_sidecar: defaultdict[str, list[tuple[Edge, int]]] = defaultdict(list)
        for hour, share in enumerate(shares):
            made += self.decisions * share / total
            calls = min(left, round(made) - (self.decisions - left)) if hour < hours - 1 else left
            left -= calls
            for _ in range(calls):
                edge = order[bisect(weights, rng.random() * weights[-1])]
                at_s = begin + hour * 3600 + rng.randrange(3600)
                by_sidecar[edge.source if edge.target_party else edge.target].append((edge, at_s))
            if (hour + 1) % batch_hours and hour < hours - 1:
                continue
            for sidecar in sorted(by_sidecar):
                sequences[sidecar] += 1
                yield self._batch(sidecar, sequences[sidecar], begin + (hour + 1) * 3600, by_sidecar[sidecar])
            by_sidecar.clear()

    def _batch(self, sidecar: str, sequence: int, sent_s: int, calls: list[tuple[Edge, int]]) -> dict[str, Any]:
        rng = self.rng
        flows: dict[tuple[Any, ...], dict[str, Any]] = {}
        records = []
        revision = _REVISIONS[sent_s // (7 * DAY_S) % 2]
        for edge, at_s in calls:
            method, route, policy = rng.choice(edge.routes)
            reason = "allowed"
            if edge.denied and rng.random() < edge.denied:
                reason, denied_by = _DENIALS[hash_of(edge.source, edge.target) % len(_DENIALS)]
                policy = denied_by or ""
            key = (at_s // INTERVAL_S, edge.source, edge.target, method, route, reason)
            flow = flows.get(key)
            if flow is None:
                flow = flows[key] = _flow(sidecar, edge, at_s, method, route, reason, policy or None, revision)
            duration_us = rng.lognormvariate(0, 0.6) * edge.latency_us
            received, sent = rng.randrange(200, 4000), rng.randrange(200, 40_000)
            _count(flow, reason == "allowed", duration_us, received, sent)
            if reason != "allowed" or rng.random() < SAMPLED:
                records.append(self._record(flow, at_s, duration_us, received, sent))
        return {
            "sidecar": sidecar,
            "boot": f"{self.part:016x}",
            "sequence": sequence,
            "service": sidecar,
            "sent": rfc3339_from_ns(sent_s * NS_PER_S),
            "status": {
                "revision": revision,
                "svid_expires": rfc3339_from_ns((sent_s + 3600) * NS_PER_S),
                "spooled": 0,
                "lost": 0,
                "unjoined": 0,
                "dropped": 0,
                "failed_handshakes": 0,
                "ready": True,
            },
            "catalog": None,
            "records": records,
            "flows": list(flows.values()),
        }

    def _record(self, flow: dict[str, Any], at_s: int, duration_us: float, received: int, sent: int) -> dict[str, Any]:
        rng = self.rng
        allowed = flow["decision"] == "allow"
        address = f"10.{rng.randrange(4)}.{rng.randrange(256)}.{rng.randrange(256)}:{rng.randrange(32768, 61000)}"
        return {
            "decision_id": f"{rng.getrandbits(128):032x}",
            "request_id": f"{rng.getrandbits(128):032x}",
            "time": rfc3339_from_ns(at_s * NS_PER_S + rng.randrange(1000) * 1_000_000),
            "sidecar": flow["sidecar"],
            "direction": flow["direction"],
            "caller": {**flow["caller"], "address": address},
            "destination": flow["destination"],
            "method": flow["method"],
            "route": flow["route"],
            "path": None if allowed else flow["route"].replace("{id}", str(rng.randrange(10_000))),
            "protocol": flow["protocol"],
            "decision": flow["decision"],
            "reason": flow["reason"],
            "policy": flow["policy"],
            "shadow": None,
            "revision": flow["revision"],
            "valid_until": None,
            "tls": flow["tls"],
            "check_us": rng.randrange(20, 200),
            "status": 200 if allowed else 403,
            "bytes_received": received,
            "bytes_sent": sent,
            "duration_ms": round(duration_us / 1000, 3),
            "cut": False,
        }


def hash_of(*words: str) -> int:
    """Give a number that is the same in every run."""
    return sum(ord(letter) * (place + 1) for place, letter in enumerate("/".join(words)))


def identity(name: str) -> str:
    """Give the SPIFFE ID of a service or third party."""
    return f"spiffe://example.org/ns/prod/sa/{name}"


def _flow(
    sidecar: str, edge: Edge, at_s: int, method: str, route: str, reason: str, policy: str | None, revision: str
) -> dict[str, Any]:
    unidentified = reason == "unidentified"
    return {
        "time": rfc3339_from_ns(at_s // INTERVAL_S * INTERVAL_S * NS_PER_S),
        "interval_s": INTERVAL_S,
        "sidecar": sidecar,
        "direction": "outbound" if edge.target_party else "inbound",
        "caller": {
            "identity": None if unidentified else identity(edge.source),
            "service": None if unidentified or edge.source_party else edge.source,
            "third_party": edge.source if edge.source_party and not unidentified else None,
            "presented_by": None,
            "address": "10.9.8.7" if unidentified else None,
        },
        "destination": {
            "service": None if edge.target_party else edge.target,
            "third_party": edge.target if edge.target_party else None,
            "host": f"{edge.target}.example.net" if edge.target_party else edge.target,
        },
        "method": method,
        "route": route,
        "protocol": ("http/1.1", "http/2", "grpc")[hash_of(edge.source) % 3],
        "decision": "allow" if reason == "allowed" else "deny",
        "reason": reason,
        "policy": policy,
        "shadow": None,
        "revision": revision,
        "tls": _NO_TLS if edge.target_party else _TLS,
        "count": 0,
        "cut": 0,
        "unreached": 0,
        "unjoined": 0,
        "statuses": {},
        "bytes_received": 0,
        "bytes_sent": 0,
        "duration_us_log2": [],
        "check_us_sum": 0,
    }


def _count(flow: dict[str, Any], allowed: bool, duration_us: float, received: int, sent: int) -> None:  # noqa: FBT001
    flow["count"] += 1
    status = "200" if allowed else "403"
    flow["statuses"][status] = flow["statuses"].get(status, 0) + 1
    flow["bytes_received"] += received
    flow["bytes_sent"] += sent
    flow["check_us_sum"] += 60
    bucket = min(max(int(duration_us), 1).bit_length() - 1, 39)
    buckets = flow["duration_us_log2"]
    buckets.extend([0] * (bucket + 1 - len(buckets)))
    buckets[bucket] += 1
