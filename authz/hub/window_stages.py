"""Windows that open and close while the hub runs: each change of a stage, told once. Pure.

Nothing is looked at before the next instant at which a date of some window says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.hub.events import Event
from authz.insight.window_dates import CLOSING_NS
from authz.instant import rfc3339_from_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.hub.known_policies import Known
    from authz.insight.attempt import WindowKind
    from authz.insight.window_dates import WindowDates, WindowStage


class WindowStages:
    """Remembers how each window stood."""

    def __init__(self) -> None:
        self._known: Known | None = None
        self._stages: dict[tuple[WindowKind, str], WindowStage] = {}
        self._next_ns: int | None = None

    def events(self, known: Known | None, now_ns: int) -> Iterator[Event]:
        """Give what has changed since the last time; what is new is not told, only what changes from then on."""
        if known is None or (known is self._known and (self._next_ns is None or now_ns < self._next_ns)):
            return
        self._known = known
        before, self._stages = self._stages, {}
        upcoming: list[int] = []
        for window in known.windows:
            key = window.kind, window.name
            stage = self._stages[key] = window.stage(now_ns)
            upcoming.extend(instant for instant in _instants(window) if instant > now_ns)
            if before.get(key, stage) is not stage:
                yield Event(
                    kind="window",
                    data={
                        "name": window.name,
                        "what": "state",
                        "kind": window.kind.value,
                        "state": stage.value,
                        "time": rfc3339_from_ns(now_ns),
                    },
                )
        self._next_ns = min(upcoming, default=None)


def _instants(window: WindowDates) -> Iterator[int]:
    """Give the instants at which a window's stage may change."""
    if window.opens_ns is not None:
        yield window.opens_ns
    if window.closes_ns is not None:
        yield window.closes_ns - CLOSING_NS
        yield window.closes_ns
