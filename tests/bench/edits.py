"""From the rename of a policy file to the last answer by what it said before: `make bench-edits`.

Both workers of a real sidecar are asked all the time, and a file of its set is replaced. What is told is the time from
the rename to the last `allowed`, and to the new set's being in force; nothing is asserted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from authz.sidecar.listening_socket import worker_sockets
from tests.support.check_request import check_request
from tests.support.conditions import eventually
from tests.support.large_sets import ALLOWED, MESH, write_large_set
from tests.support.sidecar_process import SidecarProcess, ask, reason

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS: Final = 2
ASKED: Final = check_request(direction="outbound").SerializeToString()
#: the file that is replaced, and by what
EDITS: Final = {
    "identity revoked": ("mesh.yaml", MESH, MESH + "  revoked: ['spiffe://shop.example/orders']\n"),
    "closed": ("allowed.yaml", ALLOWED, f"{ALLOWED}  window: {{closes: '2026-01-01T00:00:00Z'}}\n"),
    "removed": ("allowed.yaml", ALLOWED, "# gone\n"),
    "path changed": ("allowed.yaml", ALLOWED, ALLOWED.replace("/items/", "/others/")),
}


class Asking:
    """Asks one worker after each other answer; remembers when it said `allowed` last."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self.last_allowed_s = 0.0
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            while not self.ends.is_set():
                if reason(ask(channel, ASKED)) == "allowed":
                    self.last_allowed_s = time.monotonic()
                self.ends.wait(0.002)


def replace(path: Path, text: str) -> float:
    """Replace a file; gives when."""
    draft = path.parent.parent / "draft"
    draft.write_text(text)
    draft.replace(path)
    return time.monotonic()


def measured(policies: int, runs: int, say: Callable[[str], None]) -> None:
    """Measure each edit so many times on a set of so many policies."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_large_set(folder / "policies", policies)
        words = ("--workers", str(WORKERS), "--state", str(folder / "state"))
        with SidecarProcess(*words, service="orders", policies=folder / "policies", folder=folder) as sidecar:
            sidecar.wait_for("READY=1")
            for what, (name, before, after) in EDITS.items():
                refused_ms, force_ms = [], []
                for _ in range(runs):
                    askers = [Asking(path) for path in worker_sockets(str(sidecar.socket), WORKERS)]
                    for each in askers:
                        each.thread.start()
                    eventually(lambda askers=askers: all(each.last_allowed_s for each in askers))
                    edited_s = replace(folder / "policies" / name, after)
                    sidecar.wait_for("READY=1")
                    force_ms.append((time.monotonic() - edited_s) * 1000)
                    for each in askers:
                        each.ends.set()
                        each.thread.join()
                    refused_ms.append((max(each.last_allowed_s for each in askers) - edited_s) * 1000)
                    replace(folder / "policies" / name, before)
                    sidecar.wait_for("READY=1")
                say(f"| {policies:,} | {what} | {_three(refused_ms)} | {_three(force_ms)} |")


def _three(values: list[float]) -> str:
    return f"{min(values):.0f} / {statistics.median(values):.0f} / {max(values):.0f}"


def main() -> None:
    """Say a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--policies", type=int, nargs="+", default=[1_000, 10_000])
    given = parser.parse_args()
    print("| policies | edit | last `allowed`, ms after the rename: min / median / max | in force, ms after |")
    print("| --- | --- | --- | --- |")
    for policies in given.policies:
        measured(policies, given.runs, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
