"""wrk, the load generator for HTTP/1.1: what it is told, and what it says afterwards."""

from __future__ import annotations

import re
import signal
import subprocess
from dataclasses import dataclass
from typing import Self

#: longer than any measurement: one whose end is an event is told to end by a signal
UNTIL_TOLD_S = 3600
PATIENCE_S = 60
_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


class WrkError(Exception):
    """wrk could not measure, or said something that is not understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrkResult:
    """What one run of wrk saw; `refused` are answers other than 2xx and 3xx, `broken` calls without any answer."""

    requests: int
    rps: float
    p50_us: float
    p99_us: float
    max_us: float
    refused: int
    broken: int

    @property
    def failed(self) -> int:
        return self.refused + self.broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where calls go: wrk keeps to one URL."""

    address: str
    path: str
    host: str

    def command(self, connections: int, seconds: float, core: int) -> list[str]:
        return [
            "taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout",
            "10s", "-H", f"Host: {self.host}", f"http://{self.address}{self.path}",
        ]  # fmt: skip


def wrk_result(told: str) -> WrkResult:
    """Read what `wrk --latency` prints; raises WrkError where something is missing."""
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", told)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    return WrkResult(
        requests=int(_found(r"(\d+) requests in", told)),
        rps=float(_found(r"Requests/sec: +([\d.]+)", told)),
        p50_us=microseconds(_found(r"50% +(\S+)", told)),
        p99_us=microseconds(_found(r"99% +(\S+)", told)),
        max_us=microseconds(_found(r"Latency +\S+ +\S+ +(\S+)", told)),
        refused=0 if refused is None else int(refused[1]),
        broken=0 if broken is None else sum(map(int, broken.groups())),
    )


def microseconds(text: str) -> float:
    """Read a duration as wrk writes it: `87.00us`, `1.02ms`, `3.00s`, `1.00m`."""
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if found is None:
        raise WrkError(f"`{text}` is no duration of wrk's")
    return float(found[1]) * _UNITS_US[found[2]]


def measured(target: Target, *, connections: int, seconds: float, core: int) -> WrkResult:
    """Run wrk for so long."""
    done = subprocess.run(
        target.command(connections, seconds, core), capture_output=True, text=True, timeout=seconds + PATIENCE_S,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise WrkError(f"wrk failed: {done.stdout}{done.stderr}")
    return wrk_result(done.stdout)


class RunningWrk:
    """A wrk that measures from here until it is told to stop."""

    def __init__(self, target: Target, *, connections: int, core: int) -> None:
        self._process = subprocess.Popen(
            target.command(connections, UNTIL_TOLD_S, core), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def stop(self) -> WrkResult:
        self._process.send_signal(signal.SIGINT)
        told, _ = self._process.communicate(timeout=PATIENCE_S)
        return wrk_result(told)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise WrkError(f"wrk said no `{pattern}`:\n{text}")
    return found[1]
