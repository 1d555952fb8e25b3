"""Who takes part in calls, as the index knows them: Services and ThirdParties with what they allow, answer to and may.

A destination keeps one table of rules for each *unit* of callers (see `index`). Rules are found in a table by the
call's method and path segments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from authz.policy.operation import ALL, GrpcOperation, HttpOperation
from authz.policy.segment_trie import SegmentTrie

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from authz.policy.operation import All
    from authz.policy.route import PathShape
    from authz.policy.window import Window

#: The method of a gRPC call.
GRPC_METHOD: Final = "POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A MicroPolicy as far as a decision needs it; or an entry of an `api`, which is always open."""

    name: str
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one path pattern of a rule stands for.

    `template` is the path pattern as it is written, None where every path matches; `literals` counts its literal
    segments. `grpc` entries match only calls that say that they are gRPC, and their route is the call's own path.
    """

    methods: frozenset[str] | All
    grpc: bool
    template: str | None
    literals: int
    rule: Rule

    def allows_method(self, method: str, *, is_grpc: bool) -> bool:
        """Whether a call by this method, to a path that matches, is meant."""
        return (self.methods is ALL or method in self.methods) and (is_grpc or not self.grpc)


class EntryTable:
    """Entries by path; built once by :meth:`add`, then only read."""

    __slots__ = ("_by_path", "_everywhere")

    def __init__(self) -> None:
        self._by_path: SegmentTrie[Entry] | None = None
        self._everywhere: list[Entry] = []

    def add(self, operation: HttpOperation | GrpcOperation, rule: Rule) -> None:
        """Add what an operation allows."""
        for segments, entry in _entries(operation, rule):
            if segments is None:
                self._everywhere.append(entry)
            else:
                if self._by_path is None:
                    self._by_path = SegmentTrie()
                self._by_path.add(segments, entry)

    def matching(self, method: str, segments: list[str], *, is_grpc: bool) -> list[Entry]:
        """Give the entries that mean this call."""
        found = self._everywhere if self._by_path is None else self._everywhere + self._by_path.matching(segments)
        return [entry for entry in found if entry.allows_method(method, is_grpc=is_grpc)]


def _entries(operation: HttpOperation | GrpcOperation, rule: Rule) -> Iterable[tuple[Sequence[str] | None, Entry]]:
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


def most_literal(entries: Sequence[Entry]) -> Entry | None:
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
    path_shapes: frozenset[PathShape]
    #: the units that it belongs to as a caller
    units: tuple[int, ...]
    #: what it offers by name; records are grouped by these templates
    api: EntryTable
    #: as a destination: the rules for each unit of callers that has any
    rules: dict[int, EntryTable] = field(repr=False)
