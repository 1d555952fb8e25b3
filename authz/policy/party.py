"""Who takes part in calls, as the index knows them: Services and ThirdParties with what they allow, answer to and may.

A destination keeps one table of rules, and one of guards, for each *unit* of callers (see `index`). Both are found by
the call's method and path segments: rules narrowly, guards broadly.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from authz.policy.condition import ConditionError
from authz.policy.operation import ALL, GrpcOperation, HttpOperation
from authz.policy.route import REST
from authz.policy.segment_trie import SegmentTrie

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from authz.policy.condition import CallFacts, Condition
    from authz.policy.operation import All
    from authz.policy.route import PathShape
    from authz.policy.window import Window
    from authz.request import TlsVersion

#: The method of a gRPC call.
GRPC_METHOD: Final = "POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A MicroPolicy as far as a decision needs it; or an entry of an `api`, which is always open."""

    name: str
    window: Window
    enforced: bool = True
    conditions: tuple[Condition, ...] = ()

    def matches(self, facts: CallFacts) -> bool:
        """Whether all of its conditions hold; where one cannot be told, nothing is allowed."""
        try:
            return all(condition.holds(facts) for condition in self.conditions)
        except ConditionError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard(Rule):
    """A Guardrail as far as a decision needs it; without `tls` and `max_window_ns` it forbids whatever it matches."""

    tls: TlsVersion | None
    max_window_ns: int | None

    def matches(self, facts: CallFacts) -> bool:
        """Whether all of its conditions hold; where one cannot be told, whatever the others say, it forbids."""
        matches = True
        for condition in self.conditions:
            try:
                matches &= condition.holds(facts)
            except ConditionError:
                return True
        return matches

    def forbids(self, tls: TlsVersion | None) -> bool:
        """Whether it forbids a call over this version of TLS (None: not known), whatever allows the call."""
        if self.tls is None:
            return self.max_window_ns is None
        return tls is None or tls < self.tls


R = TypeVar("R", bound=Rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[R]):
    """What one path pattern of a rule stands for.

    `template` is the path pattern as it is written, None where every path matches; `literals` counts its literal
    segments. `grpc` entries match only calls that say that they are gRPC, and their route is the call's own path.
    """

    methods: frozenset[str] | All
    grpc: bool
    template: str | None
    literals: int
    rule: R


class EntryTable(Generic[R]):
    """Entries by path; built once by :meth:`add`, then only read."""

    __slots__ = ("_by_path", "_everywhere")

    def __init__(self) -> None:
        self._by_path: SegmentTrie[Entry[R]] | None = None
        self._everywhere: list[Entry[R]] = []

    def add(self, operation: HttpOperation | GrpcOperation, rule: R) -> None:
        """Add what an operation allows."""
        self.add_entries(entries_of(operation, rule))

    def add_entries(self, entries: Iterable[tuple[Sequence[str] | None, Entry[R]]]) -> None:
        """Add entries, each with the segments of the paths that it matches; None for every path."""
        for segments, entry in entries:
            if segments is None:
                self._everywhere.append(entry)
                continue
            if self._by_path is None:
                self._by_path = SegmentTrie()
            self._by_path.add(segments, entry)

    def matching(self, method: str, segments: list[str], *, is_grpc: bool) -> list[Entry[R]]:
        """Give the entries that mean this call."""
        found = self._everywhere
        if self._by_path is not None:
            by_path = self._by_path.matching(segments)
            found = found + by_path if found else by_path
        return _meaning(found, method, is_grpc=is_grpc) if found else []


class GuardTable(EntryTable[Guard]):
    """Guards by path, which match broadly: what a server may take for a forbidden request is one.

    # INVARIANT (forbid broadly): whatever entry would match narrowly matches here; so does the path with one trailing
    # slash more or fewer, the path without the segments of `{**}`, HEAD where GET is meant, and the path of a gRPC
    # method by any method and content type.
    """

    __slots__ = ()

    def add_entries(self, entries: Iterable[tuple[Sequence[str] | None, Entry[Guard]]]) -> None:
        """Add entries, each with all that it forbids."""
        for segments, entry in entries:
            methods = ALL if entry.grpc or entry.methods is ALL else entry.methods
            if methods is not ALL and "GET" in methods:
                methods |= {"HEAD"}
            broad = replace(entry, methods=methods, grpc=False)
            if segments is None:
                super().add_entries([(None, broad)])
            else:
                super().add_entries([(each, broad) for each in broadened(tuple(segments))])

    def matching(self, method: str, segments: list[str], *, is_grpc: bool) -> list[Entry[Guard]]:
        """Give the entries that mean this call."""
        found = super().matching(method, segments, is_grpc=is_grpc)
        # One slash fewer; one slash more is in the table, so that the two never add up to two.
        if len(segments) > 1 and not segments[-1] and self._by_path is not None:
            found += _meaning(self._by_path.matching(segments[:-1]), method, is_grpc=is_grpc)
        return found


def _meaning(entries: Sequence[Entry[R]], method: str, *, is_grpc: bool) -> list[Entry[R]]:
    """Give those of some entries, whose paths match, that mean a call by this method."""
    return [
        entry
        for entry in entries
        if (entry.methods is ALL or method in entry.methods) and (is_grpc or not entry.grpc)
    ]


def broadened(segments: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Give a pattern's segments, the same without its trailing slash, and both without its REST."""
    yield segments
    if segments[-1] == REST:
        yield from broadened(segments[:-1] or ("",))
    elif len(segments) > 1 and not segments[-1]:
        yield segments[:-1]


def entries_of(
    operation: HttpOperation | GrpcOperation, rule: R
) -> Iterator[tuple[Sequence[str] | None, Entry[R]]]:
    """Give what a rule's operation stands for, each entry with the segments of its paths; None for every path."""
    if isinstance(operation, GrpcOperation):
        for method in operation.methods:
            yield (
                method.segments,
                Entry(methods=frozenset({GRPC_METHOD}), grpc=True, template=f"/{method}", literals=2, rule=rule),
            )
    elif operation.paths is ALL:
        yield None, Entry(methods=operation.methods, grpc=False, template=None, literals=-1, rule=rule)
    else:
        for path in operation.paths:
            yield (
                path.segments,
                Entry(methods=operation.methods, grpc=False, template=path.text, literals=path.literals, rule=rule),
            )


def most_literal(entries: Sequence[Entry[R]]) -> Entry[R] | None:
    """Give the entry whose template has the most literal segments; among equals, the first by its text."""
    if len(entries) <= 1:
        return entries[0] if entries else None
    return min(entries, key=lambda entry: (-entry.literals, entry.template or ""))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Party:
    """A Service or ThirdParty of the set; a Service's window is always open."""

    name: str
    is_service: bool
    window: Window
    attributes: Mapping[str, str]
    path_shapes: frozenset[PathShape]
    #: the lowest version that is used towards it
    tls: TlsVersion
    #: whether calls to it that no rule allows go on, and are recorded
    observed: bool
    #: the units that it belongs to as a caller
    units: tuple[int, ...]
    #: what it offers by name; records are grouped by these templates
    api: EntryTable[Rule]
    #: as a destination: the rules, and the guards, for each unit of callers that has any
    rules: dict[int, EntryTable[Rule]] = field(repr=False)
    guards: dict[int, EntryTable[Guard]] = field(repr=False)
