"""Changed calls put together as a person would say them: one line for a group of callers, methods and paths."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.policy.route import ANY_SEGMENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from authz.policy.call_classes import CallerClass, DestinationClass, MethodClass, PathClass
    from authz.policy.changed_call import Change, ChangedCall
    from authz.request import Call

#: Of a list of exceptions, so many are told.
MAX_EXCEPTIONS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What some callers may do at one destination from now on, or no longer; `example` is one such call."""

    callers: tuple[str, ...]
    destination: str
    operation: str
    change: Change
    example: Call

    def __str__(self) -> str:
        return f"{', '.join(self.callers)} -> {self.destination}: {self.operation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """What changed calls have in common that stand in one line, but for their callers and paths."""

    destination: DestinationClass
    methods: str
    change: Change
    condition: str


def grouped(changed: Iterable[ChangedCall], callers: Sequence[CallerClass]) -> tuple[Difference, ...]:
    """Give the differences that changed calls come to, sorted; `callers` are all classes there are."""
    lines: defaultdict[tuple[DestinationClass, str, Change], list[ChangedCall]] = defaultdict(list)
    for caller_calls in _by_caller(changed):
        for where, calls in _by_methods(caller_calls).items():
            for path, operation in _operations(where.methods, calls):
                example = next(each for each in calls if each.path is path)
                lines[where.destination, f"{operation}{where.condition}", where.change].append(example)
    found = [
        Difference(
            callers=_names({each.caller for each in calls}, callers),
            destination=destination.name,
            operation=operation,
            change=change,
            example=calls[0].example,
        )
        for (destination, operation, change), calls in lines.items()
    ]
    return tuple(sorted(found, key=_order))


def _order(difference: Difference) -> tuple[object, ...]:
    # By destination and path rather than by method: what is about one thing stands together.
    change = difference.change
    starts = [-(2**80) if span.from_ns is None else span.from_ns for span in change.spans]
    return (*difference.callers, difference.destination, difference.operation, change.becomes.value, starts)


def _by_caller(changed: Iterable[ChangedCall]) -> Iterator[list[ChangedCall]]:
    found: defaultdict[tuple[CallerClass, DestinationClass], list[ChangedCall]] = defaultdict(list)
    for each in changed:
        found[each.caller, each.destination].append(each)
    yield from found.values()


# --- methods and paths ---------------------------------------------------------------------------------------------


def _by_methods(calls: Iterable[ChangedCall]) -> dict[_Where, list[ChangedCall]]:
    """Put the methods of one path together that change alike."""
    alike: defaultdict[tuple[PathClass, Change, str], list[ChangedCall]] = defaultdict(list)
    for each in calls:
        alike[each.path, each.change, each.condition].append(each)
    found: defaultdict[_Where, list[ChangedCall]] = defaultdict(list)
    for (_, change, condition), same in alike.items():
        methods = _methods([each.method for each in same], same[0].methods)
        where = _Where(destination=same[0].destination, methods=methods, change=change, condition=condition)
        found[where].append(same[0])
    return dict(found)


def _methods(changed: Sequence[MethodClass], known: Sequence[MethodClass]) -> str:
    """Say methods, and over which version of TLS where not over every one."""
    by_version = {
        version: _methods_over(
            [each for each in changed if each.tls is version], [each for each in known if each.tls is version]
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


def _operations(methods: str, calls: Sequence[ChangedCall]) -> Iterator[tuple[PathClass, str]]:
    """Say paths that change alike; one that lies within another is not said again, one that does not change is."""
    paths = [each.path for each in calls]
    known = calls[0].paths
    for path in paths:
        if any(_within(path, other) for other in paths if other is not path):
            continue
        others = [each for each in known if each not in paths and _within(each, path)]
        yield path, f"{_written(methods, path)}{_but(others, path)}"


def _within(path: PathClass, other: PathClass) -> bool:
    if path.shape is not other.shape:
        return False
    if path.template is None or other.template is None:
        return path.template is not None
    return other.template.covers(path.template) and not path.template.covers(other.template)


def _written(methods: str, path: PathClass) -> str:
    shape = "" if path.shape is None else f" with {path.shape} in it"
    if path.template is None:
        return f"{methods} on any path{shape}"
    if methods == "grpc":
        return f"grpc {path.template.text[1:].replace(ANY_SEGMENT, '*')}"
    return f"{methods} {path.template.text}{shape}"


def _but(others: Sequence[PathClass], path: PathClass) -> str:
    """Name the paths within a path that do not change as it does."""
    templates = [each.template for each in others if each.template is not None]
    if path.shape is not None or not templates:
        return ""
    broadest = sorted(
        {
            each.text
            for each in templates
            if not any(other.covers(each) and not each.covers(other) for other in templates)
        }
    )
    more = f" and {len(broadest) - MAX_EXCEPTIONS} more" if len(broadest) > MAX_EXCEPTIONS else ""
    return f" (but not {', '.join(broadest[:MAX_EXCEPTIONS])}{more})"


# --- callers -------------------------------------------------------------------------------------------------------


def _names(changed: set[CallerClass], callers: Sequence[CallerClass]) -> tuple[str, ...]:
    """Say callers by name where everybody of the name is meant, and else by identity."""
    wholly: dict[str, bool] = {}
    for each in callers:
        if each.old_owner is not None and each.old_owner == each.new_owner:
            wholly[each.old_owner] = wholly.get(each.old_owner, True) and each in changed
    return tuple(sorted({_name(each, wholly, callers) for each in changed}))


def _name(caller: CallerClass, wholly: dict[str, bool], callers: Sequence[CallerClass]) -> str:
    owner = caller.new_owner or caller.old_owner
    if owner is None:
        return caller.identity
    if caller.old_owner == caller.new_owner:
        return owner if wholly[owner] else f"{owner} ({caller.identity})"
    # The identity came, went or moved: the name alone is enough where all of the name's identities did so.
    alone = all(owner not in {each.old_owner, each.new_owner} or each == caller for each in callers)
    if alone and None in {caller.old_owner, caller.new_owner}:
        return owner
    moved = {caller.old_owner, caller.new_owner} - {None}
    if len(moved) > 1:
        return f"{caller.identity} (was {caller.old_owner}, is {caller.new_owner})"
    return f"{owner} ({caller.identity})"
