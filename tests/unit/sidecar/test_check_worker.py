"""What a worker's heartbeat says of itself, with nothing but its loop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from types import SimpleNamespace
from typing import Any

from authz.sidecar.check.overload import OWN_WORK_S, Overload
from authz.sidecar.check.worker import CheckWorker
from authz.sidecar.worker_cells import WorkerCells

#: of the first heartbeats, the second is behind the work
BEATS = 4


class Watched(Overload):
    """Keeps what each heartbeat says, and has the worker end behind the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.spent_s: list[float] = []

    def observe(self, late_s: float, **said: Any) -> None:
        super().observe(late_s, **said)
        self.spent_s.append(said["spent_s"])
        if len(self.spent_s) == BEATS:
            os.kill(os.getpid(), signal.SIGTERM)


class Server:
    """Works once, when it begins, and then has nothing to do."""

    def lag_s(self) -> float:
        return 0.0

    async def serve(self, _listening: socket.socket) -> None:
        until_s = time.process_time() + 2 * OWN_WORK_S
        while time.process_time() < until_s:
            pass

    async def drain(self, *, within_s: float) -> None:
        assert within_s > 0


def test_a_heartbeat_tells_work_from_waiting() -> None:
    overload = Watched()
    with socket.socket() as listener:
        worker = CheckWorker(
            server=Server(),
            listener=listener,
            cell=WorkerCells(1).cells[0],
            shared=SimpleNamespace(cells=SimpleNamespace(bell=SimpleNamespace(ring=lambda: None))),  # type: ignore[arg-type]
            overload=overload,
            supervisor=SimpleNamespace(stop_with_it=lambda: None),  # type: ignore[arg-type]
        )
        asyncio.run(worker.run())
    behind_the_work, idle = overload.spent_s[1], min(overload.spent_s[2:BEATS])
    assert behind_the_work >= OWN_WORK_S > idle
