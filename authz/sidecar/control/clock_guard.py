"""What watches over the clock beside the checks: it is read all the time, kept on disk, and its steps are reported.

Against a clock that nobody can set (CLOCK_BOOTTIME, which goes on while the machine sleeps) it is seen when the wall
clock is set, forward or back. A thread of its own does it, because it writes to a disk; what it finds out others read.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.instant import NS_PER_S, rfc3339_from_ns
from authz.sidecar.clock_cell import STEP_NS
from authz.sidecar.errors import ClockError, SidecarError
from authz.sidecar.latest_instant import KEEP_S, keep, kept_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.clock_cell import ClockCell
    from authz.sidecar.settings import SidecarSettings

_log = logging.getLogger(__name__)

#: how often the clock is read where nobody asks, and a clock for tests
LOOK_S: Final = 0.1
#: two readings that are made one after the other, and are further apart than this, tell nothing of a step
_AT_ONCE_NS: Final = STEP_NS // 5
#: a disk that takes nothing is spoken of so often
_SAID_INTERVAL_S: Final = 10.0
#: the thread is given so long to end; a disk that hangs is not waited for
_STOP_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReport:
    """How it stands with the clock; `latest_ns` is None unless the clock is behind it."""

    latest_ns: int | None
    forward: int
    back: int
    last_step_ns: int | None
    last_step_at_ns: int | None
    unsafe: bool
    fault: str | None

    def to_json(self) -> dict[str, object]:
        """Give what the status file says: {"behind", "latest", "steps_forward", "steps_back", "last_step", ...}."""
        step: dict[str, object] | None = None
        if self.last_step_ns is not None and self.last_step_at_ns is not None:
            step = {"seconds": self.last_step_ns / NS_PER_S, "to": rfc3339_from_ns(self.last_step_at_ns)}
        return {
            "behind": self.latest_ns is not None,
            "latest": None if self.latest_ns is None else rfc3339_from_ns(self.latest_ns),
            "steps_forward": self.forward,
            "steps_back": self.back,
            "last_step": step,
            "unsafe": self.unsafe,
            "fault": self.fault,
        }


class ClockGuard:
    """Looks at the clock from `start` until `stop`; `changed` is called, in its thread, when the report is another."""

    def __init__(
        self,
        settings: SidecarSettings,
        cell: ClockCell,
        *,
        changed: Callable[[], None],
        steady: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        self._cell = cell
        self._changed = changed
        self._steady = steady
        self._file = settings.unsafe_clock_file
        self._path = None if settings.state is None else kept_path(settings.state, unsafe=self._file is not None)
        self._kept_ns: int | None = None
        self._kept_s = -KEEP_S
        self._said_s = -_SAID_INTERVAL_S
        self._faults: dict[str, str] = {}
        self._behind = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Look no longer, and keep the last reading."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_PATIENCE_S)
        if not self._thread.is_alive():
            self.look()
            self._keep()

    def report(self) -> ClockReport:
        """Say how it stands."""
        steps = self._cell.steps
        stepped = steps.forward + steps.back > 0
        return ClockReport(
            latest_ns=self._cell.latest_ns if self._behind else None,
            forward=steps.forward,
            back=steps.back,
            last_step_ns=steps.last_ns if stepped else None,
            last_step_at_ns=steps.last_at_ns if stepped else None,
            unsafe=self._file is not None,
            fault="; ".join(self._faults.values()) or None,
        )

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.look()
            now_s = time.monotonic()
            if now_s - self._kept_s >= KEEP_S:
                self._kept_s = now_s
                self._keep()

    def look(self) -> None:
        """Read the clock, and report what has become of it."""
        before = self.report()
        self._follow_file()
        try:
            read = self._read()
        except ClockError:
            read = None
        if read is not None:
            steady_ns, now_ns = read
            step_ns = self._cell.look_for_step(steady_ns, now_ns)
            self._cell.saw(now_ns)
            behind_ns = self._cell.latest_ns - now_ns
            self._behind = behind_ns >= STEP_NS
            if step_ns:
                self._say_step(step_ns, now_ns, behind_ns)
        if self.report() != before:
            self._changed()

    def _read(self) -> tuple[int, int] | None:
        """Read both clocks at once; None where something came in between."""
        for _ in range(3):
            began_ns = self._steady()
            now_ns = self._cell.now_ns()
            ended_ns = self._steady()
            if ended_ns - began_ns <= _AT_ONCE_NS:
                return ended_ns, now_ns
        return None

    def _say_step(self, step_ns: int, now_ns: int, behind_ns: int) -> None:
        which = "forward" if step_ns > 0 else "back"
        then = ""
        if self._behind:
            then = (
                f"; until it is {rfc3339_from_ns(now_ns + behind_ns)} again, calls are decided at both instants and"
                " denied where one of them denies; if it is right now, start once with --accept-clock"
            )
        _log.warning(
            "the clock was set %s by %.3f s, to %s%s", which, abs(step_ns) / NS_PER_S, rfc3339_from_ns(now_ns), then
        )

    def _follow_file(self) -> None:
        if self._file is None:
            return
        from authz.sidecar.unsafe_clock import read_clock_file  # noqa: PLC0415 rarely needed, and larger than the rest

        setting, fault = read_clock_file(self._file)
        if setting != self._cell.setting:
            self._cell.set(setting)
        self._say_fault("file", fault)

    def _keep(self) -> None:
        latest_ns = self._cell.latest_ns
        if self._path is None or latest_ns == self._kept_ns:
            return
        try:
            keep(self._path, latest_ns)
        except SidecarError as error:
            self._say_fault("kept", str(error))
        else:
            self._kept_ns = latest_ns
            self._say_fault("kept", None)

    def _say_fault(self, about: str, fault: str | None) -> None:
        before = self._faults.get(about)
        if fault is None:
            self._faults = {name: text for name, text in self._faults.items() if name != about}
            return
        self._faults = {**self._faults, about: fault}
        now_s = time.monotonic()
        if fault != before or now_s - self._said_s >= _SAID_INTERVAL_S:
            self._said_s = now_s
            _log.error("%s", fault)
