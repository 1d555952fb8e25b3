"""What the Guardrails, the windows and the rules say of a call, in words: steps 4 to 8 of the language, one by one.

Reads what the index finds for the call, as an answer does. What is in observe mode takes no part, and is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.decision import Reason
from authz.policy.compared_rule import condition_in_words
from authz.policy.errors import quoted
from authz.policy.evaluation import is_closed_tunnel
from authz.policy.ruling import takes_out
from authz.policy.schema import Kind
from authz.policy.window import HORIZON_NS, WindowState
from authz.policy.window_words import duration, window_in_words
from authz.request import Direction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from authz.policy.compared_rule import KnownCall
    from authz.policy.condition import CallFacts
    from authz.policy.index import PolicyIndex
    from authz.policy.party import Guard, Party, Rule
    from authz.policy.policy_set import PolicySet
    from authz.policy.window import Window
    from authz.request import Call

#: So many of the rules that matched are told by name.
MAX_MATCHED: Final = 10
_REASON_OF_STATE: Final = {
    WindowState.NOT_YET_OPEN: Reason.NOT_YET_OPEN,
    WindowState.OUTSIDE_HOURS: Reason.OUTSIDE_HOURS,
    WindowState.CLOSED: Reason.CLOSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the language (by its number there), what it found, and the answer that it came to, if it did."""

    number: int
    name: str
    found: str
    reason: Reason | None = None
    policy: str | None = None


