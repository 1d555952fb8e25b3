"""What a short call pays for it that long ones are ended: the same Envoy with all of that, with parts, with nothing.

All go on to an app, over the inbound listener, beside sidecars of one kind, and every call has a deadline, that of its
SVID. What the sidecar does for that is the same in all of them. All but one tell of each call when it ends, which
sight needs whether or not anything is ever cut; that one says what it costs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from authz.request import Direction
from tests.bench.check_path.closing import CALLS, PARTS
from tests.bench.check_path.rates import Layout, Plan
from tests.bench.check_path.spread import Spread
from tests.bench.check_path.variants import VARIANTS

if TYPE_CHECKING:
    from tests.bench.check_path.rates import Cell, Measured

_USUAL: Final = next(variant for variant in VARIANTS if variant.name == "ours-10000")
OFF: Final = replace(_USUAL, name="closing-off", title="nothing of it", closes=frozenset({CALLS}))
ON: Final = replace(_USUAL, name="closing-on", title="all of it", closes=frozenset({*PARTS, CALLS}))
UNTOLD: Final = replace(_USUAL, name="closing-untold", title="nothing, and no call is told of", closes=frozenset())
SHORT_CALLS: Final = (
    OFF,
    ON,
    UNTOLD,
    *(
        replace(_USUAL, name=f"closing-{part}", title=f"only: {words}", closes=frozenset({part, CALLS}))
        for part, words in PARTS.items()
    ),
)


def plan(*, rounds: int, seconds: float) -> Plan:
    """Give where it is measured."""
    return Plan(
        rounds=rounds, seconds=seconds, layouts=list(Layout), directions=[Direction.INBOUND], connections=[1, 16]
    )


def table(measured: Measured) -> str:
    """Write what is paid as Markdown: a table for each place."""
    return "\n\n".join(_table(measured, cell) for cell in measured.plan.cells())


def _table(measured: Measured, cell: Cell) -> str:
    where = "its own core" if cell.layout is Layout.OWN else "Envoy's core"
    connections = f"{cell.connections} connection{'' if cell.connections == 1 else 's'}"
    rounds = f"{measured.plan.rounds} rounds of {measured.plan.seconds:g} s"
    lines = [
        f"Inbound, {connections}, authz server on {where}; {rounds}, in turns; ratios to nothing of it, by round:",
        "",
        "| Envoy has | calls/s | ratio | p50 us | ratio | Envoy CPU us/call | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in measured.variants:
        cells = [variant.title]
        for measure, digits in (("rps", 0), ("p50_us", 0), ("envoy_us", 1)):
            values = measured.values(cell, variant.name, measure)
            usual = measured.values(cell, OFF.name, measure)
            ratio = Spread.of_ratios(values, usual)
            cells += [Spread.of(values).text(digits), "-" if ratio is None else ratio.text(3)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
