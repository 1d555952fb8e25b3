"""What `authz windows list` says: every window with its stage, and who tried it outside of its dates.

The JSON names are those of the hub's `GET /windows` (records-and-api contract). Added to them: `hours`, the daily hours
in words or null, and `attempts_before`, of the same shape as `attempts_after`; in both, `records` counts every refusal,
also those that repeat a request id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from authz.instant import rfc3339_from_ns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.insight.attempt import WindowKind
    from authz.insight.attempt_tally import Attempts, SourceCount
    from authz.insight.window_dates import WindowDates, WindowStage


class Counted(Protocol):
    """Who has counted attempts."""

    def attempts(self, kind: WindowKind, name: str, *, after: bool) -> Attempts:
        """Give what was counted of one side of a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReport:
    """One window at an instant."""

    window: WindowDates
    stage: WindowStage
    before: Attempts
    after: Attempts

    def to_json(self) -> dict[str, Any]:
        """Give the window with the API's names."""
        window = self.window
        return {
            "name": window.name,
            "kind": window.kind.value,
            "opens": _time(window.opens_ns),
            "closes": _time(window.closes_ns),
            "hours": window.hours,
            "state": self.stage.value,
            "attempts_before": _attempts(self.before),
            "attempts_after": _attempts(self.after),
        }


def window_reports(windows: Iterable[WindowDates], tally: Counted, now_ns: int) -> tuple[WindowReport, ...]:
    """Join windows with what was counted of them."""
    return tuple(
        WindowReport(
            window=window,
            stage=window.stage(now_ns),
            before=tally.attempts(window.kind, window.name, after=False),
            after=tally.attempts(window.kind, window.name, after=True),
        )
        for window in windows
    )


def _attempts(attempts: Attempts) -> dict[str, Any]:
    return {
        "count": attempts.count,
        "records": attempts.records,
        "first": _time(attempts.first_ns),
        "last": _time(attempts.last_ns),
        "sources": [_source(each) for each in attempts.sources],
    }


def _source(counted: SourceCount) -> dict[str, Any]:
    source = counted.source
    return {
        "identity": source.identity,
        "service": source.service,
        "address": source.address,
        "direction": source.direction.value,
        "sidecar": source.sidecar,
        "count": counted.count,
    }


def _time(instant_ns: int | None) -> str | None:
    return None if instant_ns is None else rfc3339_from_ns(instant_ns)
