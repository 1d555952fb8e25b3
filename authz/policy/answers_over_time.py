"""Calls put to two sets at every time: when they answer a call differently.

A call's standing in a set leaves windows open, and conditions. Under each assumption about conditions, all that is left
are windows: whole spans of time are put together by the steps of the language, and compared. Calls for which equal
windows count in both sets are never looked at; those for which the same windows count, once.

Time is cut at the dates of all windows that have a say. Within each part hours are followed for 366 days: from now on
in the part that now lies in, from its beginning in later ones, and up to its end in earlier ones.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from authz.decision import Verdict
from authz.policy.assumed_conditions import assumptions, where_words
from authz.policy.changed_call import Change, Span, Times
from authz.policy.errors import PolicyError
from authz.policy.open_times import NEVER, Spans, any_of, common, open_spans, without
from authz.policy.ruling import Ruling, ruling_at, takes_out
from authz.policy.standing import standing
from authz.policy.window import ALWAYS, HORIZON_NS, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from authz.policy.index import PolicyIndex
    from authz.policy.ruling import Matched
    from authz.policy.standing import Standing, Variable
    from authz.request import Call

#: Calls that are put to both sets: some minutes. Beyond it, people compare the calls that they really have.
MAX_CALLS: Final = 4_000_000
#: Spans of one change that are kept: a year of something weekly, and more than anybody reads.
MAX_SPANS: Final = 64


class DifferenceError(PolicyError):
    """Two sets differ in too much to be compared call by call."""


class _Open(NamedTuple):
    """When a call is allowed, as windows: by number, so that equal ones are told at once.

    It is allowed while all `parties` are open, no `forbidding` is, and some rule is open while none of the Guardrails
    that take it out is; or, where the call is `observed`, while no rule is open that is taken out.
    """

    parties: frozenset[int]
    forbidding: frozenset[int]
    rules: frozenset[tuple[int, frozenset[int]]]
    observed: bool


_CLOSED: Final = _Open(frozenset(), frozenset(), frozenset(), observed=False)


class AnswersOverTime:
    """The answers of two sets; hours are followed for 366 days from `now_ns`."""

    def __init__(self, old: PolicyIndex, new: PolicyIndex, now_ns: int) -> None:
        self._old = old
        self._new = new
        self._now_ns = now_ns
        self._calls_left = MAX_CALLS
        self._windows: list[Window] = [ALWAYS]
        self._numbers: dict[Window, int] = {ALWAYS: 0}
        self._by_identity: dict[int, int] = {}
        self._known: dict[tuple[_Open, _Open], tuple[tuple[Verdict, Times, int], ...]] = {}
        self._times: dict[tuple[object, ...], Times] = {}

    def changes(self, call: Call) -> tuple[Change, ...]:
        """Give when a call becomes allowed, and when denied; raises DifferenceError where too much was asked."""
        self._calls_left -= 1
        if self._calls_left < 0:
            message = f"the sets differ in too much: {MAX_CALLS} calls were not enough"
            raise DifferenceError(f"{message}; compare recorded calls with --calls")
        before, after = standing(self._old, call), standing(self._new, call)
        variables = before.variables | after.variables
        if not variables:
            return tuple(self._under(before, after, frozenset()))
        found: defaultdict[tuple[object, ...], list[tuple[frozenset[Variable], Change]]] = defaultdict(list)
        known = assumptions(variables)
        for true in known:
            for change in self._under(before, after, true):
                found[change.becomes, change.times, change.policy, change.reason].append((true, change))
        return tuple(
            Change(
                becomes=first.becomes,
                times=first.times,
                policy=first.policy,
                reason=first.reason,
                condition=where_words(variables, known, [true for true, _ in changes]),
                example_at_ns=first.example_at_ns,
            )
            for changes in found.values()
            for first in (changes[0][1],)
        )

    def _under(self, before: Standing, after: Standing, true: frozenset[Variable]) -> Iterator[Change]:
        old, new = before.given(true), after.given(true)
        key = self._open(old), self._open(new)
        if key[0] == key[1]:
            return
        if key not in self._known:
            self._known[key] = tuple(self._compared(*key))
        for becomes, times, at_ns in self._known[key]:
            allowing, denying = (
                _ruling(standing_, matched, at_ns)
                for standing_, matched in (
                    ((after, new), (before, old)) if becomes is Verdict.ALLOW else ((before, old), (after, new))
                )
            )
            yield Change(
                becomes=becomes, times=times, policy=allowing.policy, reason=denying.reason, example_at_ns=at_ns
            )

    # --- windows

    def _number(self, window: Window) -> int:
        # Rules share their windows, and both indexes keep them: the look-up by value is made once for each.
        found = self._by_identity.get(id(window))
        if found is None:
            found = self._numbers.get(window)
            if found is None:
                found = self._numbers[window] = len(self._windows)
                self._windows.append(window)
            self._by_identity[id(window)] = found
        return found

    def _open(self, matched: Matched) -> _Open:
        """Give the windows that count; whatever never has a say is left out."""
        if matched.closed_tunnel or not (matched.rules or matched.observed):
            return _CLOSED
        forbidding = frozenset(self._number(guard.window) for guard in matched.forbidding)
        if 0 in forbidding:
            return _CLOSED
        rules = set()
        for rule in matched.rules:
            guards = [guard for guard in matched.limiting if takes_out(guard, rule, matched.parties)]
            rules.add((self._number(rule.window), frozenset(self._number(guard.window) for guard in guards)))
        observed = matched.observed
        taken_out = any(guards for _, guards in rules)
        if (0, frozenset()) in rules or (observed and not taken_out):
            # Open whatever the others say.
            rules, observed = {(0, frozenset())}, False
        elif not observed:
            rules = {(window, guards) for window, guards in rules if 0 not in guards}
            if not rules:
                return _CLOSED
        parties = frozenset(self._number(party.window) for party in matched.parties)
        return _Open(parties, forbidding, frozenset(rules), observed)

    def _compared(self, old: _Open, new: _Open) -> Iterator[tuple[Verdict, Times, int]]:
        windows = [self._windows[number] for number in {*_windows(old), *_windows(new)}]
        dates = sorted({each for window in windows for each in (window.opens_ns, window.closes_ns) if each is not None})
        found: dict[Verdict, _Found] = {Verdict.ALLOW: _Found(), Verdict.DENY: _Found()}
        for start_ns, end_ns in pairwise((None, *dates, None)):
            has_hours = any(window.hours is not None and _reaches(window, start_ns, end_ns) for window in windows)
            from_ns, until_ns = self._followed(start_ns, end_ns)
            if not has_hours:  # then nothing happens, and one instant says it all
                until_ns = from_ns + 1
            before, after = self._allowed(old, from_ns, until_ns), self._allowed(new, from_ns, until_ns)
            for verdict, spans in ((Verdict.ALLOW, without(after, before)), (Verdict.DENY, without(before, after))):
                if spans == ((from_ns, until_ns),):
                    found[verdict].add([(start_ns, end_ns)], from_ns)
                elif spans:
                    found[verdict].add(list(spans), spans[0][0])
                    found[verdict].recurring |= end_ns is None or until_ns < end_ns
        for verdict, each in found.items():
            if each.at_ns is not None:
                yield verdict, self._kept(each), each.at_ns

    def _followed(self, start_ns: int | None, end_ns: int | None) -> tuple[int, int]:
        """Give the part of [start_ns, end_ns) in which hours are followed."""
        if end_ns is not None and end_ns <= self._now_ns:
            return (end_ns - HORIZON_NS if start_ns is None else max(start_ns, end_ns - HORIZON_NS)), end_ns
        from_ns = self._now_ns if start_ns is None else max(start_ns, self._now_ns)
        until_ns = from_ns + HORIZON_NS
        return from_ns, until_ns if end_ns is None else min(until_ns, end_ns)

    def _allowed(self, what: _Open, from_ns: int, until_ns: int) -> Spans:
        """Give when a call is allowed, within 366 days."""

        def spans(number: int) -> Spans:
            return open_spans(self._windows[number], from_ns, until_ns)

        whole: Spans = ((from_ns, until_ns),)
        taken_out = [
            (window, any_of(spans(guard) for guard in guards))
            for number, guards in what.rules
            for window in (spans(number),)
        ]
        allowed = any_of(without(window, limited) for window, limited in taken_out)
        if what.observed:
            denied = any_of(common(window, limited) for window, limited in taken_out)
            allowed = any_of((allowed, without(whole, denied)))
        for number in what.parties:
            allowed = common(allowed, spans(number))
        return without(allowed, any_of(spans(number) for number in what.forbidding)) if allowed else NEVER

    def _kept(self, found: _Found) -> Times:
        """Give the times of a change; the same for the same spans, so that changes at the same times are equal."""
        spans = tuple(Span(from_ns=from_ns, until_ns=until_ns) for from_ns, until_ns in found.spans[:MAX_SPANS])
        until_ns = found.spans[-1][1]
        # What is not kept is compared by its hash: nobody reads that far.
        key = spans, len(found.spans), until_ns, found.recurring, hash(tuple(found.spans))
        return self._times.setdefault(
            key, Times(spans=spans, count=len(found.spans), until_ns=until_ns, recurring=found.recurring)
        )


class _Found:
    """Spans of one change as they are found, in the order of time."""

    def __init__(self) -> None:
        self.spans: list[tuple[int | None, int | None]] = []
        self.at_ns: int | None = None
        self.recurring = False

    def add(self, spans: Iterable[tuple[int | None, int | None]], at_ns: int) -> None:
        if self.at_ns is None:
            self.at_ns = at_ns
        for from_ns, until_ns in spans:
            if self.spans and from_ns is not None and self.spans[-1][1] == from_ns:
                self.spans[-1] = self.spans[-1][0], until_ns
            else:
                self.spans.append((from_ns, until_ns))


def _ruling(standing_: Standing, matched: Matched, at_ns: int) -> Ruling:
    return Ruling(standing_.refused, None) if standing_.refused is not None else ruling_at(matched, at_ns)


def _windows(what: _Open) -> Iterator[int]:
    yield from what.parties
    yield from what.forbidding
    for window, guards in what.rules:
        yield window
        yield from guards


def _reaches(window: Window, start_ns: int | None, end_ns: int | None) -> bool:
    """Whether a window's dates leave something of [start_ns, end_ns)."""
    after = window.closes_ns is not None and start_ns is not None and window.closes_ns <= start_ns
    before = window.opens_ns is not None and end_ns is not None and window.opens_ns >= end_ns
    return not (after or before)
