"""What recurring hours cost: a question to an expanded window, to one that is not, and working out the edges.

Run by `make bench`. Questions take turns within each round, so that the machine's drift hits all alike.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from typing import TYPE_CHECKING

from authz.policy.deadline import allowed_until_ns
from authz.policy.hours import Hours
from authz.policy.window import Window
from tests.support.wall_clock import DAYS, WORKDAYS, Written

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 15
QUESTIONS = 2_000
SPREAD_S = 34 * 86_400


def main() -> None:
    now_ns = time.time_ns()
    chance = random.Random(1)  # noqa: S311 which instants are asked about is no secret
    instants = [now_ns + chance.randrange(SPREAD_S) * 10**9 for _ in range(QUESTIONS)]
    dates = Window(opens_ns=0, closes_ns=2 * now_ns)
    office = _window(Written(WORKDAYS, "08:00", "18:00", "Europe/Berlin"))
    day = _window(Written(DAYS, "08:00", "20:00", "UTC")).expanded(now_ns)
    night = _window(Written(DAYS, "20:00", "08:00", "UTC")).expanded(now_ns)
    expanded = office.expanded(now_ns)
    taken: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, ask in (
            ("is_open, dates only", dates.is_open),
            ("is_open, hours, expanded", expanded.is_open),
            ("is_open, hours, not expanded", office.is_open),
            ("state, hours, expanded", expanded.state),
            ("next_opening_ns, hours, expanded", expanded.next_opening_ns),
            ("valid_until of a day and a night", lambda at_ns: allowed_until_ns([day, night], [], at_ns)),
        ):
            taken.setdefault(name, []).append(_us_each(ask, instants))
        taken.setdefault("working out the edges", []).append(_us_each(_spans(office), instants[:20]))
    print(f"python {sys.version.split()[0]}, median of {ROUNDS} interleaved rounds")
    for name, rounds in taken.items():
        print(f"{name:36} {statistics.median(rounds):10.2f} us")
    edges_ns = () if expanded.spans is None else expanded.spans.edges_ns
    size_bytes = sys.getsizeof(edges_ns) + sum(map(sys.getsizeof, edges_ns))
    print(f"{'table of five days a week':36} {len(edges_ns):7} edges, {size_bytes / 1024:.0f} KiB")


def _window(written: Written) -> Window:
    return Window(hours=Hours.of([written.entry()]))


def _spans(window: Window) -> Callable[[int], object]:
    assert window.hours is not None
    return window.hours.spans


def _us_each(ask: Callable[[int], object], instants: list[int]) -> float:
    began_ns = time.perf_counter_ns()
    for at_ns in instants:
        ask(at_ns)
    return (time.perf_counter_ns() - began_ns) / len(instants) / 1000


if __name__ == "__main__":
    main()
