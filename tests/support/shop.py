"""A shop of eleven Services and five third parties, and a day of its calls: each decided by the real engine.

The policies' dates lie around the day on which the tests run, so that there is always a window that opens, one that
closes, and one that has ended and is still tried. What the sidecars would have shipped of the calls goes to a real hub.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from authz.instant import NS_PER_MS, NS_PER_S, rfc3339_from_ns
from authz.policy.asked_call import AskedCall
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_test import directory_of
from authz.policy_folder import load_policy_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from authz.decision import Decision

SERVICES: Final = {
    "gateway": ("platform", "prod"),
    "storefront": ("web", "prod"),
    "search": ("web", "prod"),
    "recommendations": ("web", "staging"),
    "catalog": ("goods", "prod"),
    "inventory": ("goods", "prod"),
    "orders": ("orders", "prod"),
    "payments": ("money", "prod"),
    "ledger": ("money", "prod"),
    "shipping": ("logistics", "prod"),
    "notifications": ("platform", "prod"),
}
#: days from now on which each is commissioned and decommissioned
THIRD_PARTIES: Final = {
    "acme-analytics": (-90, 98),
    "fraud-score": (-40, 6),
    "old-erp": (-300, -3),
    "parcel-tracker": (-200, 140),
    "tax-service": (9, 200),
}
#: who may call whom, how; with days from now where the rule has a window of its own
RULES: Final = (
    ("gateway", "storefront", "GET", "/pages/{page}", None),
    ("gateway", "orders", "GET", "/orders/{id}", None),
    ("storefront", "catalog", "GET", "/items/{id}", None),
    ("storefront", "search", "GET", "/search", None),
    ("storefront", "recommendations", "GET", "/for/{user}", None),
    ("storefront", "orders", "POST", "/orders", None),
    ("search", "catalog", "GET", "/items/{id}", None),
    ("recommendations", "catalog", "GET", "/items/{id}", None),
    ("orders", "catalog", "GET", "/items/{id}", None),
    ("orders", "payments", "POST", "/charges", None),
    ("orders", "inventory", "POST", "/reservations", None),
    ("orders", "shipping", "POST", "/parcels", None),
    ("orders", "notifications", "POST", "/mails", None),
    ("shipping", "notifications", "POST", "/mails", None),
    ("payments", "ledger", "POST", "/entries", None),
    ("storefront", "inventory", "GET", "/sale/{item}", (-3, 4)),
    ("search", "inventory", "GET", "/stock/{item}", (-30, -2)),
    ("payments", "fraud-score", "POST", "/v1/scores", None),
    ("orders", "acme-analytics", "POST", "/v1/events", None),
    ("shipping", "parcel-tracker", "GET", "/v2/parcels/{id}", None),
    ("ledger", "tax-service", "POST", "/v1/rates", None),
    ("acme-analytics", "orders", "GET", "/reports/{name}", None),
    ("old-erp", "orders", "GET", "/reports/{name}", None),
)
#: who calls whom with what: calls in half a minute, what they usually take, and since how many hours ago
CALLS: Final = (
    ("gateway", "storefront", "GET", "/pages/home", 60, 9_000, 30),
    ("gateway", "orders", "GET", "/orders/1042", 12, 7_000, 30),
    ("storefront", "catalog", "GET", "/items/42", 90, 3_000, 30),
    ("storefront", "search", "GET", "/search", 25, 18_000, 30),
    ("storefront", "search", "GET", "/suggest", 6, 8_000, 3),
    ("storefront", "recommendations", "GET", "/for/77", 18, 25_000, 30),
    ("storefront", "orders", "POST", "/orders", 7, 40_000, 30),
    ("storefront", "orders", "DELETE", "/orders/1042", 1, 700, 2),
    ("storefront", "payments", "POST", "/charges", 2, 600, 1),
    ("storefront", "inventory", "GET", "/sale/42", 15, 4_000, 30),
    ("search", "catalog", "GET", "/items/7", 40, 2_500, 30),
    ("search", "inventory", "GET", "/stock/7", 4, 500, 30),
    ("recommendations", "catalog", "GET", "/items/9", 30, 2_600, 30),
    ("orders", "catalog", "GET", "/items/42", 14, 2_900, 30),
    ("orders", "payments", "POST", "/charges", 7, 60_000, 30),
    ("orders", "inventory", "POST", "/reservations", 7, 6_000, 30),
    ("orders", "shipping", "POST", "/parcels", 5, 11_000, 30),
    ("orders", "notifications", "POST", "/mails", 6, 3_000, 30),
    ("shipping", "notifications", "POST", "/mails", 5, 3_000, 30),
    ("payments", "ledger", "POST", "/entries", 7, 5_000, 30),
    ("payments", "ledger", "DELETE", "/entries/9", 1, 400, 5),
    ("payments", "fraud-score", "POST", "/v1/scores", 7, 90_000, 30),
    ("orders", "acme-analytics", "POST", "/v1/events", 9, 45_000, 30),
    ("shipping", "parcel-tracker", "GET", "/v2/parcels/5", 4, 120_000, 30),
    ("ledger", "tax-service", "POST", "/v1/rates", 1, 500, 2),
    ("acme-analytics", "orders", "GET", "/reports/daily", 2, 30_000, 30),
    ("old-erp", "orders", "GET", "/reports/daily", 1, 400, 30),
    ("spiffe://acme.example/intern", "orders", "GET", "/reports/daily", 1, 400, 1),
)
_RECENT_S: Final = 75 * 60
_MOST_FLOWS: Final = 2_000


def _day(days: int) -> str:
    """Give a date so many days from today: a set that is written twice on a day is the same."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (today + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _window(days: tuple[int, int] | None) -> str:
    return "" if days is None else f"\n  window: {{opens: {_day(days[0])}, closes: {_day(days[1])}}}"


