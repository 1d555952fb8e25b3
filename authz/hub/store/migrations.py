"""The steps from the first tables to those of this program, in their order (:mod:`authz.hub.store.migration`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.hub.store.attempts_table import ATTEMPTS_TABLE
from authz.hub.store.days_table import DAYS_TABLE
from authz.hub.store.minutes_table import MINUTES_TABLE
from authz.hub.store.pending_table import PENDING_TABLE

if TYPE_CHECKING:
    from authz.hub.store.migration import Migration

#: The first of them leads to version 2. One that has been published is never changed.
MIGRATIONS: Final[tuple[Migration, ...]] = (ATTEMPTS_TABLE, DAYS_TABLE, PENDING_TABLE, MINUTES_TABLE)
