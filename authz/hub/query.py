"""Questions about flows: the map, an edge, its history, rules and their use.

A question is put to a store as SQL that SQLite and ClickHouse both understand. What it takes grows with the flows of
the span: whole hours are read as such (:mod:`authz.hub.store.spans`).
"""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING, Any, Final

from authz.hub.columns import COUNTED, COUNTED_PACKED, DURATIONS, STATUSES
from authz.hub.edge_detail import EDGE_ROW, EdgeRow, edge_detail, point
from authz.hub.edges import SUMMED_ON_MAP, edges_of
from authz.hub.histogram_text import counts_of
from authz.hub.known_series import KnownSeries
from authz.hub.span import Span
from authz.hub.store.spans import finest_step_s
from authz.hub.store.store import ANY_STEP_S, HOURS, STEP_S
from authz.instant import rfc3339_from_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.hub import answers
    from authz.hub.store.store import Part, Store

_SUMMED: Final = ("calls", "cut", "unreached", "received", "sent", *STATUSES, *DURATIONS)
#: what a series adds to an edge: sums, then the latency histogram
_NUMBERS: Final = ", ".join(
    (
        "SUM(f.calls)",
        "SUM(CASE WHEN s.decision = 'allow' THEN f.calls ELSE 0 END)",
        "SUM(CASE WHEN s.decision = 'deny' THEN f.calls ELSE 0 END)",
        "SUM(CASE WHEN s.reason = 'observed' THEN f.calls ELSE 0 END)",
        "SUM(f.cut)",
        "SUM(f.unreached)",
        "SUM(f.received)",
        "SUM(f.sent)",
        *(f"SUM(f.{column})" for column in (*STATUSES, *DURATIONS)),
    )
)
_IS_DURATION: Final = frozenset(DURATIONS)
#: packed latency histograms are added up as text; only SQLite has some
_PACKED, _PACKED_OF_SERIES, _NOTHING_PACKED = "group_concat(durations, '')", "group_concat(f.durations, '')", "''"
#: A row of an hour says only that; where nothing came after the span, the series itself knows better.
_LAST_OF_SERIES: Final = """CASE WHEN s.last_s IS NOT NULL AND s.last_s < :until AND s.last_s > f.last_s
    THEN s.last_s ELSE f.last_s END"""
_LAST: Final = f"MAX({_LAST_OF_SERIES})"
#: a history has so many points where no step is given
_POINTS: Final = 300
_STEPS_S: Final = (10, 30, 60, 300, 900, 3600, 6 * 3600, 86_400)


