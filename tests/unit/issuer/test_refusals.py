from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

from authz.issuer.refusals import BURST, RATE_PER_S, Refusals
from authz.workload_api.peer import Peer, Pidfd

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def me() -> Peer:
    return Peer(socket="/run/s", pid=os.getpid(), uid=1, gid=2, pidfd=Pidfd(os.pidfd_open(os.getpid())))


def test_a_record_says_who_asked_where_and_why_it_got_nothing(tmp_path: Path) -> None:
    file = tmp_path / "log"
    Refusals(str(file)).refused(me(), method="FetchX509SVID", why="line\nbreak")
    (line,) = file.read_text("utf-8").splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {
        "event": "identity_refused",
        "socket": "/run/s",
        "method": "FetchX509SVID",
        "pid": os.getpid(),
        "uid": 1,
        "gid": 2,
        "path": os.path.realpath(f"/proc/{os.getpid()}/exe"),
        "why": "line\nbreak",
        "unrecorded": 0,
    }
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0


def test_who_asks_all_the_time_fills_no_disk_and_is_counted(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "log"
    refusals = Refusals(str(file), monotonic_s=clock)
    for _ in range(BURST + 500):
        refusals.refused(me(), method="FetchX509SVID", why="no")
    assert len(file.read_text("utf-8").splitlines()) == BURST
    clock.now_s += 1
    for _ in range(100):
        refusals.refused(me(), method="FetchX509SVID", why="no")
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines()[BURST:]]
    assert len(records) == int(RATE_PER_S)
    assert records[0]["unrecorded"] == 500


def test_a_rotated_file_is_followed_and_a_file_that_cannot_be_written_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "log"
    refusals = Refusals(str(file))
    refusals.refused(me(), method="m", why="first")
    file.rename(tmp_path / "log.1")
    refusals.refused(me(), method="m", why="second")
    assert json.loads(file.read_text("utf-8"))["why"] == "second"
    Refusals(str(tmp_path / "none" / "log")).refused(me(), method="m", why="third")
    assert "a record is lost" in caplog.text
    assert "third" in caplog.text


def test_without_a_file_it_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Refusals(None).refused(me(), method="m", why="here")
    assert json.loads(caplog.records[0].getMessage())["why"] == "here"
