from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from authz.mesh.process_mark import ProcessMark, end_process, end_processes, mark_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_WAITS = "import sys; print(flush=True); sys.stdin.read()"
_DEAF = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); sys.stdin.read()"


def _started(code: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with _started(_WAITS) as started:
        yield started
        started.kill()


def _mark(process: subprocess.Popen[bytes]) -> ProcessMark:
    mark = mark_of(process.pid)
    assert mark is not None
    return mark


def test_a_process_lives_until_it_has_ended_even_if_nobody_has_waited_for_it(process: subprocess.Popen[bytes]) -> None:
    mark = _mark(process)
    assert mark.lives()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not mark.lives()


def test_a_process_with_the_same_pid_and_another_start_is_left_alone(process: subprocess.Popen[bytes]) -> None:
    other = replace(_mark(process), started=_mark(process).started - 1)
    assert not other.lives()
    assert not end_process(other, grace_s=0)
    assert process.poll() is None


def test_ending_waits_for_the_end(process: subprocess.Popen[bytes]) -> None:
    assert end_process(_mark(process), grace_s=30)
    assert process.wait(0) == -signal.SIGTERM


def test_who_does_not_end_in_time_is_killed() -> None:
    with _started(_DEAF) as deaf, _started(_WAITS) as willing:
        assert end_processes([_mark(deaf), _mark(willing)], grace_s=0.2) == 2
        assert deaf.wait(0) == -signal.SIGKILL
        assert willing.wait(0) == -signal.SIGTERM


def test_a_process_that_has_gone_is_not_there() -> None:
    assert mark_of(2**22 + 1) is None
    assert not ProcessMark(pid=2**22 + 1, started=1).lives()
    assert not end_process(ProcessMark(pid=2**22 + 1, started=1), grace_s=0)