class Flows:
    """Answers questions about the flows in a store."""

    def __init__(self, store: Store, known: KnownSeries | None = None) -> None:
        """`known` outlives a question where it is given."""
        self._store = store
        self._known = KnownSeries(store) if known is None else known

    def edges(self, span: Span, now_s: int, service: str | None) -> dict[tuple[str, str], answers.Edge]:
        """Give the map of a span, by the ends of each edge; only those of one party where it is named."""
        selects, values = self._selects(span, now_s, columns=SUMMED_ON_MAP, as_text=True)
        if not selects:
            return {}
        # The series of an edge are put together here: they are few, and to sort them by two texts costs more. Every
        # flow has a series: each part is joined by itself and from the left, so that SQLite hands its rows on one by
        # one, and need not keep them first.
        sums = ", ".join(f"f.{each}" for each in SUMMED_ON_MAP)
        question = " UNION ALL ".join(
            f"""SELECT f.series, COALESCE(s.first_s, f.first_s), {_LAST_OF_SERIES}, {sums}, f.durations
            FROM ({select}) AS f LEFT JOIN series AS s ON s.id = f.series"""  # noqa: S608
            for select in selects
        )
        rows = self._store.rows(question, values)
        return edges_of(rows, self._known.of({row[0] for row in rows}), service)

    def edge(self, span: Span, now_s: int, source: str, target: str) -> answers.EdgeDetail | None:
        """Give one edge with its routes; without a call in the span its numbers are 0, None if it was never seen."""
        values: dict[str, Any] = {"source": source, "target": target}
        question = "SELECT MIN(first_s), MAX(last_s) FROM series WHERE source = :source AND target = :target"
        ((first_seen, last_seen),) = self._store.rows(question, values)
        flows, numbers, values = self._flows(span, now_s, source=source, target=target)
        question = f"""{flows} SELECT s.method, s.route, s.policy, s.reason, s.protocol, s.tls_version, s.tls_cipher,
            s.sidecar, s.identity, MIN(COALESCE(s.first_s, f.first_s)), {_LAST}, {numbers}
            FROM f JOIN series AS s ON s.id = f.series
            GROUP BY s.method, s.route, s.policy, s.reason, s.protocol, s.tls_version, s.tls_cipher, s.sidecar,
            s.identity"""  # noqa: S608
        found = self._store.rows(question, values) if flows else []
        rows = [EdgeRow._make((*row[:EDGE_ROW], _unpacked(row[EDGE_ROW:]))) for row in found]
        if first_seen is None and not rows:
            return None
        return edge_detail(source, target, span, rows, (first_seen, last_seen))

    def history(
        self, span: Span, now_s: int, source: str, target: str, step_s: int | None
    ) -> tuple[int, list[answers.Point]]:
        """Give the step (s) and the points of an edge that had calls; the step is as coarse as what is kept."""
        finest = finest_step_s(span.from_s, now_s, self._store.retention)
        step = max(step_s or default_step_s(span), finest)
        step += -step % finest
        # From the same instants on, whatever the span begins with: a point is the same in every answer.
        begin = span.from_s - span.from_s % step
        end = span.until_s + -span.until_s % step
        flows, numbers, values = self._flows(
            Span(from_s=begin, until_s=end), now_s, source=source, target=target, step_s=step
        )
        if not flows:
            return step, []
        question = f"""{flows} SELECT f.step, {numbers} FROM f JOIN series AS s ON s.id = f.series
            GROUP BY f.step ORDER BY f.step"""  # noqa: S608
        return step, [point(start_s, _unpacked(row)) for start_s, *row in self._store.rows(question, values)]

    def is_edge(self, source: str, target: str) -> bool:
        """Whether a call from one to the other was ever counted."""
        question = "SELECT 1 FROM series WHERE source = :source AND target = :target LIMIT 1"
        return bool(self._store.rows(question, {"source": source, "target": target}))

    def is_policy(self, policy: str) -> bool:
        """Whether a rule of this name has ever decided something."""
        return bool(self._store.rows("SELECT 1 FROM series WHERE policy = :policy LIMIT 1", {"policy": policy}))

    def policy_use(self, span: Span, now_s: int) -> dict[str, tuple[int, int, int, int]]:
        """Give calls, allowed, denied and the last time (s) of each rule that decided something in a span."""
        flows, _, values = self._flows(span, now_s, columns=("calls",))
        if not flows:
            return {}
        question = f"""{flows} SELECT s.policy, SUM(f.calls),
            SUM(CASE WHEN s.decision = 'allow' THEN f.calls ELSE 0 END),
            SUM(CASE WHEN s.decision = 'deny' THEN f.calls ELSE 0 END), {_LAST}
            FROM f JOIN series AS s ON s.id = f.series WHERE s.policy IS NOT NULL GROUP BY s.policy"""  # noqa: S608
        rows = self._store.rows(question, values)
        return {policy: (calls, allowed, denied, last_s) for policy, calls, allowed, denied, last_s in rows}

    def edges_of_policy(self, span: Span, now_s: int, policy: str) -> list[answers.PolicyEdge]:
        """Give the edges on which a rule decided something in a span, those with most calls first."""
        flows, _, values = self._flows(span, now_s, columns=("calls",))
        if not flows:
            return []
        values["policy"] = policy
        question = f"""{flows} SELECT s.source, s.target, s.method, s.route, SUM(f.calls),
            SUM(CASE WHEN s.decision = 'allow' THEN f.calls ELSE 0 END),
            SUM(CASE WHEN s.decision = 'deny' THEN f.calls ELSE 0 END), {_LAST}
            FROM f JOIN series AS s ON s.id = f.series WHERE s.policy = :policy
            GROUP BY s.source, s.target, s.method, s.route"""  # noqa: S608
        edges: dict[tuple[str, str], answers.PolicyEdge] = {}
        last: dict[tuple[str, str], int] = {}
        for source, target, method, route, calls, allowed, denied, last_s in self._store.rows(question, values):
            edge = edges.setdefault(
                (source, target),
                {"from": source, "to": target, "calls": 0, "allowed": 0, "denied": 0, "routes": [], "last_used": None},
            )
            edge["calls"] += calls
            edge["allowed"] += allowed
            edge["denied"] += denied
            edge["routes"] = sorted({*edge["routes"], f"{method} {route or '(no route)'}"})
            last[source, target] = max(last.get((source, target), 0), last_s)
            edge["last_used"] = rfc3339_from_s(last[source, target])
        return sorted(edges.values(), key=lambda each: (-each["calls"], each["from"], each["to"]))

    def parties(self) -> dict[str, tuple[str, int | None, int | None]]:
        """Give everyone who was an end of an edge: its kind, and when it was seen first and last (s)."""
        question = """SELECT name, kind, MIN(first_s), MAX(last_s) FROM (
            SELECT source AS name, source_kind AS kind, first_s, last_s FROM series WHERE first_s IS NOT NULL
            UNION ALL SELECT target, target_kind, first_s, last_s FROM series WHERE first_s IS NOT NULL) AS ends
            GROUP BY name, kind"""
        parties: dict[str, tuple[str, int | None, int | None]] = {}
        for name, kind, first_s, last_s in self._store.rows(question, {}):
            known = parties.get(name)
            if known is None:
                parties[name] = kind, first_s, last_s
            else:
                ends = [each for each in (known[1], first_s) if each is not None]
                lasts = [each for each in (known[2], last_s) if each is not None]
                parties[name] = known[0] if kind == "unknown" else kind, min(ends), max(lasts)
        return parties

    def identities(self) -> dict[str, set[str]]:
        """Give the SPIFFE IDs with which each caller was seen."""
        found: dict[str, set[str]] = {}
        question = "SELECT DISTINCT source, identity FROM series WHERE identity IS NOT NULL AND first_s IS NOT NULL"
        for source, identity in self._store.rows(question, {}):
            found.setdefault(source, set()).add(identity)
        return found

    def _flows(
        self,
        span: Span,
        now_s: int,
        *,
        source: str | None = None,
        target: str | None = None,
        step_s: int = 0,
        columns: tuple[str, ...] = _SUMMED,
    ) -> tuple[str, str, dict[str, Any]]:
        """Give the beginning of a question, and what adds up its numbers (:func:`_unpacked`).

        `f` has the sums of each series in a span; empty where nothing can be.
        """
        selects, values = self._selects(span, now_s, source=source, target=target, step_s=step_s, columns=columns)
        packed = any(_PACKED in select for select in selects)
        numbers = f"{_NUMBERS}, {_PACKED_OF_SERIES if packed else _NOTHING_PACKED}"
        return (f"WITH f AS ({' UNION ALL '.join(selects)})" if selects else ""), numbers, values

    def _selects(
        self,
        span: Span,
        now_s: int,
        *,
        source: str | None = None,
        target: str | None = None,
        step_s: int = 0,
        columns: tuple[str, ...] = _SUMMED,
        as_text: bool = False,
    ) -> tuple[list[str], dict[str, Any]]:
        """Give, of each part of a span, what asks for the sums of its series; none where nothing can be.

        `as_text`: the latency histogram is one text more, `durations`.
        """
        until_s = span.until_s
        if until_s >= now_s > span.from_s:
            # Nothing comes after now: the hour that goes on is read as a whole one.
            until_s += -until_s % STEP_S[HOURS]
        parts = self._store.parts(span.from_s, until_s, now_s, step_s or ANY_STEP_S, of_edge=source is not None)
        values: dict[str, Any] = {"until": until_s}
        wanted = ""
        if source is not None:
            wanted = "AND series IN (SELECT id FROM series WHERE source = :source AND target = :target)"
            values |= {"source": source, "target": target}
        step, group = ("", "")
        if step_s:
            step, group = f"time - time % {step_s} AS step, ", ", step"
        selects = []
        for number, part in enumerate(parts):
            values |= {f"from{number}": part.from_s, f"until{number}": part.until_s}
            of_span = f"time = :from{number}" if part.once else f"time >= :from{number} AND time < :until{number}"
            times = f"MIN({part.first}) AS first_s, MAX({part.last}) AS last_s"
            end = f"GROUP BY series{group}"
            if part.once:
                times, end = f"{part.first} AS first_s, {part.last} AS last_s", ""
            selects.append(
                f"""SELECT {step}series, {times}, {self._sums(part, columns, as_text=as_text)} FROM {part.table}
                WHERE {of_span} AND {COUNTED_PACKED if part.packed else COUNTED} {wanted} {end}"""  # noqa: S608
            )
        return selects, values

    def _sums(self, part: Part, columns: tuple[str, ...], *, as_text: bool) -> str:
        """Give what adds up the columns of a part, and beside them what is packed, or all durations where `as_text`."""

        def summed(column: str) -> str:
            return column if part.once else f"SUM({column})"

        text = _NOTHING_PACKED
        if part.packed:
            text = _PACKED
        elif as_text:
            text = self._store.text_of([summed(each) for each in DURATIONS])
        sums = [f"{0 if part.packed and each in _IS_DURATION else summed(each)} AS {each}" for each in columns]
        return ", ".join([*sums, f"{text} AS durations"])


def _unpacked(row: Sequence[Any]) -> tuple[int, ...]:
    """Give the numbers of a row, whose last one is what is packed of its latency histogram."""
    *numbers, text = row
    if not text:
        return tuple(numbers)
    begin = len(numbers) - len(DURATIONS)
    return (*numbers[:begin], *map(add, numbers[begin:], counts_of([text])))


def default_step_s(span: Span) -> int:
    """Give the step of a history that has about as many points as can be shown."""
    length = span.until_s - span.from_s
    return next((step for step in _STEPS_S if length <= step * _POINTS), _STEPS_S[-1])
