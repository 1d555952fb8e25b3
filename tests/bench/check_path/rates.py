"""Rounds of load on every variant in turn: one round visits all, so that what drifts hits all alike.

Envoy is moved between two cores for the two layouts: `own`, where the authz server has a core for itself and Envoy
shares the other with the load generator, and `shared`, where Envoy is on the authz server's core.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.bench.check_path import wrk
from tests.bench.check_path.line import AUTHZ_CORE, LOAD_CORE
from tests.bench.check_path.processes import cpu_s, own_mb, rss_mb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.request import Direction
    from tests.bench.check_path.line import Line
    from tests.bench.check_path.variants import Variant

WARM_UP_S = 1


class Layout(StrEnum):
    OWN = "own"
    SHARED = "shared"

    @property
    def envoy_core(self) -> int:
        return LOAD_CORE if self is Layout.OWN else AUTHZ_CORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Where something is measured."""

    layout: Layout
    direction: Direction
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run of wrk; `authz_us` a check, all processes of the server; `envoy_us` a call; `rss_mb` of who answers."""

    rps: float
    p50_us: float
    p99_us: float
    authz_us: float
    envoy_us: float
    rss_mb: float
    all_mb: float
    failed: int = 0


Rounds = dict[tuple["Cell", str], list[Round]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    rounds: int
    seconds: float
    layouts: Sequence[Layout]
    directions: Sequence[Direction]
    connections: Sequence[int]

    def cells(self) -> list[Cell]:
        return [
            Cell(layout=layout, direction=direction, connections=connections)
            for layout in self.layouts
            for direction in self.directions
            for connections in self.connections
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    plan: Plan
    variants: tuple[Variant, ...]
    rounds: Rounds

    def values(self, cell: Cell, variant: str, measure: str) -> list[float]:
        """Give what was measured, a value a round; none where this was not measured."""
        return [getattr(each, measure) for each in self.rounds.get((cell, variant), ())]


def measure(lines: Sequence[Line], plan: Plan) -> Measured:
    """Measure all lines, saying how far it is."""
    rounds: Rounds = {}
    for line in lines:
        for direction in plan.directions:
            _load(line, Cell(layout=Layout.OWN, direction=direction, connections=16), WARM_UP_S)
    for number in range(plan.rounds):
        for cell in plan.cells():
            print(
                f"round {number + 1} of {plan.rounds}: {cell.layout} core, {cell.direction.value},"
                f" {cell.connections} connections",
                flush=True,
            )
            # Nobody is always the one who comes after an idle machine.
            first = number % len(lines)
            for line in (*lines[first:], *lines[:first]):
                line.place_envoy(cell.layout.envoy_core)
                rounds.setdefault((cell, line.variant.name), []).append(_load(line, cell, plan.seconds))
                line.place_envoy(LOAD_CORE)
    return Measured(plan=plan, variants=tuple(line.variant for line in lines), rounds=rounds)


def _load(line: Line, cell: Cell, seconds: float) -> Round:
    pids = () if line.server is None else line.server.pids()
    authz_s, envoy_s = cpu_s(pids), cpu_s([line.envoy.process.pid])
    told = wrk.measured(line.targets[cell.direction], connections=cell.connections, seconds=seconds, core=LOAD_CORE)
    if not told.requests:
        raise SystemExit(f"bench: {line.variant.name} answers nothing")
    if told.failed:
        print(
            f"bench: {line.variant.name}: of {told.requests} calls {told.refused} were refused,"
            f" {told.broken} broken off",
            flush=True,
        )
    answering = () if line.server is None else line.server.answering()
    return Round(
        rps=told.rps,
        p50_us=told.p50_us,
        p99_us=told.p99_us,
        authz_us=(cpu_s(pids) - authz_s) * 1e6 / told.requests,
        envoy_us=(cpu_s([line.envoy.process.pid]) - envoy_s) * 1e6 / told.requests,
        rss_mb=max(map(rss_mb, answering), default=0.0),
        all_mb=own_mb(pids),
        failed=told.failed,
    )
