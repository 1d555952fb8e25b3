"""What a map says of a series, kept in memory: a series never changes, and a map has thousands.

To hand its words over with each row of each map takes as long as to add them up.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Set as AbstractSet

    from authz.hub.store.store import Store

#: what an edge without TLS, or without a protocol, stands under
NONE: Final = "none"
#: series that are kept, some 400 bytes each
MOST_KNOWN: Final = 100_000
#: series that are asked for in one question
_AT_ONCE: Final = 5000
_WORDS: Final = "id, source, target, method, route, protocol, tls_version, decision, reason"

#: the ends of its edge; method and route; protocol; version of TLS; whether it is allowed, denied, observed (1 or 0)
SeriesOfMap = tuple[tuple[str, str], str, str, str, int, int, int]


class KnownSeries:
    """The series of one store, for any thread; bounded."""

    def __init__(self, store: Store, most: int = MOST_KNOWN) -> None:
        self._store = store
        self._most = most
        self._known: dict[int, SeriesOfMap] = {}

    def of(self, ids: AbstractSet[int]) -> Mapping[int, SeriesOfMap]:
        """Give these series, and maybe others; one that is not stored is left out. Raises StoreError."""
        known = self._known
        missing = set(ids - known.keys())
        if missing and len(known) + len(missing) > self._most:
            # Another question that has the one of before goes on with it.
            known, missing = {}, set(ids)
        ordered = sorted(missing)
        for begin in range(0, len(ordered), _AT_ONCE):
            of_these = ", ".join(map(str, ordered[begin : begin + _AT_ONCE]))
            question = f"SELECT {_WORDS} FROM series WHERE id IN ({of_these})"  # noqa: S608 numbers, each an int
            known.update((number, _of_map(row)) for number, *row in self._store.rows(question, {}))
        self._known = known if len(known) <= self._most else {}
        return known

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._known)


def _of_map(row: list[Any]) -> SeriesOfMap:
    source, target, method, route, protocol, version, decision, reason = row
    return (
        (intern(source), intern(target)),
        f"{method} {route or ''}",
        intern(protocol or NONE),
        intern(version or NONE),
        int(decision == "allow"),
        int(decision == "deny"),
        int(reason == "observed"),
    )
