"""The clock beside the checks: its steps are reported, its latest instant is kept, and what tests say of it is read."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from authz.instant import NS_PER_S
from authz.policy.window import parse_instant_ns
from authz.sidecar.clock_cell import NEVER_NS, STEP_NS, ClockCell, ClockMode, ClockSetting
from authz.sidecar.control.clock_guard import ClockGuard
from authz.sidecar.errors import ClockError, SidecarError
from authz.sidecar.latest_instant import (
    FILE_NAME,
    UNSAFE_FILE_NAME,
    keep,
    kept_instant_ns,
    kept_text,
    opened_clock,
)
from authz.sidecar.settings import SidecarSettings
from authz.sidecar.unsafe_clock import MAX_BYTES, clock_setting, read_clock_file

if TYPE_CHECKING:
    from pathlib import Path

NOON = "2026-06-01T12:00:00Z"
NOON_NS = parse_instant_ns(NOON)
HOUR_NS = 3600 * NS_PER_S


def settings(state: Path | None, *, clock: str | None = None, accept: bool = False) -> SidecarSettings:
    return SidecarSettings(
        service="orders", policies="p", socket="s", state=state, unsafe_clock_file=clock, accept_clock=accept
    )


class Machine:
    """Two clocks of a machine: one can be set, the other one cannot."""

    def __init__(self, state: Path | None = None, *, cell: ClockCell | None = None) -> None:
        self.wall_ns, self.steady_ns = NOON_NS, 5 * NS_PER_S
        self.cell = ClockCell(real=lambda: self.wall_ns) if cell is None else cell
        self.changes = 0
        self.guard = ClockGuard(settings(state), self.cell, changed=self._changed, steady=lambda: self.steady_ns)
        self.guard.look()

    def _changed(self) -> None:
        self.changes += 1

    def goes_on(self, ns: int) -> None:
        self.wall_ns += ns
        self.steady_ns += ns
        self.guard.look()

    def is_set(self, ns: int) -> None:
        self.wall_ns += ns
        self.guard.look()


def test_steps_both_ways_are_reported_and_time_that_passes_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    machine = Machine()
    machine.goes_on(30 * 24 * HOUR_NS)
    machine.is_set(STEP_NS - 1)
    assert (machine.changes, caplog.messages) == (0, [])
    machine.is_set(HOUR_NS)
    machine.goes_on(NS_PER_S)
    report = machine.guard.report()
    assert (report.forward, report.back, report.latest_ns) == (1, 0, None)
    machine.is_set(-2 * HOUR_NS)
    report = machine.guard.report()
    assert (report.forward, report.back, report.last_step_ns) == (1, 1, -2 * HOUR_NS)
    assert report.latest_ns == machine.wall_ns + 2 * HOUR_NS
    assert ["set forward by 3600.250 s" in caplog.messages[0], "set back by 7200.000 s" in caplog.messages[1]] == [
        True
    ] * 2
    assert "--accept-clock" in caplog.messages[1]
    machine.goes_on(2 * HOUR_NS)
    assert machine.guard.report().latest_ns is None
    assert machine.changes == 3


def test_many_small_steps_are_one_that_is_reported() -> None:
    machine = Machine()
    for _ in range(10):
        machine.is_set(-STEP_NS // 5)
    assert machine.guard.report().back == 2


def test_a_guard_that_follows_another_reports_the_step_that_was_made_between_them() -> None:
    machine = Machine()
    machine.wall_ns -= HOUR_NS
    successor = ClockGuard(settings(None), machine.cell, changed=lambda: None, steady=lambda: machine.steady_ns)
    successor.look()
    assert successor.report().back == 1


def test_the_latest_instant_is_kept_and_comes_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.goes_on(HOUR_NS)
    machine.is_set(-2 * HOUR_NS)
    machine.guard.start()
    machine.guard.stop()
    assert kept_instant_ns((tmp_path / FILE_NAME).read_bytes()) == NOON_NS + HOUR_NS
    # The machine's own clock is later than that.
    assert opened_clock(settings(tmp_path)).latest_ns > NOON_NS + HOUR_NS


def test_an_instant_that_lies_ahead_is_kept_until_the_clock_is_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ahead_ns = parse_instant_ns("2200-01-01T00:00:00Z")
    keep(tmp_path / FILE_NAME, ahead_ns)
    assert opened_clock(settings(tmp_path)).latest_ns == ahead_ns
    assert "start once with --accept-clock" in caplog.text
    assert opened_clock(settings(tmp_path, accept=True)).latest_ns < ahead_ns
    assert opened_clock(settings(tmp_path)).latest_ns < ahead_ns


@pytest.mark.parametrize(
    "content", [b"", b"{}", kept_text(NOON_NS)[:-1], kept_text(NOON_NS) * 4, b'{"latest_ns": 1, "latest": "x"}\n', b"["]
)
def test_a_damaged_file_keeps_the_sidecar_from_starting_until_the_clock_is_accepted(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(SidecarError, match=r"latest-instant\.json: the latest instant cannot be read .*--accept-clock"):
        opened_clock(settings(tmp_path))
    opened_clock(settings(tmp_path, accept=True))
    assert opened_clock(settings(tmp_path)).latest_ns > NOON_NS


def test_a_folder_in_the_files_place_keeps_the_sidecar_from_starting(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(SidecarError, match="cannot be read"):
        opened_clock(settings(tmp_path))


def test_a_clock_for_tests_leaves_no_trace_in_the_real_one(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    file.write_text("2199-01-01T00:00:00Z\n")
    cell = opened_clock(settings(tmp_path, clock=str(file)))
    guard = ClockGuard(settings(tmp_path, clock=str(file)), cell, changed=lambda: None)
    guard.start()
    guard.stop()
    assert (tmp_path / UNSAFE_FILE_NAME).exists()
    assert opened_clock(settings(tmp_path)).latest_ns < cell.latest_ns
    file.write_text(NOON)
    assert opened_clock(settings(tmp_path, clock=str(file))).latest_ns == cell.latest_ns


def test_a_clock_for_tests_is_followed_and_what_is_broken_is_no_time(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    file.write_text(NOON)
    given = settings(None, clock=str(file))
    cell = opened_clock(given)
    guard = ClockGuard(given, cell, changed=lambda: None)
    guard.look()
    assert (cell.now_ns(), cell.latest_ns) == (NOON_NS, NOON_NS)
    file.write_text("2026-06-01T13:00:00+01:30")
    guard.look()
    assert (cell.now_ns(), cell.latest_ns) == (NOON_NS - HOUR_NS // 2, NOON_NS)
    assert (guard.report().back, guard.report().unsafe) == (1, True)
    for broken in ("soon", "", "+"):
        file.write_text(broken)
        guard.look()
        with pytest.raises(ClockError):
            cell.now_ns()
        assert str(file) in (guard.report().fault or "")
    file.unlink()
    guard.look()
    assert "cannot be read" in (guard.report().fault or "")
    file.write_text(NOON)
    guard.look()
    assert (cell.now_ns(), guard.report().fault) == (NOON_NS, None)


def test_a_disk_that_takes_nothing_is_reported_and_the_guard_goes_on(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "not" / "there")
    machine.guard.start()
    machine.goes_on(HOUR_NS)
    machine.guard.stop()
    assert "cannot be written" in (machine.guard.report().fault or "")
    assert machine.cell.latest_ns == NOON_NS + HOUR_NS


_KEEPER = """
import sys
from pathlib import Path
from authz.sidecar.latest_instant import keep
path, at_ns = Path(sys.argv[1]), int(sys.argv[2])
while True:
    keep(path, at_ns)
    print(at_ns, flush=True)
    at_ns += 1_000_000_007
