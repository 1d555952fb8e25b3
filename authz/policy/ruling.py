"""What the rules that match a call say of it at an instant: steps 4 to 8 of the policy language, in their order.

Who calls whom, and what of the set matches the call, is found before; until when the ruling holds, after (`deadline`).
The default is deny: what no step allows is `no_policy`.

# INVARIANT (total): there is a ruling at every instant; nothing raises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from authz.decision import Reason
from authz.policy.window import HORIZON_NS, WindowState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from authz.policy.party import Guard, Party, Rule
    from authz.policy.window import Window

_REASON_OF_STATE: Final = {
    WindowState.NOT_YET_OPEN: Reason.NOT_YET_OPEN,
    WindowState.OUTSIDE_HOURS: Reason.OUTSIDE_HOURS,
    WindowState.CLOSED: Reason.CLOSED,
}


@dataclass(slots=True)
class Matched:
    """What of a set matches a call, whatever the time; made for one call and never changed."""

    #: the ThirdParties that take part in the call
    parties: Sequence[Party]
    #: the MicroPolicies
    rules: Sequence[Rule]
    #: the Guardrails that forbid the call whenever they are open
    forbidding: Sequence[Guard]
    #: the Guardrails that limit how long what allows the call may be open
    limiting: Sequence[Guard]
    #: whether the call goes on where no rule allows it
    observed: bool
    #: whether it is an opaque tunnel that the caller may not open, whatever allows it
    closed_tunnel: bool

    @property
    def observes_something(self) -> bool:
        """Whether the call, or something that matches it, is in observe mode."""
        return self.observed or not all(
            each.enforced for rules in (self.rules, self.forbidding, self.limiting) for each in rules
        )

    def without_observers(self) -> Matched:
        """Give what is left when what is in observe mode takes no part."""
        return Matched(
            parties=self.parties,
            rules=[rule for rule in self.rules if rule.enforced],
            forbidding=[guard for guard in self.forbidding if guard.enforced],
            limiting=[guard for guard in self.limiting if guard.enforced],
            observed=self.observed,
            closed_tunnel=self.closed_tunnel,
        )

    def with_every_mode_enforced(self) -> Matched:
        """Give the same as if nothing was in observe mode."""
        return replace(self, observed=False)


class Ruling(NamedTuple):
    """A reason, the name of the policy that it comes from, and the rule where it is one."""

    reason: Reason
    policy: str | None
    rule: Rule | None = None


NO_POLICY: Final = Ruling(Reason.NO_POLICY, None)
OBSERVED: Final = Ruling(Reason.OBSERVED, None)
#: Python 3.11 runs code of its own for each member that is read from an Enum; this one is read for every call.
_ALLOWED: Final = Reason.ALLOWED


def ruling_at(matched: Matched, now_ns: int) -> Ruling:
    """Give the ruling of steps 4 to 8 at an instant."""
    if matched.forbidding or matched.parties:
        ruling = _forbidden(matched, now_ns) or _outside_commission(matched, now_ns)
        if ruling is not None:
            return ruling
    if matched.closed_tunnel:  # no rule is about it, and observe mode does not open it
        return NO_POLICY
    rules = matched.rules
    limiting = matched.limiting
    if limiting:
        limiting = [guard for guard in limiting if guard.window.is_open(now_ns)]
        rules = [rule for rule in rules if not any(takes_out(guard, rule, matched.parties) for guard in limiting)]
    ruling = _allowed(rules, now_ns)
    if ruling is None and limiting:
        ruling = _limited(matched, limiting, now_ns)
    if ruling is None:
        # A deny of step 7 or 8, and of no other, is only recorded where that is the mode.
        ruling = OBSERVED if matched.observed else _not_open(rules, now_ns) or NO_POLICY
    return ruling


def _forbidden(matched: Matched, now_ns: int) -> Ruling | None:
    """Step 4: a Guardrail forbids the call, whatever allows it."""
    names = [guard.name for guard in matched.forbidding if guard.window.is_open(now_ns)]
    return Ruling(Reason.GUARDRAIL, min(names)) if names else None


def _outside_commission(matched: Matched, now_ns: int) -> Ruling | None:
    """Step 5: the call's ThirdParty is before or after its window."""
    for party in matched.parties:
        match party.window.state(now_ns):
            case WindowState.NOT_YET_OPEN:
                return Ruling(Reason.NOT_COMMISSIONED, party.name)
            case WindowState.CLOSED | WindowState.OUTSIDE_HOURS:
                return Ruling(Reason.DECOMMISSIONED, party.name)
            case WindowState.OPEN:
                pass
    return None


def takes_out(guard: Guard, rule: Rule, parties: Iterable[Party]) -> bool:
    """Whether a rule's window, cut by those of the ThirdParties, has no end on a side or is longer than is allowed."""
    if guard.max_window_ns is None:
        return False
    opens_ns, closes_ns = rule.window.opens_ns, rule.window.closes_ns
    for party in parties:
        cut = party.window
        if cut.opens_ns is not None and (opens_ns is None or cut.opens_ns > opens_ns):
            opens_ns = cut.opens_ns
        if cut.closes_ns is not None and (closes_ns is None or cut.closes_ns < closes_ns):
            closes_ns = cut.closes_ns
    return opens_ns is None or closes_ns is None or closes_ns - opens_ns > guard.max_window_ns


def _allowed(rules: Iterable[Rule], now_ns: int) -> Ruling | None:
    """Step 6: a MicroPolicy that is not taken out is open."""
    first: Rule | None = None
    for rule in rules:
        if (first is None or rule.name < first.name) and rule.window.is_open(now_ns):
            first = rule
    return None if first is None else Ruling(_ALLOWED, first.name, first)


def _limited(matched: Matched, limiting: Sequence[Guard], now_ns: int) -> Ruling | None:
    """Step 6: a MicroPolicy that Guardrails take out is open."""
    rules = [rule for rule in matched.rules if rule.window.is_open(now_ns)]
    names = [guard.name for guard in limiting if any(takes_out(guard, rule, matched.parties) for rule in rules)]
    return Ruling(Reason.GUARDRAIL, min(names)) if names else None


def _not_open(rules: Iterable[Rule], now_ns: int) -> Ruling | None:
    """Step 7: MicroPolicies match, and none is open; the one that is, or was, nearest to it says why."""
    rule = min(rules, key=lambda each: (*_distance(each.window, now_ns), each.name), default=None)
    return None if rule is None else Ruling(_REASON_OF_STATE[rule.window.state(now_ns)], rule.name, rule)


def _distance(window: Window, now_ns: int) -> tuple[int, int]:
    """Order windows that are not open.

    First the one open again soonest within 366 days, else the one with the earliest later `opens`, else the one with
    the latest `closes`, where none counts as latest.
    """
    opening_ns = window.next_opening_ns(now_ns)
    if opening_ns is not None and opening_ns <= now_ns + HORIZON_NS:
        return 0, opening_ns
    if window.opens_ns is not None and window.opens_ns > now_ns:
        return 1, window.opens_ns
    if window.closes_ns is None:
        return 2, 0
    return 3, -window.closes_ns
