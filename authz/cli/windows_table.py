"""The windows of a policy set as a person reads them: a line for each, and below it who tried outside of its dates.

Names of callers, addresses and hosts are whatever somebody sent: nothing of them reaches the terminal unescaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.insight.attempt import WindowKind
from authz.insight.window_dates import WindowStage
from authz.policy.errors import printable
from authz.policy.window_words import duration, instant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from authz.insight.attempt_tally import Attempts, SourceCount
    from authz.insight.window_report import WindowReport

_HEADINGS: Final = ("NAME", "KIND", "STATE", "OPENS", "CLOSES", "")
_KINDS: Final = {WindowKind.THIRD_PARTY: "ThirdParty", WindowKind.MICRO_POLICY: "MicroPolicy"}
#: of one window; `-o json` has them all
MOST_SOURCES: Final = 10

_RESET, _BOLD = "\x1b[0m", "\x1b[1m"
_COLOURS: Final = {
    WindowStage.OPENING: "\x1b[36m",
    WindowStage.OPEN: "\x1b[32m",
    WindowStage.CLOSING: "\x1b[33m",
    WindowStage.ENDED: "\x1b[31m",
}


def windows_table(reports: Sequence[WindowReport], now_ns: int, *, coloured: bool) -> str:
    """Give the lines for a terminal; without `coloured` there is no escape sequence in them."""
    if not reports:
        return "no ThirdParty, and no MicroPolicy with a window"
    rows = [_HEADINGS, *(_row(report, now_ns) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [_line(_HEADINGS, widths, {0: _BOLD} if coloured else {})]
    for report, row in zip(reports, rows[1:], strict=True):
        lines.append(_line(row, widths, {2: _COLOURS[report.stage]} if coloured else {}))
        lines.extend(_tried(report))
    return "\n".join(lines)


def _row(report: WindowReport, now_ns: int) -> tuple[str, ...]:
    window = report.window
    return (
        window.name,
        _KINDS[window.kind],
        report.stage.value,
        "-" if window.opens_ns is None else instant(window.opens_ns),
        "-" if window.closes_ns is None else instant(window.closes_ns),
        _when(report, now_ns),
    )


def _when(report: WindowReport, now_ns: int) -> str:
    window = report.window
    hours = "" if window.hours is None else f"; hours: {printable(window.hours)}"
    match report.stage:
        case WindowStage.OPENING:
            return f"opens in {duration((window.opens_ns or now_ns) - now_ns)}{hours}"
        case WindowStage.OPEN | WindowStage.CLOSING:
            if window.closes_ns is None:
                return f"without end{hours}"
            return f"{duration(window.closes_ns - now_ns)} more{hours}"
        case WindowStage.ENDED:
            return f"closed {duration(now_ns - (window.closes_ns or now_ns))} ago{hours}"


def _line(cells: Sequence[str], widths: Sequence[int], colours: dict[int, str]) -> str:
    shown = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        padded = cell.ljust(width)
        shown.append(f"{colours[column]}{padded}{_RESET}" if column in colours else padded)
    return "  ".join(shown).rstrip()


def _tried(report: WindowReport) -> Iterator[str]:
    if report.before.records:
        yield from _attempts(report.before, "before it opened")
    if report.after.records:
        yield from _attempts(report.after, "since the end")


def _attempts(attempts: Attempts, when: str) -> Iterator[str]:
    first = "-" if attempts.first_ns is None else instant(attempts.first_ns)
    last = "-" if attempts.last_ns is None else instant(attempts.last_ns)
    repeated = "" if attempts.records == attempts.count else f" ({attempts.records} refusals)"
    plural = "" if attempts.count == 1 else "s"
    yield f"  {attempts.count} attempt{plural}{repeated} {when}, all refused: first {first}, last {last}"
    width = max((len(str(counted.count)) for counted in attempts.sources), default=0)
    for counted in attempts.sources[:MOST_SOURCES]:
        yield f"    {counted.count:>{width}}  {_source(counted)}"
    more = len(attempts.sources) - MOST_SOURCES
    if more > 0:
        yield f"    {'':>{width}}  and {more} sources more; `-o json` has them all"


def _source(counted: SourceCount) -> str:
    source = counted.source
    if not source.identity and not source.service and not source.address:
        return printable(f"(other sources) {source.direction.value} at the sidecar of {source.sidecar}")
    who = " ".join(each for each in (source.service, source.identity) if each) or "(no SPIFFE ID)"
    address = f" from {source.address}" if source.address else ""
    return printable(f"{who}{address}, {source.direction.value} at the sidecar of {source.sidecar}")
