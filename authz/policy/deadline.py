"""Until when an answer holds: the first later instant at which the same call gets the other verdict.

A call is allowed at an instant where no Guardrail that forbids it is open, its ThirdParties' windows are, and so is
that of at least one matching rule that no open Guardrail takes out. This module knows only these windows.

# INVARIANT (exact): one nanosecond before the instant given the verdict is still the same, at it it is the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.policy.ruling import takes_out
from authz.policy.timeline import AnyOf, Not, Open, all_of
from authz.policy.window import ALWAYS, HORIZON_NS, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.policy.ruling import Matched
    from authz.policy.timeline import Timeline
    from authz.policy.window import Window


def valid_until_ns(matched: Matched, now_ns: int, *, allowed: bool) -> int | None:
    """Give the first instant after `now_ns`, within 366 days, at which the call gets the other verdict."""
    if matched.closed_tunnel:
        return None
    if matched.limiting or matched.observed or (matched.forbidding and not allowed):
        return _guarded_until_ns(matched, now_ns, allowed=allowed)
    end_ns = _unguarded_until_ns(matched, now_ns, allowed=allowed)
    for guard in matched.forbidding:
        opening_ns = guard.window.next_opening_ns(now_ns)
        if opening_ns is not None and (end_ns is None or opening_ns < end_ns):
            end_ns = opening_ns
    return _within_horizon(end_ns, now_ns)


def _unguarded_until_ns(matched: Matched, now_ns: int, *, allowed: bool) -> int | None:
    """Give the same where neither Guardrails nor observe mode have a say."""
    if not matched.parties:
        if not matched.rules:
            return None
        if allowed and len(matched.rules) == 1:
            return allowed_by_one_until_ns(matched.rules[0].window, now_ns)
    rules = [rule.window for rule in matched.rules]
    parties = [party.window for party in matched.parties]
    return (allowed_until_ns if allowed else denied_until_ns)(rules, parties, now_ns)


def allowed_by_one_until_ns(window: Window, now_ns: int) -> int | None:
    """Give the end of an allow by one rule, open now, that nothing else has a say in: the usual case."""
    end_ns = window.open_until_ns(now_ns)
    if end_ns is None or end_ns > now_ns + HORIZON_NS:
        return None
    # Without hours the end is the window's own; with them, a span may follow on another.
    return end_ns if window.hours is None and window.spans is None else allowed_until_ns([window], (), now_ns)


def _guarded_until_ns(matched: Matched, now_ns: int, *, allowed: bool) -> int | None:
    """Give the same where Guardrails or observe mode have a say."""
    parties = [party.window for party in matched.parties]
    forbidding = [guard.window for guard in matched.forbidding]
    if any(window.always for window in forbidding):
        return None
    free, limited, taken_out = _by_guards(matched)
    if matched.observed and not taken_out:
        free, limited = [ALWAYS], []
    if not limited and not forbidding and not (matched.observed and taken_out):
        # The usual case is answered without looking at all windows together.
        return (allowed_until_ns if allowed else denied_until_ns)(free, parties, now_ns)
    allowing = [*limited, *(Open(window) for window in joined(free, now_ns))]
    if matched.observed:  # whatever nobody allows goes on; only what a Guardrail takes out does not
        allowing.append(Not(AnyOf(taken_out)))
    call = all_of(
        [
            *(Open(window) for window in parties),
            *(Not(Open(window)) for window in forbidding),
            AnyOf(allowing),
        ]
    )
    return _within_horizon(call.change_ns(now_ns, now_ns + HORIZON_NS), now_ns)


def _by_guards(matched: Matched) -> tuple[list[Window], list[Timeline], list[Timeline]]:
    """Give the windows of the rules that no Guardrail takes out, when others allow, and when others are taken out."""
    if not matched.limiting:
        return [rule.window for rule in matched.rules], [], []
    free: list[Window] = []
    allowing: list[Timeline] = []
    taken_out: list[Timeline] = []
    for rule in matched.rules:
        guards = [guard.window for guard in matched.limiting if takes_out(guard, rule, matched.parties)]
        if not guards:
            free.append(rule.window)
        elif any(window.always for window in guards):
            taken_out.append(Open(rule.window))
        else:
            limited = AnyOf([Open(window) for window in guards])
            allowing.append(all_of([Open(rule.window), Not(limited)]))
            taken_out.append(all_of([Open(rule.window), limited]))
    return free, allowing, taken_out


def allowed_until_ns(rules: Sequence[Window], parties: Sequence[Window], now_ns: int) -> int | None:
    """Give the end of an allow: some rule and all parties are open at `now_ns`. None if none within the horizon."""
    ends_ns = [end_ns for party in parties if (end_ns := party.open_until_ns(now_ns)) is not None]
    rules_end_ns = _covered_until_ns(rules, now_ns)
    if rules_end_ns is not None:
        ends_ns.append(rules_end_ns)
    return _within_horizon(min(ends_ns, default=None), now_ns)


def _covered_until_ns(rules: Sequence[Window], now_ns: int) -> int | None:
    """Give the first instant after `now_ns`, at which some rule is open, at which none is."""
    if len(rules) > 1:
        rules = joined(rules, now_ns)
    at_ns = now_ns
    while at_ns <= now_ns + HORIZON_NS:
        latest_ns: int | None = None
        for rule in rules:
            if rule.is_open(at_ns):
                end_ns = rule.open_until_ns(at_ns)
                if end_ns is None:
                    return None
                latest_ns = end_ns if latest_ns is None else max(latest_ns, end_ns)
        if latest_ns is None:
            return at_ns
        at_ns = latest_ns
    return None


def denied_until_ns(rules: Sequence[Window], parties: Sequence[Window], now_ns: int) -> int | None:
    """Give the first instant after `now_ns`, a denied one, at which some rule and all parties are open."""
    openings_ns = (_first_common_ns((rule, *parties), now_ns + 1) for rule in rules)
    return _within_horizon(min((each for each in openings_ns if each is not None), default=None), now_ns)


def _first_common_ns(windows: Sequence[Window], from_ns: int) -> int | None:
    """Give the first instant at or after `from_ns` at which every window is open."""
    at_ns = from_ns
    limit_ns = from_ns + HORIZON_NS
    while at_ns <= limit_ns:
        latest_ns = at_ns
        for window in windows:
            opening_ns = window.next_opening_ns(at_ns)
            if opening_ns is None:
                return None
            latest_ns = max(latest_ns, opening_ns)
        if latest_ns == at_ns:
            return at_ns
        at_ns = latest_ns
    return None


def _within_horizon(instant_ns: int | None, now_ns: int) -> int | None:
    return instant_ns if instant_ns is not None and instant_ns <= now_ns + HORIZON_NS else None
