"""What the check path is to show: ratios within one run, each beside its aim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.check_path.rates import Cell, Layout
from tests.bench.check_path.spread import Spread

if TYPE_CHECKING:
    from authz.request import Direction
    from tests.bench.check_path.rates import Measured

OURS = "ours-10000"
FLOOR, NONE, OPA, OPA_LOG = "floor", "none", "opa-10000", "opa-log-10000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A measure of picoseg beside another variant's; `added`: what each adds to a call that nobody is asked for."""

    words: str
    layout: Layout
    connections: int
    measure: str
    to: str
    aim: str
    added: bool = False

    def kept(self, measured: Measured, direction: Direction) -> Spread | None:
        """Give the ratio round by round; None where one of the variants was not measured there."""
        cell = Cell(layout=self.layout, direction=direction, connections=self.connections)
        ours, to, none = (measured.values(cell, name, self.measure) for name in (OURS, self.to, NONE))
        if not (ours and to):
            return None
        if not self.added:
            return Spread.of_ratios(ours, to)
        if not none:
            return None
        return Spread.of_ratios(_less(ours, none), _less(to, none))


PROMISES = (
    Promise(
        words="calls/s at 64 connections, own core, to OPA",
        layout=Layout.OWN, connections=64, measure="rps", to=OPA, aim="1.9 or more",
    ),
    Promise(
        words="calls/s at 64 connections, own core, to OPA with its decision log",
        layout=Layout.OWN, connections=64, measure="rps", to=OPA_LOG, aim="-",
    ),
    Promise(
        words="calls/s at 64 connections, own core, to the do-nothing answerer",
        layout=Layout.OWN, connections=64, measure="rps", to=FLOOR, aim="0.9 or more",
    ),
    Promise(
        words="calls/s at 64 connections, Envoy's core, to OPA",
        layout=Layout.SHARED, connections=64, measure="rps", to=OPA, aim="3 or more",
    ),
    Promise(
        words="calls/s at 64 connections, Envoy's core, to OPA with its decision log",
        layout=Layout.SHARED, connections=64, measure="rps", to=OPA_LOG, aim="-",
    ),
    Promise(
        words="calls/s at 64 connections, Envoy's core, to the do-nothing answerer",
        layout=Layout.SHARED, connections=64, measure="rps", to=FLOOR, aim="-",
    ),
    Promise(
        words="p50 added at 1 connection, own core, to what the do-nothing answerer adds",
        layout=Layout.OWN, connections=1, measure="p50_us", to=FLOOR, aim="1.15 or less", added=True,
    ),
    Promise(
        words="p99 at 16 connections, own core, to OPA",
        layout=Layout.OWN, connections=16, measure="p99_us", to=OPA, aim="0.5 or less",
    ),
    Promise(
        words="CPU a check at 64 connections, own core, to OPA",
        layout=Layout.OWN, connections=64, measure="authz_us", to=OPA, aim="0.1 or less",
    ),
    Promise(
        words="CPU a check at 64 connections, own core, to OPA with its decision log",
        layout=Layout.OWN, connections=64, measure="authz_us", to=OPA_LOG, aim="-",
    ),
)  # fmt: skip


def ratios(measured: Measured) -> str:
    """Write how picoseg with 10,000 policies compares, and the memory of a process of it that answers."""
    lines = ["| ratio | measured | aim |", "|---|---|---|"]
    for direction in measured.plan.directions:
        for promise in PROMISES:
            spread = promise.kept(measured, direction)
            if spread is not None:
                lines.append(f"| {direction.value}: {promise.words} | {spread.text(2)} | {promise.aim} |")
    memory_mb = [value for cell in measured.plan.cells() for value in measured.values(cell, OURS, "rss_mb")]
    if memory_mb:
        lines.append(f"| MB of a process that answers, 10,000 policies | {Spread.of(memory_mb).text()} | 60 or less |")
    return "\n".join(lines)


def _less(values: list[float], others: list[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]
