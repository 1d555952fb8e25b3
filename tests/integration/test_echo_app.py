"""The echo app as a process, and over HTTP/1.1: what it answers, when, and how it comes and goes."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest
from wsproto.events import CloseConnection

from tests.support.echo_process import PATIENCE_S, EchoProcess
from tests.support.http2_client import Http2Client
from tests.support.websocket_client import UpgradedConnection, WebSocketClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("echo")


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[EchoProcess]:
    with EchoProcess(folder=folder) as process:
        yield process
        assert process.stop() == 0
        assert process.complaints == ""


class Raw:
    """An HTTP/1.1 client that says exactly what it is told."""

    def __init__(self, app: EchoProcess) -> None:
        self.sock = app.connect()
        self.reader = self.sock.makefile("rb")

    def say(self, text: str | bytes) -> Raw:
        self.sock.sendall(text.encode() if isinstance(text, str) else text)
        return self

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self.reader.readline().split()[1])
        fields = {}
        while (line := self.reader.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        return status, fields

    def answer(self) -> tuple[int, Any]:
        status, fields = self.head()
        return status, json.loads(self.reader.read(int(fields["content-length"])))

    def chunk(self) -> bytes:
        data = self.reader.read(int(self.reader.readline(), 16))
        self.reader.readline()
        return data

    def chunks(self) -> list[bytes]:
        return list(iter(self.chunk, b""))

    def has_been_sent_nothing(self, app: EchoProcess) -> bool:
        app.get()  # sent later and answered: whatever is said on this connection has been said
        return not select.select([self.sock], [], [], 0)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.sock.close()


def ask(app: EchoProcess, text: str) -> tuple[int, Any]:
    with Raw(app) as client:
        return client.say(text).answer()


def test_the_answer_is_the_request_as_it_was_received(app: EchoProcess) -> None:
    status, said = ask(
        app, "PUT /a/b?c=d&c HTTP/1.1\r\nHost: orders:80\r\nX-Thing: Value\r\nContent-Length: 2\r\n\r\nhi"
    )
    assert status == 200
    assert said == {
        "service": "orders",
        "method": "PUT",
        "path": "/a/b?c=d&c",
        "host": "orders:80",
        "protocol": "http/1.1",
        "headers": {"host": "orders:80", "x-thing": "Value", "content-length": "2"},
    }
    assert list(said) == ["service", "method", "path", "host", "protocol", "headers"]


@pytest.mark.parametrize(
    "target", ["/", "/a?", "*", "//a", "/a%2fb", "/a/../b", "/a;x=1", "/?", "/s?q=100%", "http://other/a?b"]
)
def test_the_path_is_the_request_target_as_received(app: EchoProcess, target: str) -> None:
    with Raw(app) as client:
        client.say(f"OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1"))
        assert client.answer()[1]["path"] == target


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH", "TRACE", "BREW", "get"])
def test_every_method_is_answered(app: EchoProcess, method: str) -> None:
    assert ask(app, f"{method} /x HTTP/1.1\r\nHost: a\r\n\r\n")[1]["method"] == method


def test_repeated_headers_are_joined_in_their_order(app: EchoProcess) -> None:
    said = ask(app, "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-b: \xe9\r\nx-a: 2\r\nX-a:\r\n\r\n")[1]
    assert said["headers"]["x-a"] == "1, 2, "


def test_nothing_is_said_before_the_request_has_ended(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert client.has_been_sent_nothing(app)
        client.say("0\r\n\r\n")
        assert client.answer()[0] == 200


def test_requests_sent_ahead_are_answered_in_their_order(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("".join(f"POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx" for n in range(50)))
        assert [client.answer()[1]["path"] for _ in range(50)] == [f"/{n}" for n in range(50)]


def test_answers_that_nobody_reads_hold_up_the_requests_and_are_not_lost(app: EchoProcess) -> None:
    asked = 0
    with Raw(app) as client:
        client.sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):  # the app reads no more
            while asked < 10_000:
                client.say(f"GET /{asked} HTTP/1.1\r\nHost: a\r\nX-More: {'x' * 32_000}\r\n\r\n")
                asked += 1
        assert asked < 10_000
        client.sock.settimeout(PATIENCE_S)
        for n in range(asked):
            assert client.answer()[1]["path"] == f"/{n}"


def test_a_connection_is_kept_until_the_client_closes_it(app: EchoProcess) -> None:
    connection = http.client.HTTPConnection(*app.address, timeout=PATIENCE_S)
    for n in range(3):
        connection.request("GET", f"/{n}", headers={"Connection": "close"} if n == 2 else {})
        answer = connection.getresponse()
        assert json.loads(answer.read())["path"] == f"/{n}"
    assert connection.sock is None


def test_an_http_1_0_client_is_answered_and_the_connection_closed(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("GET /old HTTP/1.0\r\n\r\n")
        assert client.answer()[1]["path"] == "/old"
        assert client.reader.read() == b""


def test_a_large_upload_is_not_held_in_memory(app: EchoProcess) -> None:
    app.get()
    before = app.peak_memory_bytes
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    with Raw(app) as client:
        client.say("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(1024):
            client.say(chunk)
        client.say("0\r\n\r\n")
        assert client.answer()[1]["path"] == "/up"
    assert app.peak_memory_bytes - before < 16 * 1024 * 1024


def test_a_client_that_waits_for_100_is_told_to_go_on(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.head() == (100, {})
        client.say("hi")
        assert client.answer()[0] == 200


def test_head_has_the_headers_of_get_and_no_body(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("HEAD /a HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: 9\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        status, fields = client.head()
        assert (status, fields["content-type"]) == (200, "application/json")
        assert int(fields["content-length"]) > 0
        assert client.answer()[1]["path"] == "/b"


def test_a_connect_gets_its_json_through_the_tunnel(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n")
        assert client.head()[0] == 200
        assert json.loads(client.reader.read())["path"] == "b:443"


def test_an_upgrade_to_something_else_is_ignored(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * 2)
        assert client.answer()[1]["protocol"] == "http/1.1"
        assert client.answer()[1]["path"] == "/a"


def test_a_stream_has_a_line_each_100_ms(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: 0.5\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head()[1]["content-type"] == "text/plain; charset=utf-8"
        assert client.chunks() == [b"tick %d\n" % n for n in range(5)]
        assert client.answer()[1]["path"] == "/next"


def test_a_stream_begins_before_the_request_has_ended_and_outlives_it_or_not(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-Echo-Stream: 0.2\r\n\r\n3\r\nabc\r\n")
        assert client.head()[0] == 200
        assert client.chunks() == [b"tick 0\n", b"tick 1\n"]
        client.say("3\r\nabc\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.answer()[1]["path"] == "/next"


def test_what_is_sent_ahead_of_a_streams_end_is_answered_after_it(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: 0.3\r\n\r\n")
        client.head()
        client.say(f"GET / HTTP/1.1\r\nHost: a\r\nX-More: {'x' * 8000}\r\n\r\n" * 40)
        assert len(client.chunks()) == 3
        assert [client.answer()[0] for _ in range(40)] == [200] * 40


def test_a_stream_for_an_http_1_0_client_ends_with_the_connection(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("GET / HTTP/1.0\r\nX-Echo-Stream: 0.2\r\n\r\n")
        assert "transfer-encoding" not in client.head()[1]
        assert client.reader.read() == b"tick 0\ntick 1\n"


def test_a_stream_whose_request_breaks_is_cut(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-Echo-Stream: 60\r\n\r\nzz\r\n")
        client.head()
        with contextlib.suppress(ConnectionResetError):
            assert not client.reader.read().endswith(b"0\r\n\r\n")


def test_a_stream_of_events_is_one_that_browsers_read(app: EchoProcess) -> None:
    with Raw(app) as client:
        accept = "Accept: application/json;q=0.1, Text/Event-Stream;q=0.9"
        client.say(f"GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: 0.2\r\n{accept}\r\n\r\n")
        assert client.head()[1]["content-type"] == "text/event-stream"
        assert client.chunks() == [b"data: tick 0\n\n", b"data: tick 1\n\n"]


@pytest.mark.parametrize("seconds", ["0.35", "0"])
def test_an_idle_stream_says_one_line_and_ends_in_its_time(app: EchoProcess, seconds: str) -> None:
    with Raw(app) as client:
        client.say(f"GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: {seconds}\r\nX-Echo-Idle: 1\r\n\r\n")
        client.head()
        assert client.chunks() == [b"tick 0\n"]


def test_idle_alone_says_nothing(app: EchoProcess) -> None:
    assert ask(app, "GET /a HTTP/1.1\r\nHost: a\r\nX-Echo-Idle: 1\r\n\r\n")[1]["path"] == "/a"


@pytest.mark.parametrize("seconds", ["", "x", "-1", "1s", "1e3", "nan", "inf", "1, 2", "\u0661", "9" * 10])
def test_a_stream_of_no_number_of_seconds_is_refused(app: EchoProcess, seconds: str) -> None:
    with Raw(app) as client:
        client.say(f"GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: {seconds}\r\n\r\n")
        status, said = client.answer()
        assert (status, list(said)) == (400, ["error"])
        client.say("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.answer()[0] == 200


def test_a_client_that_ends_its_side_still_gets_its_answer(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer()[1]["path"] == "/a"
        assert client.reader.read() == b""


def test_a_client_that_ends_its_side_still_gets_its_stream_but_no_silence(app: EchoProcess) -> None:
    with Raw(app) as client:
        client.say("GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: 0.4\r\n\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        client.head()
        assert len(client.chunks()) == 4
        assert client.reader.read() == b""
    with Raw(app) as client:
        client.say("GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: 86400\r\nX-Echo-Idle: 1\r\n\r\n")
        client.head()
        assert client.chunk() == b"tick 0\n"
        client.sock.shutdown(socket.SHUT_WR)
        assert client.reader.read() == b""


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: " + "x" * 200_000, 431),
    ],
)
def test_a_broken_request_is_refused_and_ends_its_connection(app: EchoProcess, text: str, status: int) -> None:
    with Raw(app) as client:
        client.say(text.encode("latin-1"))
        said, fields = client.head()
        assert (said, fields["connection"]) == (status, "close")
        if not text.startswith("HEAD"):
            assert list(json.loads(client.reader.read())) == ["error"]
    assert app.get("/after")["path"] == "/after"


def test_clients_that_vanish_disturb_nobody(app: EchoProcess) -> None:
    for text in ("GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: 60\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\n", "P"):
        for linger in (b"\x00" * 8, b"\x01\x00\x00\x00\x00\x00\x00\x00"):  # an orderly end, and a reset
            with Raw(app) as client:
                client.say(text)
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert app.get("/after")["path"] == "/after"


def test_it_serves_on_a_unix_socket_too_and_takes_it_away(folder: Path) -> None:
    path = folder / "app.sock"
    with EchoProcess("--listen", f"unix:{path}", folder=folder) as app:
        assert f"127.0.0.1:{app.address[1]}, unix:{path}" in app.said
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            with sock.makefile("rb") as reader:
                assert b'"path": "/a"' in reader.read()
        assert app.stop() == 0
        assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_status_0_whatever_its_connections_do(folder: Path, number: signal.Signals) -> None:
    with EchoProcess(folder=folder) as app, Raw(app), Raw(app) as streaming, Raw(app) as deaf, Raw(app) as upgraded:
        websocket = WebSocketClient(UpgradedConnection(upgraded.sock, "/"))
        streaming.say("GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Stream: 600\r\n\r\n").head()
        deaf.sock.setblocking(False)
        request = b"GET / HTTP/1.1\r\nHost: a\r\nX-More: " + b"x" * 60_000 + b"\r\n\r\n"
        while select.select([], [deaf.sock], [], 0.2)[1]:
            deaf.sock.send(request)
        with Http2Client(app.connect()) as client:
            stream = client.request("/", ("x-echo-stream", "600"))
            client.until(lambda client: client.bodies[stream])
            app.process.send_signal(number)
            client.until(lambda client: client.goaway == 0)
        assert websocket.hear() == CloseConnection(code=1001, reason="")
        assert app.process.wait(PATIENCE_S) == 0
        assert app.complaints == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "nowhere"], "`nowhere` is no address"),
        (["--listen", "unix:/nonexistent/x.sock"], "cannot listen on unix:/nonexistent/x.sock"),
        (["--listen", "192.0.2.1:0"], "cannot listen on 192.0.2.1:0"),
        (["--tls-key", "x"], "--tls-certificate and --tls-key are given together"),
        (["--tls-key", "x", "--tls-certificate", "nonexistent.pem"], "nonexistent.pem"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(folder: Path, arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", "authz.mesh.echo_app", "--service", "a", "--listen", "127.0.0.1:0", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