"""


def test_what_is_kept_survives_kill_9_at_any_write(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    first_ns = NOON_NS
    for kills in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", _KEEPER, str(path), str(first_ns)], stdout=subprocess.PIPE, text=True
        ) as keeper:
            assert keeper.stdout is not None
            said = [int(keeper.stdout.readline()) for _ in range(1 + 3 * kills)]
            os.kill(keeper.pid, signal.SIGKILL)
            said += [int(line) for line in keeper.stdout.read().split()]
        kept_ns = kept_instant_ns(path.read_bytes())
        # The write that it was killed in may have been done, or not.
        assert kept_ns in (said[-1], said[-1] + 1_000_000_007)
        first_ns = kept_ns


class TestClockSetting:
    """Any bytes are a time or a ClockError, and a time never overflows."""

    @given(
        st.one_of(
            st.binary(max_size=2 * MAX_BYTES),
            st.from_regex(r"[+-][0-9]{1,11}(\.[0-9]{0,7})?\n?", fullmatch=True).map(str.encode),
            st.datetimes().map(lambda at: f"{at:%Y-%m-%dT%H:%M:%SZ}".encode()),
        )
    )
    def test_of_bytes(self, content: bytes) -> None:
        try:
            setting = clock_setting(content)
        except ClockError:
            return
        cell = ClockCell()
        cell.set(setting)
        assert cell.setting == setting
        assert setting.mode in {ClockMode.STANDS, ClockMode.OFFSET}
        assert NEVER_NS < cell.now_ns() < 2**63

    @given(st.integers(-(10**9), 10**9))
    def test_of_offsets(self, seconds: int) -> None:
        assert clock_setting(f"{seconds:+d}\n".encode()) == ClockSetting(ClockMode.OFFSET, seconds * 10**6)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("+9999999999", "a hundred years"),
            ("1969-12-31T23:59:59Z", "outside the years 1970"),
            ("2200-01-01T00:00:00Z", "outside the years"),
            ("12:00", "no time of RFC 3339"),
            ("2026-06-01T12:00:00", "has no offset"),
            ("x" * (MAX_BYTES + 1), "more than 64 bytes"),
            ("+1é", "ASCII"),
        ],
    )
    def test_of_what_is_wrong(self, text: str, says: str) -> None:
        with pytest.raises(ClockError, match=says):
            clock_setting(text.encode())


def test_a_file_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clock")
    setting, fault = read_clock_file(str(tmp_path / "clock"))
    assert (setting.mode, fault is not None) == (ClockMode.BROKEN, True)


class TestKeptInstant:
    """Any bytes are an instant that was kept or a ClockError."""

    @given(st.one_of(st.binary(max_size=300), st.integers().map(lambda at: json.dumps({"latest_ns": at}).encode())))
    def test_of_bytes(self, content: bytes) -> None:
        with contextlib.suppress(ClockError):
            assert kept_text(kept_instant_ns(content)) == content

    @given(st.integers(-(2**63) + 1, 2**63 - 1))
    def test_of_instants(self, instant_ns: int) -> None:
        assert kept_instant_ns(kept_text(instant_ns)) == instant_ns
