"""What each question of the API is answered: flows, records and policies put together.

Runs on threads that may wait for the store; nothing here belongs to an event loop.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.errors import AuthzError
from authz.hub.density import density
from authz.hub.errors import UnknownError
from authz.hub.map_comparison import compare
from authz.hub.query import Flows
from authz.hub.records_query import Records, time_of_ms
from authz.hub.span import Span
from authz.hub.store.store import SIDECAR_COLUMNS
from authz.hub.windows_query import WindowsQuery
from authz.insight.window_report import window_reports
from authz.instant import NS_PER_MS, NS_PER_S, rfc3339_from_ns
from authz.policy.explanation import explain, place_of
from authz.policy.explanation_json import answer, explanation_as_json
from authz.policy.policy_test import directory_of
from authz.policy.recorded_call import recorded_call_from_json
from authz.policy.schema import Kind, MicroPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from authz.hub import answers
    from authz.hub.intake import IntakeCounts
    from authz.hub.known_policies import Known, KnownPolicies
    from authz.hub.known_series import KnownSeries
    from authz.hub.store.store import Store
    from authz.insight.window_dates import WindowDates
    from authz.policy.schema import Guardrail

_SIDECARS: Final = f"SELECT {', '.join(SIDECAR_COLUMNS)} FROM sidecars ORDER BY sidecar"  # noqa: S608 our own names


@dataclass(frozen=True, slots=True)
class Answering:
    """Answers questions; the method for an operation has its name."""

    store: Store
    followed: KnownPolicies
    counts: IntakeCounts
    known: KnownSeries

    def answer(self, operation: str, values: Mapping[str, Any], now_ns: int) -> Any:
        """Answer one question with the values of its parameters; raises UnknownError or StoreError."""
        return getattr(self, operation)(values, now_ns)

    # --- the map -------------------------------------------------------------------------------------------------

    def edges(self, values: Mapping[str, Any], now_ns: int) -> answers.Edges:
        """Answer `GET /edges`."""
        since_ns, until_ns = _ends(values, now_ns)
        if values["at"] is not None:
            since_ns, until_ns = values["at"] - (until_ns - since_ns), values["at"]
        span = Span.around(since_ns, until_ns)
        flows, now_s = Flows(self.store, self.known), now_ns // NS_PER_S
        edges = flows.edges(span, now_s, values["service"])
        if values["compare"] is not None:
            ended_ns = values["compare"]
            before = flows.edges(Span.around(ended_ns - (until_ns - since_ns), ended_ns), now_s, values["service"])
            compare(edges, before)
        ordered = sorted(edges.values(), key=lambda each: (-each["calls"], each["from"], each["to"]))
        return {"since": _time(span.from_s), "until": _time(span.until_s), "edges": ordered}

    def edge(self, values: Mapping[str, Any], now_ns: int) -> answers.EdgeDetail:
        """Answer `GET /edges/{from}/{to}`."""
        span = Span.around(*_ends(values, now_ns))
        found = Flows(self.store).edge(span, now_ns // NS_PER_S, values["from"], values["to"])
        if found is None:
            raise _no_edge()
        return found

    def history(self, values: Mapping[str, Any], now_ns: int) -> answers.History:
        """Answer `GET /edges/{from}/{to}/history`."""
        span = Span.around(*_ends(values, now_ns))
        flows = Flows(self.store)
        if not flows.is_edge(values["from"], values["to"]):
            raise _no_edge()
        step_s, points = flows.history(span, now_ns // NS_PER_S, values["from"], values["to"], values["step"])
        return {"step_s": step_s, "since": _time(span.from_s), "until": _time(span.until_s), "points": points}

    def density(self, values: Mapping[str, Any], now_ns: int) -> answers.Density:
        """Answer `GET /history`."""
        return density(self.store, Span.around(*_ends(values, now_ns)), now_ns // NS_PER_S)

    # --- calls ---------------------------------------------------------------------------------------------------

    def calls(self, values: Mapping[str, Any], _now_ns: int) -> answers.CallPage:
        """Answer `GET /calls`."""
        names = ("decision", "reason", "from", "to", "policy")
        return Records(self.store).calls(
            {name: values[name] for name in names if values[name] is not None},
            _ms(values["since"]),
            _ms(values["until"]),
            values["limit"],
            values["cursor"],
        )

    def denials(self, values: Mapping[str, Any], now_ns: int) -> answers.Denials:
        """Answer `GET /denials`."""
        since_ns, until_ns = _ends(values, now_ns)
        since_ms, until_ms = since_ns // NS_PER_MS, -(-until_ns // NS_PER_MS)
        denials = Records(self.store).denials(values["group"], since_ms, until_ms)
        return {"since": time_of_ms(since_ms), "group": values["group"], "denials": denials}

    def decision(self, values: Mapping[str, Any], _now_ns: int) -> answers.DecisionRecord:
        """Answer `GET /decisions/{id}`."""
        cut = values["part"] == "cut"
        found = Records(self.store).decision(values["id"], cut=cut)
        if found is None:
            raise UnknownError(
                "id", "no record is kept of its having been cut" if cut else "no record of this decision is kept"
            )
        return found

    def explain(self, values: Mapping[str, Any], now_ns: int) -> dict[str, Any]:
        """Answer `GET /explain/{id}`."""
        record = self.decision(values, now_ns)
        known = self.followed.of_revision(record["revision"])
        if known is None:
            raise UnknownError("id", f"the policies of its revision {record['revision'][:12]} are not kept here")
        try:
            # The end of a call that was cut is explained by what a new call was told then.
            line = json.dumps({**record, "cut": False}).encode()
            recorded = recorded_call_from_json(line, (directory_of(known.policy_set),), now_ns)
        except AuthzError as error:
            raise UnknownError("id", f"its record tells too little of the call: {error}") from error
        if recorded is None:
            raise UnknownError("id", "nothing was decided: the handshake failed before there was a call")
        explanation = explain(known.policy_set, known.index, recorded.call, recorded.at_ns)
        told = {**answer(explanation.decision), **explanation_as_json(known.policy_set, explanation)}
        # The policy of such an end is the one that had allowed the call.
        kept: dict[str, object] = {"decision": record["decision"], "reason": record["reason"]}
        if not record["cut"]:
            kept["policy"] = record["policy"]
        differs = any(told[name] != value for name, value in kept.items())
        return {**told, "was_decided_differently": differs}

    # --- who and what there is -----------------------------------------------------------------------------------

    def services(self, _values: Mapping[str, Any], now_ns: int) -> answers.Services:
        """Answer `GET /services`."""
        flows = Flows(self.store)
        seen, identities = flows.parties(), flows.identities()
        sidecars = {each["service"]: each for each in self._sidecars(now_ns)}
        found: dict[str, answers.Service] = {}
        known = self.followed.now
        for name, (kind, first_s, last_s) in seen.items():
            found[name] = _service(name, kind, first_s, last_s)
            found[name]["identities"] = sorted(identities.get(name, ()))
        for name in sidecars:
            found.setdefault(name, _service(name, "service", None, None))
        if known is not None:
            _add_known(found, known, now_ns)
        for name, status in sidecars.items():
            found[name]["sidecar"] = status
        return {"services": [found[name] for name in sorted(found)]}

    def windows(self, _values: Mapping[str, Any], now_ns: int) -> answers.Windows:
        """Answer `GET /windows`."""
        known = self.followed.now
        windows = () if known is None else known.windows
        found: Any = [each.to_json() for each in window_reports(windows, WindowsQuery(self.store, windows), now_ns)]
        return {"windows": found}

    def policies(self, values: Mapping[str, Any], now_ns: int) -> answers.Policies:
        """Answer `GET /policies`."""
        span = Span.around(*_ends(values, now_ns))
        used = Flows(self.store).policy_use(span, now_ns // NS_PER_S)
        known = self.followed.now
        if known is None:
            return {"revision": None, "since": _time(span.from_s), "policies": []}
        stages = {(each.kind.value, each.name): each for each in known.windows}
        found: list[answers.Policy] = []
        for rule in _rules(known):
            kind = Kind.MICRO_POLICY if isinstance(rule, MicroPolicy) else Kind.GUARDRAIL
            calls, allowed, denied, last_s = used.get(rule.name, (0, 0, 0, None))
            dates = stages.get(("micro_policy", rule.name)) if kind is Kind.MICRO_POLICY else None
            found.append(
                {
                    "name": rule.name,
                    "kind": "MicroPolicy" if kind is Kind.MICRO_POLICY else "Guardrail",
                    "owner": rule.metadata.owner,
                    "mode": rule.mode.value,
                    "window": None if dates is None else _window(dates),
                    "state": None if dates is None else dates.stage(now_ns).value,
                    "place": place_of(known.policy_set, kind, rule.name),
                    "calls": calls,
                    "allowed": allowed,
                    "denied": denied,
                    "last_used": None if last_s is None else _time(last_s),
                }
            )
        return {"revision": known.revision, "since": _time(span.from_s), "policies": found}

    def usage(self, values: Mapping[str, Any], now_ns: int) -> answers.PolicyUsage:
        """Answer `GET /policies/{name}/usage`."""
        span = Span.around(*_ends(values, now_ns))
        flows = Flows(self.store)
        edges = flows.edges_of_policy(span, now_ns // NS_PER_S, values["name"])
        known = self.followed.now
        is_known = known is not None and any(each.name == values["name"] for each in _rules(known))
        if not edges and not is_known and not flows.is_policy(values["name"]):
            raise UnknownError("name", "there is no such rule, and none has decided anything")
        used = [each["last_used"] for each in edges if each["last_used"] is not None]
        return {
            "name": values["name"],
            "since": _time(span.from_s),
            "until": _time(span.until_s),
            "calls": sum(each["calls"] for each in edges),
            "allowed": sum(each["allowed"] for each in edges),
            "denied": sum(each["denied"] for each in edges),
            "last_used": max(used, default=None),
            "edges": edges,
        }

    def revisions(self, _values: Mapping[str, Any], _now_ns: int) -> answers.Revisions:
        """Answer `GET /revisions`."""
        rows = self.store.rows(
            "SELECT revision, sidecar, first_ms, last_ms FROM revisions ORDER BY first_ms, sidecar", {}
        )
        sidecars: dict[str, list[tuple[str, int, int]]] = {}
        for revision, sidecar, first_ms, last_ms in rows:
            sidecars.setdefault(revision, []).append((sidecar, first_ms, last_ms))
        kept = {each.revision: each for each in self.followed.history}
        in_force = self.followed.now
        ordered: list[tuple[int, answers.Revision]] = []
        for revision in sidecars.keys() | kept.keys():
            entry, used = kept.get(revision), sidecars.get(revision, [])
            first_ms = min([each[1] for each in used] + ([] if entry is None else [entry.first_ms]))
            last_ms = max([each[2] for each in used] + ([] if entry is None else [entry.first_ms]))
            ordered.append(
                (
                    first_ms,
                    {
                        "revision": revision,
                        "previous": None if entry is None else entry.previous,
                        "in_force": in_force is not None and in_force.revision == revision,
                        "first_seen": time_of_ms(first_ms),
                        "last_seen": time_of_ms(last_ms),
                        "sidecars": [
                            {"sidecar": name, "first_seen": time_of_ms(first), "last_seen": time_of_ms(last)}
                            for name, first, last in used
                        ],
                        "differences": None if entry is None else entry.differences,
                        "notes": None if entry is None else entry.notes,
                    },
                )
            )
        ordered.sort(key=lambda each: (-each[0], each[1]["revision"]))
        return {"revisions": [each for _, each in ordered]}

    def status(self, _values: Mapping[str, Any], now_ns: int) -> answers.Status:
        """Answer `GET /status`."""
        facts, counts, followed = self.store.facts(), self.counts, self.followed
        policies: answers.PoliciesStatus | None = None
        if followed.folder is not None:
            policies = {
                "revision": None if followed.now is None else followed.now.revision,
                "stale": bool(followed.faults),
                "faults": list(followed.faults),
            }
        return {
            "time": rfc3339_from_ns(now_ns),
            "sidecars": self._sidecars(now_ns),
            "store": {
                "kind": facts.kind,
                "size_bytes": facts.size_bytes,
                "records": facts.records,
                "series": facts.series,
                "oldest": None if facts.oldest_s is None else _time(facts.oldest_s),
                "batches": counts.batches,
                "duplicates": counts.duplicates,
                "refused": counts.refused,
                "ahead": counts.ahead,
                "too_old": counts.too_old,
                "foreign": counts.foreign,
            },
            "policies": policies,
        }

    def _sidecars(self, now_ns: int) -> list[answers.SidecarStatus]:
        found: list[answers.SidecarStatus] = []
        for row in self.store.rows(_SIDECARS, {}):
            each = dict(zip(SIDECAR_COLUMNS, row, strict=True))
            expires_ms = each["svid_expires_ms"]
            found.append(
                {
                    "name": each["sidecar"],
                    "service": each["service"],
                    "revision": each["revision"],
                    "lag_s": max(0.0, round((now_ns // NS_PER_MS - each["sent_ms"]) / 1000, 3)),
                    "last_seen": time_of_ms(each["received_ms"]),
                    "svid_expires": None if expires_ms is None else time_of_ms(expires_ms),
                    "ready": bool(each["ready"]),
                    "spooled": each["spooled"],
                    "lost": each["lost"],
                    "unjoined": each["unjoined"],
                    "dropped": each["dropped"],
                    "failed_handshakes": each["failed_handshakes"],
                }
            )
        return found


def _ends(values: Mapping[str, Any], now_ns: int) -> tuple[int, int]:
    """Give the ends of the span that the parameters say: one that would begin after now is empty."""
    until_ns: int = now_ns if values["until"] is None else values["until"]
    return min(values["since"], until_ns), until_ns


def _service(name: str, kind: Any, first_s: int | None, last_s: int | None) -> answers.Service:
    return {
        "name": name,
        "kind": kind,
        "identities": [],
        "attributes": {},
        "window": None,
        "state": None,
        "mode": None,
        "sidecar": None,
        "first_seen": None if first_s is None else _time(first_s),
        "last_seen": None if last_s is None else _time(last_s),
    }


def _add_known(found: dict[str, answers.Service], known: Known, now_ns: int) -> None:
    """Add what the policies say of Services and ThirdParties."""
    default = known.policy_set.mesh.defaults.mode
    for service in known.policy_set.services:
        entry = found.setdefault(service.name, _service(service.name, "service", None, None))
        entry["kind"] = "service"
        entry["identities"] = [str(each) for each in service.identities]
        entry["attributes"] = dict(service.attributes)
        entry["mode"] = (service.mode or default).value
    dates = {each.name: each for each in known.windows if each.kind.value == "third_party"}
    for party in known.policy_set.third_parties:
        entry = found.setdefault(party.name, _service(party.name, "third_party", None, None))
        entry["kind"] = "third_party"
        entry["identities"] = [str(each) for each in party.identities]
        entry["attributes"] = dict(party.attributes)
        window = dates.get(party.name)
        if window is not None:
            entry["window"] = _window(window)
            entry["state"] = window.stage(now_ns).value


def _rules(known: Known) -> Iterator[MicroPolicy | Guardrail]:
    yield from known.policy_set.micro_policies
    yield from known.policy_set.guardrails


def _window(dates: WindowDates) -> answers.Window:
    return {
        "opens": None if dates.opens_ns is None else rfc3339_from_ns(dates.opens_ns),
        "closes": None if dates.closes_ns is None else rfc3339_from_ns(dates.closes_ns),
    }


def _no_edge() -> UnknownError:
    return UnknownError("from", "no call from there to `to` was ever seen")


def _ms(instant_ns: int | None) -> int | None:
    return None if instant_ns is None else instant_ns // NS_PER_MS


def _time(seconds: int) -> str:
    return rfc3339_from_ns(seconds * NS_PER_S)
