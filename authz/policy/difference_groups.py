"""Changed calls put together as a person would say them: a line for callers, destinations and operations alike."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.policy.evaluation import CONNECT
from authz.policy.route import ANY_SEGMENT
from authz.policy.segment_trie import SegmentTrie

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from authz.policy.caller_classes import CallerClass
    from authz.policy.changed_call import Change, ChangedCall
    from authz.policy.destination_classes import DestinationClass
    from authz.policy.operation_classes import MethodClass, PathClass
    from authz.request import Call

#: Of a list of exceptions, so many are told.
MAX_EXCEPTIONS: Final = 3
#: Who is meant where all are; no name has a space.
EVERY_CALLER: Final = "every caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What some callers may do at some destinations from now on, or no longer; `example` is one such call."""

    callers: tuple[str, ...]
    destinations: tuple[str, ...]
    operation: str
    change: Change
    example: Call

    def __str__(self) -> str:
        return f"{', '.join(self.callers)} -> {', '.join(self.destinations)}: {self.operation}"


class Grouping:
    """Takes the changed calls of one destination after the other; what they come to is kept, not the calls."""

    def __init__(self, callers: Sequence[CallerClass], heard: frozenset[int]) -> None:
        self._names = _CallerNames(callers, heard)
        self._lines: dict[tuple[tuple[str, ...], str, Change], tuple[list[str], Call]] = {}

    def add(
        self,
        changed: Iterable[ChangedCall],
        paths: Sequence[PathClass],
        destinations: Sequence[DestinationClass],
        proof: str = "",
    ) -> None:
        """Add what changes at some destinations alike; `paths` are all classes of paths that were looked at.

        `proof` says how the callers are proven.
        """
        calls = list(changed)
        if not calls:
            return
        nested = _Nested(paths)
        lines: defaultdict[tuple[str, Change], list[ChangedCall]] = defaultdict(list)
        whom: defaultdict[tuple[str, Change], set[int]] = defaultdict(set)
        for numbers, same in _by_callers(calls):
            for methods, change, first_by_path in _by_methods(same):
                for path, operation in _operations(methods, first_by_path, nested):
                    line = f"{operation}{proof}{change.condition}", change
                    lines[line].append(first_by_path[path])
                    whom[line].update(numbers)
        for line, found in lines.items():
            key = (self._names.of(frozenset(whom[line])), *line)
            told, _ = self._lines.setdefault(key, ([], found[0].example))
            told += [each.name for each in destinations]

    def names(self, numbers: frozenset[int]) -> tuple[str, ...]:
        """Say some classes of callers."""
        return self._names.of(numbers)

    def differences(self) -> tuple[Difference, ...]:
        """Give the differences, sorted."""
        found = [
            Difference(
                callers=callers,
                destinations=tuple(sorted(set(destinations))),
                operation=operation,
                change=change,
                example=example,
            )
            for (callers, operation, change), (destinations, example) in self._lines.items()
        ]
        return tuple(sorted(found, key=_order))


def _order(difference: Difference) -> tuple[object, ...]:
    change = difference.change
    starts = [-(2**80) if span.from_ns is None else span.from_ns for span in change.spans]
    told = difference.operation, change.becomes.value, starts, change.policy or "", change.reason.value
    return (difference.callers, difference.destinations, *told)


def _by_callers(calls: Sequence[ChangedCall]) -> Iterator[tuple[list[int], list[ChangedCall]]]:
    """Put the callers together for whom the same calls change."""
    of: defaultdict[int, list[int]] = defaultdict(list)
    for position, call in enumerate(calls):
        for number in call.numbers:
            of[number].append(position)
    alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, positions in of.items():
        alike[tuple(positions)].append(number)
    for same, numbers in alike.items():
        yield numbers, [calls[position] for position in same]


# --- methods and paths ---------------------------------------------------------------------------------------------


def _by_methods(
    calls: Iterable[ChangedCall],
) -> Iterator[tuple[str, Change, dict[PathClass, ChangedCall]]]:
    """Put the methods of one path together that change alike, then the paths for which the methods are the same."""
    alike: defaultdict[tuple[PathClass, Change], list[ChangedCall]] = defaultdict(list)
    for each in calls:
        alike[each.path, each.change].append(each)
    found: defaultdict[tuple[str, Change], dict[PathClass, ChangedCall]] = defaultdict(dict)
    for (path, change), same in alike.items():
        found[_methods([each.method for each in same], same[0].methods), change][path] = same[0]
    for (methods, change), first_by_path in found.items():
        yield methods, change, first_by_path


def _methods(changed: Sequence[MethodClass], known: Sequence[MethodClass]) -> str:
    """Say methods, and over which version of TLS where not over every one."""
    by_version = {
        version: _methods_over(
            [each for each in changed if each.tls == version], [each for each in known if each.tls == version]
        )
        for version in dict.fromkeys(each.tls for each in known)
    }
    if len(set(by_version.values())) == 1:
        return next(iter(by_version.values()))
    return ", ".join(f"{words} over {version}" for version, words in by_version.items() if words)


