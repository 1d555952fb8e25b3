"""How many calls there were over time, of everybody together: what the page's slider is drawn over.

Counted by the hour, from what is added up by the hour: whole hours, so that a month costs what its hours cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from authz.hub.store.store import HOURS, STEP_S
from authz.instant import NS_PER_S, rfc3339_from_ns

if TYPE_CHECKING:
    from authz.hub import answers
    from authz.hub.span import Span
    from authz.hub.store.store import Store

_HOUR_S: Final = STEP_S[HOURS]
#: bars that a narrow screen can show
_MOST: Final = 200
_DENIED: Final = "SELECT id FROM series WHERE decision = 'deny'"


def density(store: Store, span: Span, now_s: int) -> answers.Density:
    """Give calls and denied ones of a span in whole hours, or several; steps without calls are left out."""
    step_s = _HOUR_S * max(1, -(-(span.until_s - span.from_s) // (_HOUR_S * _MOST)))
    # From the same instants on, whatever the span begins with: a step is the same in every answer.
    begin, end = span.from_s - span.from_s % step_s, span.until_s + -span.until_s % step_s
    values: dict[str, Any] = {}
    selects = []
    for number, part in enumerate(store.parts(begin, end, now_s, _HOUR_S)):
        values |= {f"from{number}": part.from_s, f"until{number}": part.until_s}
        selects.append(
            f"""SELECT time - time % {step_s} AS step, SUM(calls) AS made,
            SUM(CASE WHEN series IN ({_DENIED}) THEN calls ELSE 0 END) AS refused FROM {part.table}
            WHERE time >= :from{number} AND time < :until{number} AND calls > 0 GROUP BY step"""  # noqa: S608 our own
        )
    rows: list[tuple[Any, ...]] = []
    if selects:
        question = f"""SELECT step, SUM(made), SUM(refused) FROM ({" UNION ALL ".join(selects)}) AS f
            GROUP BY step ORDER BY step"""  # noqa: S608 same
        rows = store.rows(question, values)
    points: list[answers.DensityPoint] = [
        {"time": _time(step), "calls": calls, "denied": denied} for step, calls, denied in rows
    ]
    return {"step_s": step_s, "since": _time(begin), "until": _time(end), "points": points}


def _time(seconds: int) -> str:
    return rfc3339_from_ns(seconds * NS_PER_S)
