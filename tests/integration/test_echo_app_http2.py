"""The echo app over HTTP/2: answers, streams, flow control both ways, and clients that misbehave."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.echo_process import EchoProcess
from tests.support.http2_client import Http2Client

if TYPE_CHECKING:
    from collections.abc import Iterator

_GRPC = (("content-type", "application/grpc"), ("te", "trailers"))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoProcess]:
    with EchoProcess(folder=tmp_path_factory.mktemp("echo")) as process:
        yield process
        assert process.stop() == 0
        assert process.complaints == ""


@pytest.fixture
def client(app: EchoProcess) -> Iterator[Http2Client]:
    with Http2Client(app.connect()) as connected:
        yield connected


def test_the_answer_is_the_request_as_it_was_received(client: Http2Client) -> None:
    stream = client.request("/a?b", ("x-a", "1"), ("x-a", "2"), method="PUT", end=False)
    client.send(stream, b"body", end=True)
    said = json.loads(client.answer(stream))
    assert client.heads[stream] == {
        ":status": "200",
        "content-type": "application/json",
        "content-length": str(len(client.bodies[stream])),
    }
    assert said == {
        "service": "orders",
        "method": "PUT",
        "path": "/a?b",
        "host": "orders",
        "protocol": "http/2",
        "headers": {"x-a": "1, 2"},
    }


@pytest.mark.parametrize("target", ["/a?", "*", "//a", "/a%2fb", "/a/../b", "/a;x=1"])
def test_the_path_is_the_request_target_as_received(client: Http2Client, target: str) -> None:
    assert json.loads(client.answer(client.request(target, method="OPTIONS")))["path"] == target


def test_a_lower_case_method_is_answered(client: Http2Client) -> None:
    assert json.loads(client.answer(client.request(method="get")))["method"] == "get"


def test_nothing_is_said_before_the_request_has_ended(client: Http2Client) -> None:
    stream = client.request(method="POST", end=False)
    client.send(stream, b"abc")
    client.until_read()
    assert stream not in client.heads
    client.send(stream, b"", end=True)
    assert json.loads(client.answer(stream))["method"] == "POST"


def test_trailers_end_a_request_too(client: Http2Client) -> None:
    stream = client.request(method="POST", end=False)
    client.http.send_headers(stream, [("x-trailer", "1")], end_stream=True)
    client.flush()
    assert json.loads(client.answer(stream))["headers"] == {}


def test_head_has_the_headers_of_get_and_no_body(client: Http2Client) -> None:
    stream = client.request(method="HEAD")
    assert client.answer(stream) == b""
    assert int(client.heads[stream]["content-length"]) > 0


def test_a_connect_gets_its_json_through_the_tunnel(client: Http2Client) -> None:
    stream = client.http.get_next_available_stream_id()
    client.http.send_headers(stream, [(":method", "CONNECT"), (":authority", "b:443")])
    client.flush()
    said = json.loads(client.answer(stream))
    assert (said["method"], said["path"], said["host"]) == ("CONNECT", "", "b:443")


def test_a_protocol_that_is_not_spoken_is_refused(client: Http2Client) -> None:
    client.read()
    stream = client.request("/a", method="CONNECT", end=False, protocol="connect-udp")
    assert list(json.loads(client.answer(stream))) == ["error"]
    assert client.heads[stream][":status"] == "501"


def test_a_client_that_waits_for_100_is_told_to_go_on(client: Http2Client) -> None:
    stream = client.request("/a", ("expect", "100-continue"), method="POST", end=False)
    client.until(lambda client: stream in client.interim)
    assert client.interim[stream] == {":status": "100"}
    client.send(stream, b"x", end=True)
    assert json.loads(client.answer(stream))["path"] == "/a"


def test_a_large_upload_is_not_held_in_memory(app: EchoProcess, client: Http2Client) -> None:
    before = app.peak_memory_bytes
    stream = client.request(method="POST", end=False)
    for _ in range(64):
        client.send(stream, bytes(1024 * 1024))
    client.send(stream, b"", end=True)
    assert client.answer(stream)
    assert app.peak_memory_bytes - before < 16 * 1024 * 1024


def test_hundreds_of_streams_run_at_once(client: Http2Client) -> None:
    client.until_read()
    streams = [client.request(f"/{n}", method="POST", end=False) for n in range(600)]
    for stream in reversed(streams):
        client.send(stream, b"x", end=True)
    assert [json.loads(client.answer(stream))["path"] for stream in streams] == [f"/{n}" for n in range(600)]


def test_a_stream_has_a_line_each_100_ms_whatever_the_request_does(client: Http2Client) -> None:
    stream = client.request("/", ("x-echo-stream", "0.5"), method="POST", end=False)
    events = client.request("/", ("x-echo-stream", "0.2"), ("accept", "text/event-stream"))
    idle = client.request("/", ("x-echo-stream", "0.2"), ("x-echo-idle", "1"))
    assert client.answer(stream) == b"".join(b"tick %d\n" % n for n in range(5))
    assert client.answer(events) == b"data: tick 0\n\ndata: tick 1\n\n"
    assert client.heads[events]["content-type"] == "text/event-stream"
    assert client.answer(idle) == b"tick 0\n"
    client.send(stream, b"late", end=True)
    assert client.answer(client.request("/next"))


def test_a_stream_of_no_number_of_seconds_is_refused(client: Http2Client) -> None:
    stream = client.request("/", ("x-echo-stream", "soon"))
    assert json.loads(client.answer(stream)) == {"error": "x-echo-stream: `soon` is no number of seconds"}
    assert client.heads[stream][":status"] == "400"


def test_an_answer_waits_for_the_clients_window(app: EchoProcess) -> None:
    with Http2Client(app.connect(), window_bytes=0) as client:
        stream = client.request("/a")
        client.until(lambda client: stream in client.heads)
        client.until_read()
        assert client.bodies[stream] == b""
        client.http.increment_flow_control_window(10, stream)
        client.flush()
        client.until(lambda client: len(client.bodies[stream]) == 10)
        client.http.increment_flow_control_window(10_000, stream)
        client.flush()
        assert json.loads(client.answer(stream))["path"] == "/a"


def test_an_echo_that_is_not_read_holds_up_its_own_stream_only(app: EchoProcess) -> None:
    before = app.peak_memory_bytes
    body = (b"\0\0\1\0\0" + bytes(65_536)) * 4
    with Http2Client(app.connect(), reads=False) as client:
        client.until_read()
        sent = {client.request("/a.B/C", *_GRPC, method="POST", end=False): 0 for _ in range(40)}
        for stream in [*sent, *sent, *sent]:
            room = client.http.local_flow_control_window(stream)
            client.send(stream, body[sent[stream] :][:room])
            sent[stream] += room
            client.until_read()
        # All but the first, whose echo has filled our window, have used up all that they may send.
        assert [client.http.local_flow_control_window(stream) for stream in sent][1:] == [0] * 39
        upload = client.request("/up", method="POST", end=False)
        client.send(upload, bytes(1024 * 1024), end=True)
        client.until(lambda client: upload in client.heads)
        # Once our windows are open everything arrives.
        client.reads = True
        client.http.increment_flow_control_window(1024 * 1024)
        for stream in sent:
            client.http.increment_flow_control_window(1024 * 1024, stream)
        client.flush()
        assert json.loads(client.answer(upload))["path"] == "/up"
        for stream, already in sent.items():
            client.send(stream, body[already:], end=True)
            assert client.answer(stream) == body
            assert client.trailers[stream]["grpc-status"] == "0"
    assert app.peak_memory_bytes - before < 40 * 1024 * 1024


def test_answers_that_nobody_reads_hold_up_the_connection_and_are_not_lost(app: EchoProcess) -> None:
    with Http2Client(app.connect()) as client:
        client.until_read()
        client.http.increment_flow_control_window(64 * 1024 * 1024)
        # Its second time, the header is a byte of request and 18 kB of answer.
        streams = [client.request(f"/{n}", ("x-more", "\u00e9" * 1500)) for n in range(1000)]
        app.get()
        assert [json.loads(client.answer(stream))["path"] for stream in streams] == [f"/{n}" for n in range(1000)]


def test_streams_that_the_client_resets_are_forgotten(client: Http2Client) -> None:
    for fields in ((), _GRPC, (("x-echo-stream", "600"),), (*_GRPC, ("x-echo-stream", "600"))):
        for _ in range(300):
            stream = client.request("/a.B/C", *fields, method="POST", end=False)
            client.http.send_data(stream, b"\0\0\0\0\1x")
            client.http.reset_stream(stream)
        client.until_read()
    for _ in range(300):  # all in one write
        stream = client.http.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/a.B/C"), *_GRPC]
        client.http.send_headers(stream, head)
        client.http.send_data(stream, b"\0\0\0\0\1x", end_stream=True)
        client.http.reset_stream(stream)
    client.until_read()
    assert json.loads(client.answer(client.request("/after")))["path"] == "/after"


def test_what_was_asked_before_a_goaway_is_answered(client: Http2Client) -> None:
    streaming = client.request("/", ("x-echo-stream", "0.3"))
    plain = client.request("/a", method="POST", end=False)
    client.until(lambda client: streaming in client.heads)
    goaway = b"\0\0\x08\x07\0\0\0\0\0" + bytes(8)
    data = b"\0\0\1\0\1" + plain.to_bytes(4, "big") + b"x"
    client.sock.sendall(goaway + data)
    client.http.streams[plain].state_machine.state = client.http.streams[plain].state_machine.state.HALF_CLOSED_LOCAL
    assert json.loads(client.answer(plain))["path"] == "/a"
    assert client.answer(streaming) == b"tick 0\ntick 1\ntick 2\n"


@pytest.mark.parametrize(
    "frames",
    [
        b"\xff" * 100,
        b"\0\0\x08\x06\0\0\0\0\1" + bytes(8),  # PING on a stream
        b"\0\0\0\0\0\0\0\0\1",  # DATA on a stream that was never opened
        b"\0\0\3\1\4\0\0\0\1\x40\x01A",  # a header block that breaks off
        b"\0\0\1\1\4\0\0\0\1\x82",  # a request without a path
        b"\xff\xff\xff\1\4\0\0\0\1",  # a frame that is too large
    ],
)
def test_broken_frames_end_their_connection_with_a_goaway(app: EchoProcess, frames: bytes) -> None:
    with Http2Client(app.connect()) as client:
        client.until_read()
        client.sock.sendall(frames)
        client.until(lambda client: client.goaway)
        client.until(lambda client: client.closed)
    assert app.get("/after")["path"] == "/after"


def test_headers_beyond_the_limit_end_their_connection(app: EchoProcess) -> None:
    with Http2Client(app.connect()) as client:
        client.until_read()
        client.request("/", *[(f"x-{n}", "x" * 8000) for n in range(17)])
        client.until(lambda client: client.goaway)
    assert app.get("/after")["path"] == "/after"


def test_headers_as_large_as_envoy_lets_through_are_answered(client: Http2Client) -> None:
    stream = client.request("/", *[(f"x-{n}", "x" * 8000) for n in range(8)])
    assert len(json.loads(client.answer(stream))["headers"]) == 8


def test_a_preface_may_come_in_pieces(app: EchoProcess) -> None:
    with app.connect() as sock:
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert sock.recv(9)[3] == 4  # SETTINGS
