"""Questions about decision records: pages of calls, denials by what they have in common, one decision.

What is asked for is found by an index of the store; pages go on where the one before ended, however much came since.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.hub.errors import ParameterError
from authz.hub.kept_record import unpacked
from authz.instant import NS_PER_MS, rfc3339_from_ns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.hub import answers
    from authz.hub.store.store import Store

#: the columns that `GET /calls` filters by, and the names of their parameters
FILTERS: Final = {"decision": "decision", "reason": "reason", "from": "source", "to": "target", "policy": "policy"}
#: what `GET /denials` groups by
GROUPS: Final = {"source": "source", "reason": "reason", "policy": "policy", "destination": "target"}
#: the time of a record (ms), and its number: as many digits as 63 bits hold whatever they are
CURSOR_PATTERN: Final = r"-?[0-9]{1,15}\.[0-9]{1,18}"
_CURSOR: Final = re.compile(r"(-?[0-9]{1,15})\.([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: the next one has what is older than this record."""

    time_ms: int
    number: int

    def __str__(self) -> str:
        return f"{self.time_ms}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read what an answer gave; raises ParameterError for what cannot be one."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise ParameterError("cursor", "it is none that an answer gave")
        return cls(int(found[1]), int(found[2]))


class Records:
    """Answers questions about the records in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def calls(
        self,
        filters: Mapping[str, str],
        since_ms: int | None,
        until_ms: int | None,
        limit: int,
        cursor: Cursor | None,
    ) -> answers.CallPage:
        """Give a page of records, the newest first; `filters` are by the names of the parameters."""
        values: dict[str, Any] = {"limit": limit + 1}
        wanted = []
        for parameter, value in filters.items():
            wanted.append(f"{FILTERS[parameter]} = :{FILTERS[parameter]}")
            values[FILTERS[parameter]] = value
        if since_ms is not None:
            wanted.append("time_ms >= :since")
            values["since"] = since_ms
        if until_ms is not None:
            wanted.append("time_ms < :until")
            values["until"] = until_ms
        if cursor is not None:
            wanted.append("(time_ms < :time OR (time_ms = :time AND n < :number))")
            wanted.append("time_ms <= :time")
            values |= {"time": cursor.time_ms, "number": cursor.number}
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        question = f"SELECT time_ms, n, body FROM records {where} ORDER BY time_ms DESC, n DESC LIMIT :limit"  # noqa: S608
        rows = self._store.rows(question, values)
        more = len(rows) > limit
        rows = rows[:limit]
        return {
            "calls": [unpacked(body) for _, _, body in rows],
            "cursor": str(Cursor(rows[-1][0], rows[-1][1])) if more else None,
        }

    def denials(self, group: str, since_ms: int, until_ms: int) -> list[answers.Denial]:
        """Give denied calls and failed handshakes of a span by what they have in common, the most frequent first."""
        column = GROUPS[group]
        question = f"""SELECT {column}, reason, SUM(CASE WHEN handshakes > 0 THEN handshakes ELSE 1 END),
            MIN(time_ms), MAX(time_ms) FROM records
            WHERE decision = 'deny' AND cut = 0 AND time_ms >= :since AND time_ms < :until
            GROUP BY {column}, reason"""  # noqa: S608
        found: dict[str | None, tuple[int, int, dict[str, int]]] = {}
        for key, reason, count, first, last in self._store.rows(question, {"since": since_ms, "until": until_ms}):
            before = found.get(key, (first, last, {}))
            reasons = {**before[2], reason: before[2].get(reason, 0) + count}
            found[key] = min(before[0], first), max(before[1], last), reasons
        denials: list[answers.Denial] = [
            {
                "key": key,
                "count": sum(reasons.values()),
                "first": time_of_ms(first),
                "last": time_of_ms(last),
                "reasons": reasons,
            }
            for key, (first, last, reasons) in found.items()
        ]
        return sorted(denials, key=lambda each: (-each["count"], each["key"] or ""))

    def decision(self, decision_id: str, *, cut: bool = False) -> answers.DecisionRecord | None:
        """Give the record of a decision, or where only its end was kept, that of its end; None if it is not known.

        `cut`: that of its end alone, which a call has that was cut.
        """
        rows = self._store.rows(
            "SELECT body FROM records WHERE decision_id = :id AND cut >= :least ORDER BY cut, time_ms LIMIT 1",
            {"id": decision_id, "least": int(cut)},
        )
        return unpacked(rows[0][0]) if rows else None


def time_of_ms(time_ms: int) -> str:
    """Write an instant of milliseconds."""
    return rfc3339_from_ns(time_ms * NS_PER_MS)
