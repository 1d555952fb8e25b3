"""Until when an answer holds: the first later instant at which the same call gets the other verdict.

The call is allowed at an instant where its ThirdParties' windows and the window of at least one matching rule are
open. This module knows only those windows.

# INVARIANT (exact): one nanosecond before the instant given the verdict is still the same, at it it is the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.policy.window import HORIZON_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.policy.window import Window


def allowed_until_ns(rules: Sequence[Window], parties: Sequence[Window], now_ns: int) -> int | None:
    """Give the end of an allow: some rule and all parties are open at `now_ns`. None if none within the horizon."""
    ends_ns = [end_ns for party in parties if (end_ns := party.open_until_ns(now_ns)) is not None]
    rules_end_ns = _covered_until_ns(rules, now_ns)
    if rules_end_ns is not None:
        ends_ns.append(rules_end_ns)
    return _within_horizon(min(ends_ns, default=None), now_ns)


def _covered_until_ns(rules: Sequence[Window], now_ns: int) -> int | None:
    """Give the first instant after `now_ns`, at which some rule is open, at which none is."""
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
