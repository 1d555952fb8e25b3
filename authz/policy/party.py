"""Who takes part in calls, as the index knows them: Services and ThirdParties with what they allow, answer to and may.

Rules and guards are kept for each *unit* of callers (see `index`) and destination, and found by the call's method and
path segments: rules narrowly, guards broadly.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from authz.policy.condition import ConditionError
from authz.policy.operation import ALL, GrpcOperation, HttpOperation
from authz.policy.route import ANY_SEGMENT, REST
from authz.policy.segment_trie import SegmentTrie, grown, matching_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from authz.policy.condition import CallFacts, Condition
    from authz.policy.operation import All
    from authz.policy.route import PathShape
    from authz.policy.segment_trie import Tail
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

#: Callers that a rule selects together: the name of a Service or ThirdParty, or `#` and the number of a set of callers.
Unit: TypeAlias = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[R]):
    """What one path pattern of a rule stands for.

    `template` is the path pattern as it is written, None where every path matches. `grpc` entries match only calls that
    say that they are gRPC, and their route is the call's own path.
    """

    methods: frozenset[str] | All
    grpc: bool
    template: str | None
    rule: R

    @property
    def literals(self) -> int:
        """The number of literal segments; fewest where every path matches."""
        return -1 if self.template is None else sum(part[:1] != "{" for part in self.template[1:].split("/"))


class EntryTable(SegmentTrie[Entry[R]]):
    """Entries by path; built once by :meth:`add_operation`, then only read.

    No path ends at the root of the trie, which has a segment at least: what is kept there is for every path.
    """

    __slots__ = ()

    def add_operation(self, operation: HttpOperation | GrpcOperation, rule: R) -> None:
        """Add what an operation allows."""
        self.add_entries(entries_of(operation, rule))

    def add_entries(self, entries: Iterable[tuple[Sequence[str] | None, Entry[R]]]) -> None:
        """Add entries, each with the segments of the paths that it matches; None for every path."""
        for segments, entry in entries:
            self.add(() if segments is None else segments, entry)

    def meaning(self, method: str, segments: list[str], *, is_grpc: bool) -> list[Entry[R]]:
        """Give the entries that mean this call."""
        found = self.matching(segments)
        if self.here is not None:
            found += self.here
        return _by_method(found, method, is_grpc=is_grpc) if found else found


class RuleTable(Generic[R]):
    """The rules of a whole set, by unit of callers, destination and first segment of the path.

    One text stands for all three. Names have no space in them, so that no two can be mistaken for each other.

    # INVARIANT (cost): one look-up for each unit of the caller leads to the rules. No table of the destination, of the
    # caller or of the pair is read on the way, because a hundred thousand rules fit in no cache.
    """

    __slots__ = ("_by_segment", "_others")

    def __init__(self) -> None:
        self._by_segment: dict[str, SegmentTrie[Entry[R]] | Tail[Entry[R]]] = {}
        #: templates that begin with no literal, and what is for every path
        self._others: dict[str, EntryTable[R]] = {}

    def add(self, unit: Unit, destination: str, segments: Sequence[str] | None, entry: Entry[R]) -> None:
        """Add an entry with the segments of the paths that it matches; None for every path."""
        if segments is None or segments[0] in {ANY_SEGMENT, REST}:
            self._others.setdefault(f"{unit} {destination}", EntryTable()).add_entries([(segments, entry)])
        else:
            at = f"{unit} {destination} {segments[0]}"
            self._by_segment[at] = grown(self._by_segment.get(at), tuple(segments[1:]), entry)

    def meaning(
        self, units: Sequence[Unit], destination: str, method: str, segments: list[str], *, is_grpc: bool
    ) -> list[Entry[R]]:
        """Give the entries that mean this call."""
        found: list[Entry[R]] = []
        called = f" {destination} {segments[0]}"
        for unit in units:
            child = self._by_segment.get(unit + called)
            if child is not None:
                found += matching_below(child, segments, 1)
            if self._others:
                table = self._others.get(f"{unit} {destination}")
                if table is not None:
                    found += table.meaning(method, segments, is_grpc=is_grpc)
        if len(found) == 1 and not found[0].grpc:  # the usual case
            return found if found[0].methods is ALL or method in found[0].methods else []
        return _by_method(found, method, is_grpc=is_grpc) if found else found


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

    def meaning(self, method: str, segments: list[str], *, is_grpc: bool) -> list[Entry[Guard]]:
        """Give the entries that mean this call."""
        found = super().meaning(method, segments, is_grpc=is_grpc)
        # One slash fewer; one slash more is in the table, so that the two never add up to two.
        if len(segments) > 1 and not segments[-1]:
            found += _by_method(self.matching(segments[:-1]), method, is_grpc=is_grpc)
        return found


def _by_method(entries: Sequence[Entry[R]], method: str, *, is_grpc: bool) -> list[Entry[R]]:
    """Give those of some entries, whose paths match, that mean a call by this method."""
    return [
        entry for entry in entries if (entry.methods is ALL or method in entry.methods) and (is_grpc or not entry.grpc)
    ]


def broadened(segments: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Give a pattern's segments, the same without its trailing slash, and both without its REST."""
    yield segments
    if segments[-1] == REST:
        yield from broadened(segments[:-1] or ("",))
    elif len(segments) > 1 and not segments[-1]:
        yield segments[:-1]


