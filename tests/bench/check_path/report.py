"""What was measured as Markdown and as a chart: the promised ratios first, then a table for each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.request import Direction
from tests.bench.check_path.chart import Panel, svg
from tests.bench.check_path.page import CHART, PAGE
from tests.bench.check_path.promises import ratios
from tests.bench.check_path.rates import Cell, Layout
from tests.bench.check_path.spread import Spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.check_path.rates import Measured


def summary(measured: Measured, *, machine: str, left_out: Sequence[str]) -> str:
    """Write all of it as one part of the page."""
    plan = measured.plan
    said = f"{machine}. {plan.rounds} rounds of {plan.seconds:g} s."
    parts = [said, f"![The check path]({CHART.relative_to(PAGE.parent)})", ratios(measured), tables(measured)]
    if left_out:
        parts.insert(1, "\n".join(f"- {line}" for line in left_out))
    return "\n\n".join(parts)


def tables(measured: Measured) -> str:
    """Write a table for each cell."""
    return "\n\n".join(_table(measured, cell) for cell in measured.plan.cells())


def _table(measured: Measured, cell: Cell) -> str:
    where = "on its own core" if cell.layout is Layout.OWN else "on Envoy's core"
    plural = "" if cell.connections == 1 else "s"
    lines = [
        f"{cell.direction.value.capitalize()}, {cell.connections} connection{plural}, authz server {where}:",
        "",
        (
            "| who decides | calls/s | p50 us | p99 us | authz CPU us/check | Envoy CPU us/call | memory MB: one, all"
            " | failed |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in measured.variants:
        spread = {
            measure: Spread.of(measured.values(cell, variant.name, measure))
            for measure in ("rps", "p50_us", "p99_us", "authz_us", "envoy_us", "rss_mb", "all_mb")
        }
        asks = variant.guard.asks
        memory = f"{spread['rss_mb'].median:.0f}, {spread['all_mb'].median:.0f}" if asks else "-"
        failed = sum(measured.values(cell, variant.name, "failed"))
        lines.append(
            f"| {variant.title} | {spread['rps'].text()} | {spread['p50_us'].text()} | {spread['p99_us'].text()}"
            f" | {spread['authz_us'].text(1) if asks else '-'} | {spread['envoy_us'].text(1)} | {memory}"
            f" | {failed:.0f} |"
        )
    return "\n".join(lines)


def chart(measured: Measured, *, machine: str) -> str:
    """Draw throughput and CPU a check of every variant, in both layouts."""
    connections = max(measured.plan.connections)
    direction = Direction.OUTBOUND if Direction.OUTBOUND in measured.plan.directions else measured.plan.directions[0]
    layouts = tuple(measured.plan.layouts)
    cells = [Cell(layout=layout, direction=direction, connections=connections) for layout in layouts]

    def rows(measure: str, *, of_servers: bool) -> list[list[Spread | None]]:
        return [
            [
                None
                if of_servers and not variant.guard.asks
                else Spread.of(measured.values(cell, variant.name, measure))
                for cell in cells
            ]
            for variant in measured.variants
        ]

    names = {Layout.OWN: "authz server on its own core", Layout.SHARED: "authz server on Envoy's core"}
    return svg(
        title=f"The check path: {direction.value} calls on a real Envoy, {connections} connections",
        note=f"medians of {measured.plan.rounds} interleaved rounds, lines from lowest to highest; {machine}",
        series=[names[layout] for layout in layouts],
        rows=[variant.title for variant in measured.variants],
        panels=[
            Panel(title="calls a second", rows=rows("rps", of_servers=False)),
            Panel(title="CPU of the authz server, us a check", rows=rows("authz_us", of_servers=True)),
        ],
    )
