"""The check path on real Envoys: `python -m tests.bench.check_path [PART...]`, run by `make bench`.

Needs wrk and two cores. Whatever is missing is said.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from authz.request import Direction
from tests.bench.check_path import failures, overload, page, rates, reload, report, short_calls
from tests.bench.check_path.findings import table
from tests.bench.check_path.line import running_line
from tests.bench.check_path.rates import Layout, Plan
from tests.bench.check_path.servers import sidecar_flags
from tests.bench.check_path.variants import OPA_ENVOY, VARIANTS, chosen

#: a part, and what it measures
PARTS = {
    "rates": "calls a second, latency, CPU and memory of every variant",
    "closing": "what a short call pays for it that long ones are ended",
    "reload": "100,000 policies read anew under load",
    "failures": "workers that die or hang, and all of them gone",
    "overload": "ten times more checks under way than are answered in time",
    "growth": "memory over 5,000,000 checks",
}


def main() -> int:
    given = _arguments()
    if missing := _missing():
        print(f"bench: the check path is not measured: {missing}", file=sys.stderr)
        return 0
    known = sidecar_flags()
    if "rates" in given.parts:
        _rates(given, known)
    if "closing" in given.parts:
        _closing(given, known)
    stories = [part for part in PARTS if part not in {"rates", "closing"} and part in given.parts]
    if stories:
        _stories(given, stories, known)
    return 0


def _stories(given: argparse.Namespace, parts: list[str], known: frozenset[str]) -> None:
    few, many = (chosen([name], known=known, opa=None)[0][0] for name in ("ours-10000", "ours-100000"))
    for part in parts:
        print(f"measuring {part}: {PARTS[part]}", flush=True)
        with tempfile.TemporaryDirectory(prefix="authz-bench-") as name:
            folder = Path(name)
            match part:
                case "reload":
                    found = reload.measure(many, folder, known=known, times=given.rounds)
                case "failures":
                    found = failures.measure(few, folder, known=known, times=given.rounds)
                case "overload":
                    found = overload.measure(few, folder, known=known)
                case _:
                    found = overload.measure_growth(few, folder, known=known, checks=given.checks)
        text = f"{page.machine()}\n\n{table(found)}"
        print(f"\n{text}\n")
        if given.write:
            page.write_part(f"check path, {part}", text)


def _rates(given: argparse.Namespace, known: frozenset[str]) -> None:
    variants, left_out = chosen(given.only, known=known, opa=os.environ.get(OPA_ENVOY))
    for line in left_out:
        print(f"bench: {line}")
    plan = Plan(
        rounds=given.rounds,
        seconds=given.seconds,
        layouts=given.layout,
        directions=given.direction,
        connections=given.connections,
    )
    with tempfile.TemporaryDirectory(prefix="authz-bench-") as folder, contextlib.ExitStack() as stack:
        lines = []
        for variant in variants:
            print(f"starting {variant.name}", flush=True)
            line = stack.enter_context(running_line(variant, Path(folder), known=known))
            line.prove()
            lines.append(line)
        measured = rates.measure(lines, plan)
    machine = page.machine()
    text = report.summary(measured, machine=machine, left_out=left_out)
    print(f"\n{text}")
    if given.write:
        page.write_part("check path, rates", text)
        page.CHART.write_text(report.chart(measured, machine=machine), "utf-8")


def _closing(given: argparse.Namespace, known: frozenset[str]) -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="authz-bench-") as folder, contextlib.ExitStack() as stack:
        lines = []
        for variant in short_calls.SHORT_CALLS:
            print(f"starting {variant.name}", flush=True)
            line = stack.enter_context(running_line(variant, Path(folder), known=known))
            line.prove()
            lines.append(line)
        measured = rates.measure(lines, short_calls.plan(rounds=given.rounds, seconds=given.seconds))
    text = f"{page.machine()}. One-minute load {load:.1f} before the first round.\n\n{short_calls.table(measured)}"
    print(f"\n{text}\n")
    if given.write:
        page.write_part("check path, closing", text)


def _missing() -> str | None:
    if shutil.which("wrk") is None:
        return "it needs wrk; on Debian: apt-get install wrk"
    if len(os.sched_getaffinity(0)) < 2:
        return "it needs two cores"
    return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", default=list(PARTS),
        help="; ".join(f"{part}: {words}" for part, words in PARTS.items()),
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="of load, new sets and failures")
    parser.add_argument("--seconds", type=float, default=2, help="of each run of wrk")
    parser.add_argument(
        "--only",
        type=_words,
        default=[],
        help=f"of {', '.join(variant.name for variant in VARIANTS)}; by first words too",
    )
    parser.add_argument("--layout", type=lambda text: [Layout(each) for each in _words(text)], default=list(Layout))
    parser.add_argument(
        "--direction", type=lambda text: [Direction(each) for each in _words(text)],
        default=[Direction.OUTBOUND, Direction.INBOUND],
    )  # fmt: skip
    parser.add_argument("--connections", type=lambda text: [int(each) for each in _words(text)], default=[1, 16, 64])
    parser.add_argument("--write", action="store_true", help=f"put the results into {page.PAGE}")
    parser.add_argument("--checks", type=int, default=5_000_000, help="of the part `growth`")
    given = parser.parse_args()
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"there is no part `{unknown[0]}`; there are {', '.join(PARTS)}")
    return given


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    raise SystemExit(main())
