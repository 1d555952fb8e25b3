"""Workers that die or hang under load, and all of them gone: what a caller sees of it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from authz.request import Direction
from tests.bench.check_path import servers, wrk
from tests.bench.check_path.findings import Finding
from tests.bench.check_path.line import AUTHZ_CORE, LOAD_CORE, Line, answered, running_line
from tests.bench.check_path.probing import Probing
from tests.bench.check_path.spread import Spread
from tests.bench.check_path.wrk import RunningWrk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from tests.bench.check_path.servers import Server
    from tests.bench.check_path.variants import Variant
    from tests.bench.check_path.wrk import WrkResult

CONNECTIONS = 16
#: before the signal, and after it
BEFORE_S, AFTER_S = 1.0, 3.0
#: a supervisor gets so long to bring back what it lost
BACK_WITHIN_S = 60.0
_BETWEEN_LOOKS_S = 0.05


def measure(variant: Variant, folder: Path, *, known: Collection[str], times: int) -> list[Finding]:
    """Kill and stop one worker of two so many times each, then all of them."""
    place = folder / "failures"
    place.mkdir()
    policies = servers.policy_folder(variant.rules, folder)
    found = []
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        server = first.enter_context(_sidecar(variant, place, policies, known))
        line = stack.enter_context(running_line(variant, place, known=known, server=server))
        line.prove()
        answered(line.targets[Direction.OUTBOUND])
        if _wait_for_two(line):
            found += _one_of_two(line, signal.SIGKILL, times)
            found += _one_of_two(line, signal.SIGSTOP, times)
            found += _both_hang(line)
        else:
            found.append(Finding(what="one worker of two", measured="left out: this sidecar answers with one process"))
        found += _all_gone(line, server, lambda: first.enter_context(_sidecar(variant, place, policies, known)))
    return found


def _sidecar(
    variant: Variant, place: Path, policies: Path, known: Collection[str]
) -> contextlib.AbstractContextManager[Server]:
    return servers.sidecar(variant, place, policies, core=AUTHZ_CORE, known=known)


def _one_of_two(line: Line, number: signal.Signals, times: int) -> list[Finding]:
    """Kill or stop one worker of two under load, beside the same load without it."""
    target = line.targets[Direction.OUTBOUND]
    quiet = wrk.measured(target, connections=CONNECTIONS, seconds=round(BEFORE_S + AFTER_S), core=LOAD_CORE)
    requests = failed = 0
    slowest_ms, back_s = [], []
    for _ in range(times):
        told, after_s = _one_hit(line, number)
        _wait_for_two(line)
        requests, failed = requests + told.requests, failed + told.failed
        slowest_ms.append(told.max_us / 1e3)
        back_s.append(after_s)
    what = f"one worker of two, {number.name} under load, {times} times"
    back = "not always" if None in back_s else f"after {Spread.of([each for each in back_s if each]).text(1)} s"
    return [
        Finding(what=f"{what}: failed calls of {requests:,}", measured=str(failed), aim="0"),
        Finding(
            what=f"{what}: slowest call (without it)",
            measured=f"{', '.join(f'{each:.0f}' for each in slowest_ms)} ms ({quiet.max_us / 1e3:.0f} ms)",
            aim="150 ms or less",
        ),
        Finding(what=f"{what}: another one answers", measured=back),
    ]


def _one_hit(line: Line, number: signal.Signals) -> tuple[WrkResult, float | None]:
    """Send the signal under load; give what the callers saw, and when two others answered."""
    assert line.server is not None
    victim, *_ = line.server.answering()
    with RunningWrk(line.targets[Direction.OUTBOUND], connections=CONNECTIONS, core=LOAD_CORE) as load:
        time.sleep(BEFORE_S)
        os.kill(victim, number)
        began_s = time.monotonic()
        back_s = _back_s(line, victim, began_s)
        time.sleep(max(0.0, AFTER_S - (time.monotonic() - began_s)))
        return load.stop(), back_s


def _back_s(line: Line, victim: int, since_s: float) -> float | None:
    """Wait until two others than the victim answer; None where that does not happen."""
    assert line.server is not None
    while time.monotonic() < since_s + BACK_WITHIN_S:
        if len(set(line.server.answering()) - {victim}) > 1:
            return time.monotonic() - since_s
        time.sleep(_BETWEEN_LOOKS_S)
    return None


def _both_hang(line: Line) -> list[Finding]:
    """Stop every worker at once; the supervisor is left to notice."""
    assert line.server is not None
    with Probing(line.targets[Direction.OUTBOUND]) as caller:
        for pid in line.server.answering():
            os.kill(pid, signal.SIGSTOP)
        hung_s = time.monotonic()
        refused = caller.until(503, since_s=hung_s, within_s=BACK_WITHIN_S)
        back = caller.until(200, since_s=hung_s, within_s=BACK_WITHIN_S)
        calls = caller.since(hung_s)
    slowest_ms = max((each.took_ms for each in calls), default=0.0)
    return [
        Finding(
            what="both workers hang: the first 503, the slowest call",
            measured=f"{'none' if refused is None else f'after {refused.took_ms:.0f} ms'}, {slowest_ms:.0f} ms",
            aim="the check's time-out, 350 ms",
        ),
        Finding(
            what="both workers hang: the next call that is allowed",
            measured="none" if back is None else f"after {back.ended_s - hung_s:.1f} s",
        ),
    ]


def _all_gone(line: Line, server: Server, start_again: Callable[[], object]) -> list[Finding]:
    """Kill every process of the sidecar; then start it anew."""
    with Probing(line.targets[Direction.OUTBOUND]) as caller:
        for pid in server.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        gone_s = time.monotonic()
        caller.until(503, since_s=gone_s, within_s=BACK_WITHIN_S)
        time.sleep(AFTER_S)
        gone = caller.since(gone_s)
        start_again()
        returned_s = time.monotonic()
        back = caller.until(200, since_s=gone_s, within_s=BACK_WITHIN_S)
    odd = sorted({each.status for each in gone} - {503})
    slowest_ms = max((each.took_ms for each in gone if each.status == 503), default=0.0)
    recovered_s = None if back is None else max(0.0, back.ended_s - returned_s)
    return [
        Finding(
            what=f"all processes gone: slowest of {len(gone):,} answers 503",
            measured=f"{slowest_ms:.0f} ms" + (f"; other answers: {odd}" if odd else ""),
            aim="50 ms or less",
        ),
        Finding(
            what="all processes gone: allowed again after the sidecar is ready",
            measured="never" if recovered_s is None else f"{recovered_s:.2f} s",
            aim="2 s or less",
        ),
    ]


def _wait_for_two(line: Line) -> bool:
    """Call until Envoy is connected to two workers; False where only one ever answers."""
    assert line.server is not None
    if len(line.server.sockets) < 2:
        return False
    end_s = time.monotonic() + BACK_WITHIN_S
    while len(line.server.answering()) < 2:
        if time.monotonic() > end_s:
            return False
        answered(line.targets[Direction.OUTBOUND])
    return True