def _head(kind: str, name: str, owner: str) -> str:
    return f"apiVersion: authz/v1\nkind: {kind}\nmetadata: {{name: {name}, owner: {owner}}}\nspec:\n"


def write_policies(folder: Path) -> None:
    """Write the shop's policies into an empty folder."""
    documents = [_head("Mesh", "shop", "platform") + "  trustDomains: [shop.example]\n  federates:\n"]
    for domain in ("acme.example", "old-erp.example"):
        documents[0] += f"    - {{trustDomain: {domain}, bundle: {domain}.pem}}\n"
    for name, (team, env) in SERVICES.items():
        mode = "\n  mode: observe" if name == "search" else ""
        documents.append(
            _head("Service", name, team)
            + f"  identities: [spiffe://shop.example/ns/shop/sa/{name}]\n"
            + f"  attributes: {{team: {team}, env: {env}}}{mode}\n"
        )
    for name, days in THIRD_PARTIES.items():
        domain = "acme.example" if name == "acme-analytics" else f"{name}.example"
        calls = f"\n  identities: [spiffe://{domain}/app]" if name in {"acme-analytics", "old-erp"} else ""
        documents.append(
            _head("ThirdParty", name, "partners")
            + f"  hosts: [api.{domain}]{calls}\n  attributes: {{contract: {name}}}{_window(days)}\n"
        )
    for source, target, method, path, days in RULES:
        to = "thirdParties" if target in THIRD_PARTIES else "services"
        by = "thirdParties" if source in THIRD_PARTIES else "services"
        documents.append(
            _head("MicroPolicy", f"{source}-{method.lower()}-{target}", SERVICES.get(source, ("partners", ""))[0])
            + f"  from: [{{{by}: [{source}]}}]\n  to:\n    - {to}: [{target}]\n"
            + f"      operations: [{{methods: [{method}], paths: ['{path}']}}]{_window(days)}\n"
        )
    documents.append(
        _head("Guardrail", "entries-are-never-deleted", "money")
        + "  to:\n    - services: [ledger]\n      operations: [{methods: [DELETE], paths: ['/{**}']}]\n"
    )
    (folder / "shop.yaml").write_text("---\n".join(documents))