def entries_of(operation: HttpOperation | GrpcOperation, rule: R) -> Iterator[tuple[Sequence[str] | None, Entry[R]]]:
    """Give what a rule's operation stands for, each entry with the segments of its paths; None for every path."""
    if isinstance(operation, GrpcOperation):
        for method in operation.methods:
            yield (
                method.segments,
                Entry(methods=frozenset({GRPC_METHOD}), grpc=True, template=f"/{method}", rule=rule),
            )
    elif operation.paths is ALL:
        yield None, Entry(methods=operation.methods, grpc=False, template=None, rule=rule)
    else:
        for path in operation.paths:
            yield (
                path.segments,
                Entry(methods=operation.methods, grpc=False, template=path.text, rule=rule),
            )


def most_literal(entries: Sequence[Entry[R]]) -> Entry[R] | None:
    """Give the entry whose template has the most literal segments; among equals, the first by its text."""
    if len(entries) <= 1:
        return entries[0] if entries else None
    return min(entries, key=lambda entry: (-entry.literals, entry.template or ""))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Party:
    """A Service or ThirdParty of the set; a Service's window is always open."""

    # What every decision reads stands first, beside each other in memory.
    name: str
    is_service: bool
    #: what it offers by name, None if nothing; records are grouped by these templates
    api: EntryTable[Rule] | None = field(repr=False)
    #: those of it whose calls may last, None if there are none
    long_lived: EntryTable[Rule] | None = field(repr=False)
    #: whether calls to it that no rule allows go on, and are recorded
    observed: bool
    #: whether the connection's certificate proves who calls it
    accepts_x509: bool
    path_shapes: frozenset[PathShape]
    #: the sets of callers that it belongs to
    sets: tuple[Unit, ...]
    #: the lowest version that is used towards it
    tls: TlsVersion
    window: Window
    attributes: Mapping[str, str]
    #: whether a JWT-SVID proves who calls it
    accepts_jwt: bool
    #: the Services that may present another workload's JWT-SVID to it
    forwarders: frozenset[str]
    #: the hosts and ports that it may open opaque tunnels to
    tunnels: frozenset[tuple[str, int]]
    #: what a decision says of it: the name of a Service, or that of a ThirdParty
    names: tuple[str | None, str | None] = field(init=False, repr=False)
    #: what it calls as, whatever its SPIFFE ID
    units: tuple[Unit, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", (self.name, None) if self.is_service else (None, self.name))
        object.__setattr__(self, "units", (self.name, *self.sets))