class ExplainedRuling:
    """Steps 4 to 8 over one call between known parties, with the modes as written or all of them `enforce`.

    `judged` is the call as its caller's; and, behind it, as that of the caller's presenter, if it has one.
    """

    def __init__(
        self,
        policy_set: PolicySet,
        index: PolicyIndex,
        call: Call,
        judged: Sequence[KnownCall],
        destination: Party,
        *,
        now_ns: int,
        every_mode_enforced: bool,
    ) -> None:
        self._set = policy_set
        self._now_ns = now_ns
        self._destination = destination
        known = judged[0]
        self._facts = known.facts
        self._every_mode_enforced = every_mode_enforced
        self._observed = destination.observed and not every_mode_enforced
        owner = _owner(index, call, known)
        self._tunnel = closed_tunnel_in_words(call, owner, destination)
        self._tls = call.tls if call.direction is Direction.INBOUND else destination.tls
        self._parties = [party for party in (owner, destination) if party is not None and not party.is_service]
        units = index.units(known.caller, owner)
        segments = list(known.segments)
        #: the facts by which a Guardrail is judged: those of the caller or, where it is about that, of the presenter
        self._judged_by: dict[str, CallFacts] = {}
        meant: dict[str, Guard] = {}
        for each in judged:
            whose = index.units(each.caller, _owner(index, call, each))
            for guard in index.guards(whose, destination, call.method, segments):
                meant[guard.name] = guard
                if guard.name not in self._judged_by or guard.matches(each.facts):
                    self._judged_by[guard.name] = each.facts
        #: what matches the call, whatever the time; of those that have conditions, those whose conditions hold
        guards = [meant[name] for name in sorted(meant)]
        self._guards = [guard for guard in guards if guard.matches(self._judged_by[guard.name])]
        self._guards_left_out = [guard for guard in guards if guard not in self._guards]
        entries = index.matching_entries(units, destination, call.method, segments, is_grpc=known.is_grpc)
        rules = {entry.rule.name: entry.rule for entry in entries}
        self._rules = [rules[name] for name in sorted(rules) if rules[name].matches(known.facts)]
        self._rules_left_out = [rules[name] for name in sorted(rules) if not rules[name].matches(known.facts)]

    def steps(self) -> Iterator[Step]:
        """Take the steps until one of them answers."""
        takes: tuple[Callable[[], Step], ...] = (
            self._forbidden,
            self._commission,
            self._allowed,
            self._windows,
            self._otherwise,
        )
        for take in takes:
            step = take()
            yield step
            if step.reason is not None:
                return

    # --- step 4

    def _forbidden(self) -> Step:
        told = []
        for guard in self._guards:
            name = f"{quoted(guard.name)} ({self._where(Kind.GUARDRAIL, guard.name)})"
            forbids = guard.forbids(self._tls)
            if forbids and self._takes_part(guard) and guard.window.is_open(self._now_ns):
                found = f"{name} forbids it{self._why_forbidden(guard)}"
                return Step(number=4, name="guardrails", found=found, reason=Reason.GUARDRAIL, policy=guard.name)
            told.append(f"{name} {self._why_not_forbidden(guard, forbids=forbids)}{self._unanswered(guard)}")
        told += [
            f"{quoted(guard.name)} does not match: {self._failed(guard, self._judged_by[guard.name])}"
            for guard in self._guards_left_out
        ]
        return Step(number=4, name="guardrails", found="; ".join(told[:MAX_MATCHED]) or "no Guardrail matches")

    def _why_forbidden(self, guard: Guard) -> str:
        required = "" if guard.tls is None else f": it requires {guard.tls}, and the call has {self._tls or 'none'}"
        window = "" if guard.window.always else f"; its window is {window_in_words(guard.window, self._now_ns)}"
        return required + self._unanswered(guard) + window

    def _unanswered(self, guard: Guard) -> str:
        """Say why a Guardrail matches of which a condition does not hold: one of them has no answer."""
        failed = self._failed(guard, self._judged_by[guard.name])
        return f"; it matches, because a condition has no answer: {failed}" if failed else ""

    @staticmethod
    def _failed(rule: Rule, facts: CallFacts) -> str:
        words = (condition_in_words(each, facts) for each in rule.conditions)
        return ", ".join(each for each in words if each is not None)

    def _why_not_forbidden(self, guard: Guard, *, forbids: bool) -> str:
        if not self._takes_part(guard):
            return "is in observe mode: what it would forbid is only recorded"
        if forbids:
            return f"would forbid it, and its window: {window_in_words(guard.window, self._now_ns)}"
        if guard.max_window_ns is None:
            return f"requires {guard.tls}, and the call has {self._tls}"
        return f"limits windows to {duration(guard.max_window_ns)} (step 6)"

    # --- step 5

    def _commission(self) -> Step:
        texts = []
        for party in self._parties:
            text = f"the window of the ThirdParty {quoted(party.name)}: {window_in_words(party.window, self._now_ns)}"
            state = party.window.state(self._now_ns)
            if state is not WindowState.OPEN:
                reason = Reason.NOT_COMMISSIONED if state is WindowState.NOT_YET_OPEN else Reason.DECOMMISSIONED
                return Step(number=5, name="third party", found=text, reason=reason, policy=party.name)
            texts.append(text)
        return Step(number=5, name="third party", found="; ".join(texts) or "no ThirdParty takes part")

    # --- step 6

    def _takes_part(self, rule: Rule) -> bool:
        return rule.enforced or self._every_mode_enforced

    @property
    def _enforced(self) -> list[Rule]:
        return [rule for rule in self._rules if self._takes_part(rule)]

    def _limiting(self, rule: Rule) -> list[Guard]:
        """Give the open Guardrails that take a rule out, because of how long its window is."""
        return [
            guard
            for guard in self._guards
            if self._takes_part(guard) and guard.window.is_open(self._now_ns) and takes_out(guard, rule, self._parties)
        ]

    def _allowed(self) -> Step:
        if self._tunnel is not None:
            return Step(number=6, name="rules", found=f"no rule opens the tunnel: {self._tunnel}")
        free = [rule for rule in self._enforced if not self._limiting(rule)]
        open_ = [rule for rule in free if rule.window.is_open(self._now_ns)]
        if open_:
            found = f"{self._rule(open_[0])} matches, and is {self._state(open_[0])}"
            others = len(open_) - 1
            if others:
                found += f"; so {'does 1 other' if others == 1 else f'do {others} others'}, of larger names"
            return Step(number=6, name="rules", found=found, reason=Reason.ALLOWED, policy=open_[0].name)
        limited = {
            rule.name: self._limiting(rule)
            for rule in self._enforced
            if self._limiting(rule) and rule.window.is_open(self._now_ns)
        }
        if limited:
            guard = min((guard for guards in limited.values() for guard in guards), key=lambda each: each.name)
            rule = next(rule for rule in self._enforced if guard in limited.get(rule.name, ()))
            return Step(
                number=6,
                name="rules",
                found=f"{self._rule(rule)} matches, and is open; {self._taken_out(guard)}",
                reason=Reason.GUARDRAIL,
                policy=guard.name,
            )
        return Step(number=6, name="rules", found=self._none_open(free))

    def _none_open(self, free: Sequence[Rule]) -> str:
        count = len(free)
        found = "no MicroPolicy matches" if not count else f"{count} MicroPolic{'y' if count == 1 else 'ies'} match"
        found += "es, and none is open" if count == 1 else ", and none is open" if count else ""
        taken_out = len(self._enforced) - count
        if taken_out:
            found += f"; Guardrails take out {taken_out}, whose windows are too long"
        observing = [rule for rule in self._rules if not self._takes_part(rule)]
        if observing:
            names = ", ".join(quoted(rule.name) for rule in observing[:MAX_MATCHED])
            found += f"; only recorded, in observe mode: {names}"
        for rule in self._rules_left_out[:MAX_MATCHED]:
            found += f"; {quoted(rule.name)} does not match: {self._failed(rule, self._facts)}"
        return found

    def _taken_out(self, guard: Guard) -> str:
        limit = duration(guard.max_window_ns or 0)
        place = self._where(Kind.GUARDRAIL, guard.name)
        return (
            f"{quoted(guard.name)} ({place}) takes it out: its window has no end on a side, or is longer than {limit}"
        )

    # --- steps 7 and 8

    def _windows(self) -> Step:
        free = [] if self._tunnel is not None else [rule for rule in self._enforced if not self._limiting(rule)]
        if not free:
            return Step(number=7, name="windows", found="there is no window to wait for")
        first = min(free, key=lambda rule: (*_distance(rule.window, self._now_ns), rule.name))
        shown = [first, *(rule for rule in free if rule is not first)][:MAX_MATCHED]
        found = "; ".join(f"{self._rule(rule)} {self._state(rule)}" for rule in shown)
        if len(free) > len(shown):
            found += f"; and {len(free) - len(shown)} more"
        if self._observed:
            return Step(number=7, name="windows", found=found)
        reason = _REASON_OF_STATE[first.window.state(self._now_ns)]
        return Step(number=7, name="windows", found=found, reason=reason, policy=first.name)

    def _otherwise(self) -> Step:
        if self._observed and self._tunnel is None:
            found = f"{quoted(self._destination.name)} is in observe mode: what no MicroPolicy allows goes on"
            return Step(number=8, name="otherwise", found=found, reason=Reason.OBSERVED)
        found = "what no MicroPolicy allows is denied"
        return Step(number=8, name="otherwise", found=found, reason=Reason.NO_POLICY)

    # --- words

    def _rule(self, rule: Rule) -> str:
        return f"{quoted(rule.name)} ({self._where(Kind.MICRO_POLICY, rule.name)})"

    def _state(self, rule: Rule) -> str:
        return "always open" if rule.window.always else window_in_words(rule.window, self._now_ns)

    def _where(self, kind: Kind, name: str) -> str:
        document = self._set.documents[kind, name]
        return f"{document.path}:{document.root.line}"


def _owner(index: PolicyIndex, call: Call, known: KnownCall) -> Party | None:
    return index.certified(call.third_party) if known.caller is None else index.owner(known.caller)


def closed_tunnel_in_words(call: Call, caller: Party | None, destination: Party) -> str | None:
    """Say why a tunnel is not the caller's to open; None where it is."""
    if not is_closed_tunnel(call, caller, destination):
        return None
    if destination.is_service:
        return f"{quoted(destination.name)} is a Service, and tunnels lead to ThirdParties only"
    if caller is None or not caller.is_service:
        return "only Services open tunnels, by their `egress.connect`"
    return f"{quoted(call.host)} is not in `egress.connect` of {quoted(caller.name)}, which names each `host:port`"


def _distance(window: Window, now_ns: int) -> tuple[int, int]:
    """Order windows that are not open, as step 7 does."""
    opening_ns = window.next_opening_ns(now_ns)
    if opening_ns is not None and opening_ns <= now_ns + HORIZON_NS:
        return 0, opening_ns
    if window.opens_ns is not None and window.opens_ns > now_ns:
        return 1, window.opens_ns
    return (2, 0) if window.closes_ns is None else (3, -window.closes_ns)
