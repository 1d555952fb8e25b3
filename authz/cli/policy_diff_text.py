"""What `authz diff` found, for people; and recorded calls that changed, as JSON too.

For people a difference is a line or two. Many of them are put together until they can be read: by who calls whom, then
by whom they call. JSON has every one (:mod:`authz.policy.difference_json`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from authz.decision import Verdict
from authz.instant import rfc3339_from_ns
from authz.policy.difference_json import call_object
from authz.policy.errors import printable, quoted
from authz.policy.window_words import instant

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from authz.policy.changed_call import Change, Span
    from authz.policy.difference import Comparison
    from authz.policy.difference_groups import Difference
    from authz.policy.replay import ChangedKind, Replay

#: Of the spans of one change, so many are shown to a person.
MAX_SPANS: Final = 3
#: Differences that are shown one by one; and parts of what is put together.
MAX_SHOWN: Final = 60
#: Of names that stand in a row, so many are shown.
MAX_NAMES: Final = 6


def differences_for_people(comparison: Comparison) -> Iterator[str]:
    """Give lines that say what is different."""
    if comparison.same:
        yield "no difference: every call gets the same verdict at every time"
        return
    differences = comparison.differences
    alike = _by(differences, lambda each: (each.callers, each.destinations, each.change))
    if len(alike) <= MAX_SHOWN:
        for same in alike:
            yield from _difference_lines(same)
    else:
        yield from _put_together(differences)
    yield from (printable(f"! {note}") for note in comparison.notes)
    counts = [
        f"{number} become{'s' if number == 1 else ''} {word}"
        for becomes, word in ((Verdict.ALLOW, "allowed"), (Verdict.DENY, "denied"))
        if (number := sum(each.change.becomes is becomes for each in differences))
    ]
    yield ", ".join(counts + ([f"{len(comparison.notes)} more to know"] if comparison.notes else []))


def _difference_lines(alike: Sequence[Difference]) -> Iterator[str]:
    """Give the lines of differences that are the same for several operations."""
    first, change = alike[0], alike[0].change
    operations = _names([each.operation for each in alike], between="; ")
    what = f"{_names(first.callers)} -> {_names(first.destinations)}: {operations}"
    yield printable(f"{_sign(change)} {what} {_outcome(change)}")
    for span in change.spans[:MAX_SPANS]:
        if words := _span(span):
            yield f"    {words}"
    more = change.times.count - MAX_SPANS
    if more > 0:
        last = change.times.until_ns
        until = "" if last is None else f", the last until {instant(last)}"
        yield f"    and {more} times more{until}{', and so on' if change.times.recurring else ''}"


def _outcome(change: Change) -> str:
    if change.becomes is Verdict.ALLOW:
        return f"becomes allowed{_by_policy(change.policy)} (was {change.reason})"
    return f"becomes denied: {change.reason} (was allowed{_by_policy(change.policy)})"


def _put_together(differences: Sequence[Difference]) -> Iterator[str]:
    """Give a line for each pair of callers and destinations; where these are too many, for each destination."""
    by_pair = _by(differences, lambda each: (each.callers, each.destinations, each.change.becomes))
    by_destination = _by(differences, lambda each: (each.destinations, each.change.becomes))
    groups = by_pair if len(by_pair) <= MAX_SHOWN else by_destination
    ordered = sorted(groups, key=len, reverse=True)[:MAX_SHOWN]
    for group in sorted(ordered, key=lambda each: (each[0].destinations, each[0].callers, each[0].change.becomes)):
        first = group[0]
        callers = sorted({name for each in group for name in each.callers})
        becomes = "becomes allowed" if first.change.becomes is Verdict.ALLOW else "becomes denied"
        what = f"{_names(callers)} -> {_names(first.destinations)}:"
        if len(group) == 1:
            yield printable(f"{_sign(first.change)} {what} {first.operation} {_outcome(first.change)}")
        else:
            such = f"such as {first.operation} by {_names(first.callers)}"
            yield printable(f"{_sign(first.change)} {what} {len(group)} times something {becomes}, {such}")
    left = len(groups) - len(ordered)
    if left > 0:
        yield f"and {left} more like these"
    yield f"{len(differences)} differences are too many to be shown one by one; -o json has each, with an example"


def _by(differences: Sequence[Difference], key: Callable[[Difference], Hashable]) -> list[list[Difference]]:
    groups: defaultdict[Hashable, list[Difference]] = defaultdict(list)
    for each in differences:
        groups[key(each)].append(each)
    return list(groups.values())


def _names(names: Sequence[str], between: str = ", ") -> str:
    more = len(names) - MAX_NAMES
    return between.join(names) if more <= 1 else f"{between.join(names[:MAX_NAMES])} and {more} more"


def _sign(change: Change) -> str:
    return "+" if change.becomes is Verdict.ALLOW else "-"


def _by_policy(policy: str | None) -> str:
    return " in observe mode" if policy is None else f" by {quoted(policy)}"


def _span(span: Span) -> str:
    words = []
    if span.from_ns is not None:
        words.append(f"from {instant(span.from_ns)}")
    if span.until_ns is not None:
        words.append(f"until {instant(span.until_ns)}")
    elif words:
        words.append("on")
    return " ".join(words)


# --- recorded calls ------------------------------------------------------------------------------------------------


def replay_for_people(replay: Replay, kinds: Sequence[ChangedKind]) -> Iterator[str]:
    """Give lines that say which recorded calls would be answered differently, the most frequent first."""
    for kind in kinds[:MAX_SHOWN]:
        allowed = kind.after.reason.verdict is Verdict.ALLOW
        what = f"{kind.first.caller} -> {kind.first.destination}: {kind.first.operation}"
        times = f"{kind.count} call{'' if kind.count == 1 else 's'}"
        if allowed:
            outcome = f"allowed{_by_policy(kind.after.policy)} (was {kind.before.reason})"
        else:
            outcome = f"denied: {kind.after.reason} (was allowed{_by_policy(kind.before.policy)})"
        yield printable(f"{'+' if allowed else '-'} {times} {what} would be {outcome}")
        yield f"    first {instant(kind.first_ns)}, last {instant(kind.last_ns)}"
    if len(kinds) > MAX_SHOWN:
        yield f"and {len(kinds) - MAX_SHOWN} kinds of calls more; -o json has them all"
    calls = f"{replay.calls} call{'' if replay.calls == 1 else 's'}"
    yield f"{replay.changed} of {calls} would get another verdict" if replay.changed else f"{calls}, no difference"


def kind_object(kind: ChangedKind) -> dict[str, Any]:
    """Give a kind of changed calls as JSON has it."""
    return {
        "from": kind.first.caller,
        "to": kind.first.destination,
        "operation": kind.first.operation,
        "becomes": kind.after.reason.verdict.value,
        "before": {"reason": kind.before.reason.value, "policy": kind.before.policy},
        "after": {"reason": kind.after.reason.value, "policy": kind.after.policy},
        "count": kind.count,
        "first": rfc3339_from_ns(kind.first_ns),
        "last": rfc3339_from_ns(kind.last_ns),
        "example": call_object(kind.first.call, kind.first.at_ns),
    }
