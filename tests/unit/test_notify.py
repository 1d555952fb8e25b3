"""Readiness is said to whoever waits for it, and nobody is needed for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_SAY = "from authz.notify import notify; notify('READY=1'); notify('STATUS=all is well')"


def say(notify_socket: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    if notify_socket is not None:
        environment["NOTIFY_SOCKET"] = notify_socket
    done = subprocess.run([sys.executable, "-c", _SAY], env=environment, capture_output=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize("abstract", [False, True])
def test_each_notification_is_a_datagram_to_the_named_socket(tmp_path: Path, *, abstract: bool) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + path if abstract else path)
        say("@" + path if abstract else path)
        listener.settimeout(0)
        assert [listener.recv(100) for _ in range(2)] == [b"READY=1", b"STATUS=all is well"]


@pytest.mark.parametrize(
    "notify_socket", [None, "", "relative", "vsock:2:1234", "/nonexistent/notify", "@", "/" + "x" * 300]
)
def test_a_socket_that_nobody_reads_is_no_reason_to_fail(notify_socket: str | None) -> None:
    say(notify_socket)
