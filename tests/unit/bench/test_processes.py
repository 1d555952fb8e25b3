"""What the kernel says of processes is read right."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.bench.check_path.processes import answering, cpu_s, family, own_mb, rss_mb

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 2**22 + 1


def test_a_family_holds_children_of_children() -> None:
    words = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(family(parent.pid)) == 2
        assert set(family(parent.pid)) <= set(family(os.getpid()))
        parent.communicate(b"\n")


def test_the_time_of_children_that_have_ended_counts() -> None:
    before_s = cpu_s([os.getpid()])
    subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert cpu_s([os.getpid()]) > before_s


def test_who_has_gone_costs_nothing() -> None:
    assert cpu_s([NOBODY]) == rss_mb(NOBODY) == own_mb([NOBODY]) == 0


def test_memory_is_told_in_megabytes() -> None:
    kept = bytearray(os.urandom(1)) * 50_000_000
    assert 50 < rss_mb(os.getpid()) < 5_000
    assert 40 < own_mb([os.getpid()]) <= rss_mb(os.getpid()) + 1
    assert kept


def test_who_answers_is_who_has_accepted_a_connection(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        assert answering([os.getpid()], [path]) == ()
        client.connect(path)
        with listener.accept()[0]:
            assert answering([os.getpid(), NOBODY], [path]) == (os.getpid(),)
            assert answering([os.getpid()], [f"{path}.2"]) == ()