def allow_refunds(folder: Path) -> None:
    """Change the policies: the storefront may charge, too."""
    rule = _head("MicroPolicy", "storefront-post-payments", "web") + (
        "  from: [{services: [storefront]}]\n  to:\n    - services: [payments]\n"
        "      operations: [{methods: [POST], paths: ['/charges']}]\n"
    )
    (folder / "refunds.yaml").write_text(rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Party:
    identity: str
    service: str | None
    third_party: str | None


class Shop:
    """What the sidecars of the shop ship, decided by the policies of a folder."""

    def __init__(self, folder: Path, seed: int = 8) -> None:
        policy_set = load_policy_folder(str(folder))
        self._index = compile_index(policy_set)
        self._directory = directory_of(policy_set)
        self._random = random.Random(seed)  # noqa: S311 the same every time
        self._sequences: dict[str, int] = {}
        self.revision = self._index.revision

    def day(self, until_s: int) -> Iterator[dict[str, Any]]:
        """Give the batches of the last thirty hours, the oldest first; the last hour in steps of half a minute."""
        until_s -= until_s % 10
        flows: dict[str, list[dict[str, Any]]] = {}
        records: dict[str, list[dict[str, Any]]] = {}
        for source, target, method, path, calls, usual_us, hours in CALLS:
            oldest_s = until_s - hours * 3600
            coarse = range(oldest_s - oldest_s % 1200, until_s - _RECENT_S, 1200)
            fine = range(max(oldest_s, until_s - _RECENT_S), until_s - 10, 30)
            for at_s in [*coarse, *fine]:
                # a coarse step stands for all of its half minutes; every refusal has a record
                decision = self._decided(source, target, method, path, at_s)
                usual = calls if at_s >= until_s - _RECENT_S or not decision.reason.allows else calls * 40
                many = max(0, round(self._random.gauss(usual, usual * 0.25)))
                if many == 0:
                    continue
                sidecar = source if target in THIRD_PARTIES else target
                flows.setdefault(sidecar, []).append(self._flow(decision, source, target, method, at_s, many, usual_us))
                if not decision.reason.allows:
                    kept = records.setdefault(sidecar, [])
                    kept += [
                        self.record(source, target, method, path, at_s + self._random.random()) for _ in range(many)
                    ]
        for sidecar, found in sorted(flows.items()):
            whole = records.get(sidecar, [])
            for start in range(0, max(len(found), len(whole)), _MOST_FLOWS):
                end = start + _MOST_FLOWS
                yield self.batch(sidecar, found[start:end], whole[start:end], until_s)

    def batch(
        self, sidecar: str, flows: list[dict[str, Any]], records: list[dict[str, Any]], sent_s: int
    ) -> dict[str, Any]:
        """Give the next batch of one sidecar."""
        self._sequences[sidecar] = self._sequences.get(sidecar, 0) + 1
        return {
            "sidecar": sidecar,
            "boot": "0badc0de0badc0de",
            "sequence": self._sequences[sidecar],
            "service": sidecar,
            "sent": rfc3339_from_ns(sent_s * NS_PER_S),
            "records": records,
            "flows": flows,
            "status": {
                "revision": self.revision,
                "svid_expires": rfc3339_from_ns((sent_s + (2400 if sidecar != "inventory" else 240)) * NS_PER_S),
                "spooled": 0,
                "lost": 12 if sidecar == "recommendations" else 0,
                "unjoined": 0,
                "dropped": 0,
                "failed_handshakes": 3 if sidecar == "orders" else 0,
                "ready": sidecar != "notifications",
            },
            "catalog": None,
        }

    def record(self, source: str, target: str, method: str, path: str, at_s: float) -> dict[str, Any]:
        """Give the record of a call at an instant."""
        decision = self._decided(source, target, method, path, at_s)
        caller = self._caller(source)
        return {
            "decision_id": f"{self._random.getrandbits(128):032x}",
            "request_id": f"{self._random.getrandbits(128):032x}",
            "time": rfc3339_from_ns(int(at_s * 1000) * NS_PER_MS),
            **self._ends(decision, source, target),
            "caller": {
                "identity": caller.identity,
                "service": caller.service,
                "third_party": caller.third_party,
                "presented_by": None,
                "address": f"10.4.{len(source)}.{self._random.randrange(1, 4)}:{self._random.randrange(32768, 61000)}",
            },
            "method": method,
            "route": decision.route,
            "path": None if decision.reason.allows else path,
            "valid_until": None,
            "tls": _tls(target),
            "check_us": self._random.randrange(20, 90),
            "status": 200 if decision.reason.allows else 403,
            "bytes_received": 0,
            "bytes_sent": 91,
            "duration_ms": 0.8,
            "cut": False,
        }

    def _decided(self, source: str, target: str, method: str, path: str, at_s: float) -> Decision:
        call = self._directory.call(AskedCall(caller=source, destination=target, method=method, path=path))
        return evaluate(self._index, call, int(at_s) * NS_PER_S)

    def _caller(self, source: str) -> _Party:
        if source in SERVICES:
            return _Party(identity=f"spiffe://shop.example/ns/shop/sa/{source}", service=source, third_party=None)
        if source in THIRD_PARTIES:
            domain = "acme.example" if source == "acme-analytics" else f"{source}.example"
            return _Party(identity=f"spiffe://{domain}/app", service=None, third_party=source)
        return _Party(identity=source, service=None, third_party=None)

    def _ends(self, decision: Decision, source: str, target: str) -> dict[str, Any]:
        outbound = target in THIRD_PARTIES
        shadow = decision.shadow
        return {
            "sidecar": source if outbound else target,
            "direction": "outbound" if outbound else "inbound",
            "destination": {
                "service": None if outbound else target,
                "third_party": target if outbound else None,
                "host": f"api.{target}.example" if outbound else target,
            },
            "protocol": "http/2" if outbound or len(source) % 2 else "http/1.1",
            "decision": decision.verdict.value,
            "reason": decision.reason.value,
            "policy": decision.policy,
            "shadow": None
            if shadow is None
            else {"decision": shadow.decision.value, "reason": shadow.reason.value, "policy": shadow.policy},
            "revision": decision.revision,
        }

    def _flow(
        self, decision: Decision, source: str, target: str, method: str, at_s: int, many: int, usual_us: int
    ) -> dict[str, Any]:
        caller = self._caller(source)
        buckets = [0] * 30
        left = many
        while left:
            alike = min(left, max(1, many // 60))
            taken_us = max(1, int(self._random.lognormvariate(0, 0.5) * usual_us))
            buckets[min(taken_us.bit_length() - 1, 29)] += alike
            left -= alike
        while not buckets[-1]:
            buckets.pop()
        return {
            "time": rfc3339_from_ns((at_s - at_s % 10) * NS_PER_S),
            "interval_s": 10,
            **self._ends(decision, source, target),
            "caller": {
                "identity": caller.identity,
                "service": caller.service,
                "third_party": caller.third_party,
                "presented_by": None,
                "address": None,
            },
            "method": method,
            "route": decision.route,
            "tls": _tls(target),
            "count": many,
            "cut": 0,
            "unreached": 0,
            "unjoined": 0,
            "statuses": {"200" if decision.reason.allows else "403": many},
            "bytes_received": many * self._random.randrange(200, 900),
            "bytes_sent": many * self._random.randrange(900, 9000) if decision.reason.allows else many * 91,
            "duration_us_log2": buckets,
            "check_us_sum": many * 40,
        }


def _tls(target: str) -> dict[str, str | None]:
    if target in THIRD_PARTIES:
        return {"version": None, "cipher": None, "peer_serial": None}
    return {"version": "TLSv1_3", "cipher": "TLS_AES_128_GCM_SHA256", "peer_serial": None}


def denied_flow(record: dict[str, Any], count: int = 1) -> dict[str, Any]:
    """Give the flow in which a refused call of a record is counted."""
    at_s = int(datetime.fromisoformat(record["time"]).timestamp())
    shared = ("sidecar", "direction", "destination", "method", "route", "protocol", "decision", "reason", "policy")
    return {
        **{name: record[name] for name in (*shared, "shadow", "revision")},
        "tls": {**record["tls"], "peer_serial": None},
        "caller": {**record["caller"], "address": None if record["caller"]["identity"] else "10.4.0.1"},
        "time": rfc3339_from_ns((at_s - at_s % 10) * NS_PER_S),
        "interval_s": 10,
        "count": count,
        "cut": 0,
        "unreached": 0,
        "unjoined": 0,
        "statuses": {"403": count},
        "bytes_received": 0,
        "bytes_sent": 91 * count,
        "duration_us_log2": [0] * 9 + [count],
        "check_us_sum": 40 * count,
    }


def now_s() -> int:
    return int(time.time())