def _methods_over(changed: Sequence[MethodClass], known: Sequence[MethodClass]) -> str:
    missing = [each for each in known if each not in changed]
    if any(not each.named for each in changed):  # also every method that no rule names
        return "any method" + (f" but {_spelt(missing, known)}" if missing else "")
    return _spelt(changed, known)


def _spelt(methods: Sequence[MethodClass], known: Sequence[MethodClass]) -> str:
    words = []
    for each in methods:
        both = [other for other in known if other.method == each.method]
        if len(both) == 1 and not each.is_grpc:
            words.append(each.method if each.named else "others")
        elif all(other in methods for other in both) and len(both) > 1:
            if not each.is_grpc:
                words.append(each.method)
        else:
            words.append("grpc" if each.is_grpc else f"{each.method} (not gRPC)")
    return ", ".join(sorted(words))


def _operations(methods: str, paths: Collection[PathClass], nested: _Nested) -> Iterator[tuple[PathClass, str]]:
    """Say paths that change alike; one that lies within another is not said again, one that does not change is."""
    for path in paths:
        if any(other in paths for other in nested.around[path]):
            continue
        others = [each for each in nested.within[path] if each not in paths]
        yield path, f"{_written(methods, path)}{_but(others, path)}"


class _Nested:
    """Which classes of paths lie within which others, by what is written for them."""

    def __init__(self, paths: Sequence[PathClass]) -> None:
        self.around: dict[PathClass, list[PathClass]] = {}
        self.within: dict[PathClass, list[PathClass]] = {path: [] for path in paths}
        by_shape: defaultdict[object, SegmentTrie[PathClass]] = defaultdict(SegmentTrie)
        for path in paths:
            if path.template is not None:
                by_shape[path.shape].add(path.template.segments, path)
        elsewhere = [path for path in paths if path.template is None]
        for path in paths:
            around = []
            if path.template is not None:
                # Whatever covers a template matches its text, too.
                near = by_shape[path.shape].matching(list(path.template.segments))
                around = [other for other in near if _covers(other, path)]
                around += [other for other in elsewhere if other.shape is path.shape]
            self.around[path] = around
            for other in around:
                self.within[other].append(path)


def _covers(other: PathClass, path: PathClass) -> bool:
    if other.template is None or path.template is None:
        return False
    return other.template.covers(path.template) and not path.template.covers(other.template)


def _written(methods: str, path: PathClass) -> str:
    shape = "" if path.shape is None else f" with {path.shape} in it"
    if path.template is None:
        return f"{methods} on any path{shape}"
    if methods == CONNECT:  # its path says nothing
        return methods
    if methods == "grpc":
        return f"grpc {path.template.text[1:].replace(ANY_SEGMENT, '*')}"
    return f"{methods} {path.template.text}{shape}"


def _but(others: Sequence[PathClass], path: PathClass) -> str:
    """Name the paths within a path that do not change as it does; the broadest first."""
    templates = {each.template.text: each.template for each in others if each.template is not None}
    if path.shape is not None or not templates:
        return ""
    told: list[str] = []
    for text in sorted(templates, key=lambda text: (templates[text].literals, text)):
        if len(told) > MAX_EXCEPTIONS or not any(templates[each].covers(templates[text]) for each in told):
            told.append(text)
    more = f" and {len(told) - MAX_EXCEPTIONS} more" if len(told) > MAX_EXCEPTIONS else ""
    return f" (but not {', '.join(sorted(told[:MAX_EXCEPTIONS]))}{more})"


# --- callers -------------------------------------------------------------------------------------------------------


class _CallerNames:
    """Callers by name where everybody of the name is meant, and else by identity."""

    def __init__(self, callers: Sequence[CallerClass], heard: frozenset[int]) -> None:
        self._callers = callers
        self._heard = heard
        self._of: dict[frozenset[int], tuple[str, ...]] = {}
        #: the classes of each name, and of those the ones that it had and has
        self._around: defaultdict[str, set[int]] = defaultdict(set)
        self._kept: defaultdict[str, set[int]] = defaultdict(set)
        for number, caller in enumerate(callers):
            for name in {caller.old.name, caller.new.name} - {None}:
                self._around[name or ""].add(number)
            if caller.new.name is not None and caller.old.name == caller.new.name:
                self._kept[caller.new.name].add(number)

    def of(self, changed: frozenset[int]) -> tuple[str, ...]:
        """Say some classes of callers."""
        found = self._of.get(changed)
        if found is None:
            everybody = len(changed) > 1 and changed >= self._heard
            words = (EVERY_CALLER,) if everybody else tuple(sorted({self._name(each, changed) for each in changed}))
            found = self._of[changed] = words
        return found

    def _name(self, number: int, changed: frozenset[int]) -> str:
        caller = self._callers[number]
        old, new = caller.old.name, caller.new.name
        owner = new or old
        if owner is None:
            return caller.identity
        if old == new:
            return owner if self._kept[owner] <= changed else f"{owner} ({caller.identity})"
        if None not in {old, new}:
            return f"{caller.identity} (was {old}, is {new})"
        # The identity came or went: the name alone is enough where that is all that there is of it.
        return owner if self._around[owner] == {number} else f"{owner} ({caller.identity})"
