"""The answerer that does nothing speaks enough HTTP/2 for a client that is strict."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from envoy.service.auth.v3 import external_auth_pb2

from tests.bench.check_path.floor import OK_MESSAGE
from tests.support.http2_client import Http2Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def connected(folder: Path) -> Iterator[Http2Client]:
    path = str(folder / "check.sock")
    command = [sys.executable, "-m", "tests.bench.check_path.floor", path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        with Http2Client(sock) as client:
            yield client
    finally:
        process.terminate()
        process.communicate()


def test_every_stream_is_answered_ok_whatever_it_holds(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        streams = [client.request(method="POST", end=False) for _ in range(20)]
        for number, stream in enumerate(streams):
            client.send(stream, b"x" * 3_000 * number, end=True)
        for stream in streams:
            assert client.answer(stream) == b"\x00\x00\x00\x00\x04" + OK_MESSAGE
            assert client.heads[stream] == {":status": "200", "content-type": "application/grpc"}
            assert client.trailers[stream] == {"grpc-status": "0"}
        client.until_read()


def test_its_message_is_an_ok_that_says_so() -> None:
    response = external_auth_pb2.CheckResponse.FromString(OK_MESSAGE)
    assert response.HasField("status")
    assert response.status.code == 0
    assert response.HasField("ok_response")
