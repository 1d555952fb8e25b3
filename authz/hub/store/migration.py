"""How a store of an earlier version of this program becomes one of this version: steps, each done wholly or not at all.

A store bears the number of its version. A new one has 0, and step 1 makes its first tables; what follows stands in
:mod:`authz.hub.store.migrations`. A new store goes through all of it too: there is one way to any version, and what a
new store has is what an old one gets. A step that has been published is never changed: another one follows it.

SQLite does a step and writes its number in one transaction: a step that was interrupted (kill -9, a full disk) leaves
the store as it was, and is begun anew. ClickHouse has no transactions: the number is written when all of a step is
done, so its statements have to bear being run again.

# INVARIANT (forward): a store of a later version than the program's is not touched.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from authz.hub.errors import StoreError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from clickhouse_connect.driver.client import Client

#: a step that takes longer says so as often
TELL_EVERY_S: Final = 5.0


class Work(Protocol):
    """What a step does in Python, inside of its transaction; `told` is to be called often, with how much is done."""

    def __call__(self, connection: sqlite3.Connection, told: Callable[[int, int], None], /) -> None:
        """Do it."""


class ClickHouseWork(Protocol):
    """What a step does in Python where there is no transaction: it has to bear being run again from its beginning."""

    def __call__(self, client: Client, told: Callable[[int, int], None], /) -> None:
        """Do it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step: what it does, in words for who waits, and how in each store.

    `clickhouse`: statements that bear being run again (`IF NOT EXISTS`, `ADD COLUMN IF NOT EXISTS`, …).
    """

    what: str
    sqlite: tuple[str | Work, ...]
    clickhouse: tuple[str | ClickHouseWork, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A migration, and the version that a store has behind it."""

    version: int
    last: int
    migration: Migration


def steps_from(version: int, migrations: Sequence[Migration], where: str) -> list[Step]:
    """Give what is to be done with a store of this version; raises StoreError for one of a later program."""
    if not 0 <= version <= len(migrations):
        raise StoreError(
            f"{where}: a later version of authz has written it (its version is {version}, this one knows "
            f"{len(migrations)}): start that version, or give another store"
        )
    return [
        Step(version=number, last=len(migrations), migration=migration)
        for number, migration in enumerate(migrations[version:], version + 1)
    ]


class StepProgress:
    """Says that a step begins, every few seconds how far it is, and at the end of a long one how long it took."""

    def __init__(
        self, step: Step, where: str, say: Callable[[str], None], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock_s = clock_s
        self._of = f"{where}: version {step.version} of {step.last}: {step.migration.what}"
        self._began_s = self._said_s = clock_s()
        self._far = ""
        say(self._of)

    def told(self, done: int, total: int) -> None:
        """Take in how much is done."""
        self._far = f", {done} of {total}"
        self.beat()

    def beat(self) -> None:
        """Say something where it is time to: the step still runs."""
        now_s = self._clock_s()
        if now_s - self._said_s >= TELL_EVERY_S:
            self._said_s = now_s
            self._say(f"{self._of}{self._far}, {now_s - self._began_s:.0f} s")

    def end(self) -> None:
        """Take in that the step is done."""
        now_s = self._clock_s()
        if now_s - self._began_s >= TELL_EVERY_S:
            self._say(f"{self._of}: done in {now_s - self._began_s:.0f} s")
