"""What the hub wants of a store, and the tables that every store has.

    sidecars   one row a sidecar: the batch that was taken last, and what it said of itself
    revisions  which revision a sidecar has decided by, first and last
    series     what flows of a kind have in common (:class:`authz.hub.series.Series`), `first_s` and `last_s` when there
               were calls of it that an edge counts (null: never)
    seconds    flows: time (10 s), series, and the columns of :data:`authz.hub.columns.COLUMNS`
    minutes    the same, added up by the minute
    hours      the same, by the hour
    records    decision records that are kept in full
    attempts   those of them that are attempts on windows, added up (:mod:`authz.hub.window_attempts`)

Questions are SQL in the part of the language that SQLite and ClickHouse share. A store says in which tables the flows
of a span are (:meth:`Store.parts`), because it alone knows what was added up already and what has been forgotten.

# INVARIANT (once): a batch that was taken is added in one transaction with its id; one that comes again is not.
# INVARIANT (durable): what `add` has returned outlives a kill -9 and a power cut.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Protocol

from authz.hub.kept_record import KeptRecord
from authz.hub.series import Series

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from authz.hub.arrival import Arrival

#: each level: its table, its step, and for how long it is kept
SECONDS, MINUTES, HOURS = "seconds", "minutes", "hours"
STEP_S: Final = {SECONDS: 10, MINUTES: 60, HOURS: 3600}
#: for a question that does not tell times apart: a store may have tables by the day
ANY_STEP_S: Final = 86_400

SERIES_COLUMNS: Final = tuple(each.name for each in fields(Series))
RECORD_COLUMNS: Final = tuple(each.name for each in fields(KeptRecord))
SIDECAR_COLUMNS: Final = (
    "sidecar", "service", "boot", "sequence", "sent_ms", "received_ms", "revision", "svid_expires_ms", "spooled",
    "lost", "unjoined", "dropped", "failed_handshakes", "ready",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """For how many days flows are kept at each step, and records of either kind."""

    seconds_days: int = 2
    minutes_days: int = 14
    hours_days: int = 400
    denied_days: int = 400
    allowed_days: int = 30

    def flows_s(self, table: str) -> int:
        """Give for how long a table of flows keeps them."""
        days = {SECONDS: self.seconds_days, MINUTES: self.minutes_days, HOURS: self.hours_days}
        return days[table] * 86_400


@dataclass(frozen=True, slots=True)
class Part:
    """The flows of one table with `from_s <= time < until_s`.

    `table` may be any that SQL can select from; `first` and `last` are the columns that say when a flow was. `packed`:
    it has no columns of DURATIONS, but one text, `durations` (:mod:`authz.hub.histogram_text`). `once`: it is one step
    of `table`, which has a series only once there: nothing need be added up.
    """

    table: str
    from_s: int
    until_s: int
    first: str = "time"
    last: str = "time"
    packed: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """How much is stored: what `GET /status` says of it."""

    kind: str
    size_bytes: int
    records: int
    series: int
    oldest_s: int | None


class Store(Protocol):
    """One store. `add` and `tidy` are called by one thread, `rows` and `facts` by any."""

    def add(self, batches: Sequence[Arrival], received_ms: int) -> list[bool]:
        """Add batches for good, and say of each whether it was new; raises StoreError where nothing was added."""

    def rows(self, question: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Answer a question in SQL, with `:name` for its values; raises StoreError."""

    def text_of(self, numbers: Sequence[str]) -> str:
        """Give, in SQL, one text of these numbers, with commas between them."""

    @property
    def retention(self) -> Retention:
        """For how long it keeps what it was given."""

    def parts(self, from_s: int, until_s: int, now_s: int, coarsest_s: int, *, of_edge: bool = False) -> list[Part]:
        """Say where the flows of a span are; its ends are moved outwards to the finest step that is still kept.

        No table is named whose step does not divide `coarsest_s`. `of_edge`: only the flows of one edge are looked for.
        """

    def tidy(self, now_s: int) -> bool:
        """Do a piece of the work that waits (adding up, forgetting), and say whether there is more."""

    def facts(self) -> StoreFacts:
        """Say how much is stored."""

    def close(self) -> None:
        """Let go of it."""
