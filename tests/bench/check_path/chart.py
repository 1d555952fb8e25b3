"""A chart as SVG: panels side by side, in each a group of horizontal bars a row, with whiskers from low to high.

The text is the same for the same values, so that a diff shows what has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.check_path.spread import Spread

BAR, GAP, ROW_GAP = 11, 2, 10
LABELS, PANEL, NUMBERS, MARGIN = 220, 250, 90, 16
TOP, LINE = 74, 18
#: told apart by the colour-blind as well, and readable on white
COLOURS = ("#1b6ca8", "#e08e0b")
_FONT = "font-family='system-ui, sans-serif'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One measure: for each row a value of each series; None where nothing was measured."""

    title: str
    rows: Sequence[Sequence[Spread | None]]


def svg(*, title: str, note: str, series: Sequence[str], rows: Sequence[str], panels: Sequence[Panel]) -> str:
    """Draw the chart; every panel has as many rows as there are names of rows, and as many bars in each as series."""
    for panel in panels:
        if len(panel.rows) != len(rows) or any(len(row) != len(series) for row in panel.rows):
            raise ValueError(f"the panel `{panel.title}` does not have {len(rows)} rows of {len(series)}")
    row_height = len(series) * (BAR + GAP) + ROW_GAP
    width = MARGIN + LABELS + len(panels) * (PANEL + NUMBERS) + MARGIN
    height = TOP + len(rows) * row_height + 2 * LINE
    parts = [
        (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}'"
            f" viewBox='0 0 {width} {height}' role='img'>"
        ),
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        _text(MARGIN, 24, title, size=15, weight="bold"),
    ]
    for number, name in enumerate(series):
        x = MARGIN + number * 260
        parts.append(f"<rect x='{x}' y='36' width='11' height='11' fill='{COLOURS[number % len(COLOURS)]}'/>")
        parts.append(_text(x + 17, 46, name))
    for number, name in enumerate(rows):
        parts.append(_text(MARGIN, TOP + number * row_height + (row_height - ROW_GAP) / 2 + 4, name))
    for number, panel in enumerate(panels):
        parts += _panel(panel, x=MARGIN + LABELS + number * (PANEL + NUMBERS), row_height=row_height)
    parts.append(_text(MARGIN, height - 10, note, colour="#555555"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, *, x: float, row_height: float) -> list[str]:
    parts = [_text(x, TOP - 10, panel.title, weight="bold")]
    most = max((each.high for row in panel.rows for each in row if each is not None), default=0.0)
    scale = PANEL / most if most > 0 else 0.0
    for number, row in enumerate(panel.rows):
        for place, each in enumerate(row):
            if each is None:
                continue
            y = TOP + number * row_height + place * (BAR + GAP)
            colour = COLOURS[place % len(COLOURS)]
            length, low, high = (x + value * scale for value in (each.median, each.low, each.high))
            middle = y + BAR / 2
            parts.append(f"<rect x='{x:.1f}' y='{y:.1f}' width='{length - x:.1f}' height='{BAR}' fill='{colour}'/>")
            parts.append(
                f"<path d='M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {y + 3:.1f}v5M{high:.1f} {y + 3:.1f}v5'"
                " stroke='#222222' stroke-width='1'/>"
            )
            parts.append(_text(high + 6, y + BAR - 1.5, f"{each.median:,.0f}"))
    return parts


def _text(x: float, y: float, words: str, *, size: int = 12, weight: str = "normal", colour: str = "#111111") -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {_FONT} font-size='{size}' font-weight='{weight}' fill='{colour}'>"
        f"{escape(words)}</text>"
    )
