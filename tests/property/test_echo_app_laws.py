"""What holds for the echo app whatever bytes it is sent.

The app is a process of its own: an input that stops it, or makes it say anything on standard error, is found here.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from typing import TYPE_CHECKING

import pytest
from hpack import Encoder
from hypothesis import HealthCheck, given, settings, strategies as st

from authz.mesh.echo.answer import EchoProtocol, EchoRefusal, EchoRequest, joined_headers, stream_wish
from authz.mesh.echo.grpc import FirstMessage, GrpcFault, GrpcStatus, MessageEnds, is_grpc, trailers
from authz.mesh.echo.http2_frames import MAX_FRAME_BYTES, PREFACE, ClientFrames, FrameTooLongError
from authz.mesh.echo.websocket import EchoWebSocket
from tests.support.echo_process import EchoProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Echo-Stream: 0.1\r\n\r\n"
)
_HTTP_1 = (
    b"GET / HTTP/1.1\r\n",
    b"POST /a?b HTTP/1.1\r\n",
    b"HEAD * HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n",
    b"Host: a\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"X-Echo-Stream: 0.05\r\n",
    b"X-Echo-Stream: never\r\n",
    b"X-Echo-Idle: 1\r\n",
    b"\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n",
)
_POST = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/a.B/C")]
_CONNECT = [
    (":method", "CONNECT"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/"),
    (":protocol", "websocket"),
]
_REQUESTS = (
    _POST,
    [*_POST, ("content-type", "application/grpc")],
    _CONNECT,
    [(":method", "HEAD"), *_POST[1:]],
    [_CONNECT[0], _CONNECT[2]],
)
_FIELDS = (
    ("content-length", "3"),
    ("expect", "100-continue"),
    ("x-echo-stream", "0.02"),
    ("x-echo-stream", "never"),
    ("x-echo-idle", "1"),
    ("x-echo-headers", "1"),
    ("sec-websocket-version", "8"),
)

_http_1 = st.lists(st.sampled_from(_HTTP_1) | st.binary(max_size=20), max_size=20).map(b"".join)
_websocket = st.builds(
    lambda first, mask, payload: bytes([first, mask | min(len(payload), 125)]) + bytes(4) + payload,
    st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A]) | st.integers(0, 255),
    st.sampled_from([0x80, 0]),
    st.binary(max_size=10),
)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


_requests = st.builds(
    lambda request, more: ("request", Encoder().encode([*request, *more])),
    st.sampled_from(_REQUESTS),
    st.lists(st.sampled_from(_FIELDS), max_size=3, unique_by=lambda field: field[0]),
)
_bodies = st.tuples(
    st.just("body"),
    st.sampled_from([b"\0\0\0\0\3abc", b"\0\0", b"abc", b"", bytes(5000)]) | _websocket | st.binary(max_size=9),
)
_frames = st.one_of(
    st.builds(
        _frame,
        st.just(4),
        st.just(0),
        st.just(0),
        st.sampled_from([b"", b"\0\4\0\0\0\0", b"\0\4\0\0\0\1", b"\0\4\0\0\xff\xff"]),
    ),
    st.builds(_frame, st.just(6), st.sampled_from([0, 1]), st.just(0), st.just(bytes(8))),
    st.builds(_frame, st.just(7), st.just(0), st.just(0), st.just(bytes(8))),
    st.builds(_frame, st.just(8), st.just(0), st.just(0), st.just(b"\0\0\1\0")),
)
_broken_frames = st.builds(_frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40))
_http_2_steps = st.lists(
    st.one_of(
        _requests,
        _requests,
        _bodies,
        _bodies,
        st.tuples(st.sampled_from(["end", "reset", "window", "trailers"]), st.just(b"")),
        st.tuples(st.just("raw"), _frames),
        st.tuples(st.just("raw"), _broken_frames),
    ),
    max_size=25,
)


@st.composite
def _http_2_conversations(draw: st.DrawFn) -> bytes:
    """What a client says that mostly keeps to the rules, so that what breaks them meets streams of every kind."""
    said, open_streams, following = [PREFACE, _frame(4, 0, 0, b"")], [], 1
    for step, payload in draw(_http_2_steps):
        if step == "raw":
            said.append(payload)
        elif step == "request":
            ends = draw(st.booleans())
            said.append(_frame(1, 5 if ends else 4, following, payload))
            if not ends:
                open_streams.append(following)
            following += 2
        elif open_streams:
            stream = draw(st.sampled_from(open_streams))
            match step:
                case "body":
                    said.append(_frame(0, 0, stream, payload))
                case "end":
                    said.append(_frame(0, 1, stream, b""))
                    open_streams.remove(stream)
                case "trailers":
                    said.append(_frame(1, 5, stream, Encoder().encode([("x-trailer", "1")])))
                    open_streams.remove(stream)
                case "reset":
                    said.append(_frame(3, 0, stream, bytes(4)))
                    open_streams.remove(stream)
                case _:
                    said.append(_frame(8, 0, stream, b"\0\0\1\0"))
    return b"".join(said)


_conversations = st.one_of(
    st.binary(max_size=300),
    _http_1,
    st.lists(_websocket, max_size=10).map(lambda frames: _UPGRADE + b"".join(frames)),
    _http_2_conversations(),
    _http_2_conversations(),
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoProcess]:
    with EchoProcess(folder=tmp_path_factory.mktemp("echo")) as process:
        yield process
        assert process.stop() == 0


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=_conversations, more=_conversations | st.just(b""), cuts=st.lists(st.integers(0, 600), max_size=3))
def test_no_bytes_stop_the_app_or_make_it_complain(app: EchoProcess, data: bytes, more: bytes, cuts: list[int]) -> None:
    data += more
    with app.connect() as sock, contextlib.suppress(ConnectionError):
        for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
            sock.sendall(data[start:end])
            app.get()  # what was sent so far has been read
    assert app.get("/after")["path"] == "/after"
    assert app.complaints == ""


@given(value=st.text(), accept=st.text(), idle=st.text())
def test_every_wish_is_understood_or_refused(value: str, accept: str, idle: str) -> None:
    headers = {"x-echo-stream": value, "accept": accept, "x-echo-idle": idle}
    request = EchoRequest(service="a", method="", path="", host="", protocol=EchoProtocol.HTTP_2, headers=headers)
    with contextlib.suppress(EchoRefusal):
        wish = stream_wish(request)
        assert wish is not None
        assert 0 <= wish.seconds <= 86_400


@given(fields=st.lists(st.tuples(st.binary(), st.binary())))
def test_no_header_value_is_lost(fields: list[tuple[bytes, bytes]]) -> None:
    headers = joined_headers(fields)
    assert set(headers) == {name.decode("latin-1").lower() for name, _ in fields}
    for name, value in fields:
        assert value.decode("latin-1") in headers[name.decode("latin-1").lower()]


@given(messages=st.lists(st.binary(max_size=50), max_size=8), cuts=st.lists(st.integers(0, 500), max_size=8))
def test_messages_are_told_apart_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)
    ends, first = MessageEnds(), FirstMessage()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(stream)], strict=True):
        ends.feed(stream[start:end])
        first.feed(stream[start:end])
    assert ends.between_messages
    assert first.whole == (stream[: 5 + len(messages[0])] if messages else None)


@given(data=st.lists(st.binary()))
def test_any_bytes_are_messages_or_a_fault(data: list[bytes]) -> None:
    for reader in (MessageEnds(), FirstMessage()):
        with contextlib.suppress(GrpcFault):
            for chunk in data:
                reader.feed(chunk)


@given(message=st.text(), method=st.text(), content_type=st.text())
def test_any_text_can_be_a_status_message(message: str, method: str, content_type: str) -> None:
    for _, value in trailers(GrpcStatus.INTERNAL, message):
        assert all(0x20 <= byte <= 0x7E for byte in value)
    assert not is_grpc(method, content_type) or content_type.lower().startswith("application/grpc")


@given(frames=st.lists(_frames | _broken_frames), cuts=st.lists(st.integers(0, 500)))
def test_the_frames_that_are_shown_are_all_but_the_goaways(frames: list[bytes], cuts: list[int]) -> None:
    stream, shown = PREFACE + b"".join(frames), ClientFrames()
    pieces = zip([0, *sorted(cuts)], [*sorted(cuts), len(stream)], strict=True)
    seen = b"".join(shown.feed(stream[start:end]) for start, end in pieces)
    assert seen == PREFACE + b"".join(frame for frame in frames if frame[3] != 7)


@given(data=st.lists(st.binary()))
def test_any_bytes_are_frames_or_too_long(data: list[bytes]) -> None:
    shown = ClientFrames()
    with contextlib.suppress(FrameTooLongError):
        assert sum(len(shown.feed(chunk)) for chunk in data) <= sum(map(len, data))
    with pytest.raises(FrameTooLongError):
        ClientFrames().feed(PREFACE + (MAX_FRAME_BYTES + 1).to_bytes(3, "big") + bytes(6))


@given(data=st.lists(st.binary() | _websocket))
def test_any_bytes_are_echoed_or_close_the_websocket(data: list[bytes]) -> None:
    request = EchoRequest(service="a", method="", path="", host="", protocol=EchoProtocol.WEBSOCKET, headers={})
    websocket = EchoWebSocket(request, None)
    for chunk in data:
        said = websocket.receive(chunk)
        assert len(said) <= 130 + 10 * sum(map(len, data))
        websocket.tick(1)
    if websocket.over:
        assert websocket.receive(b"x") == b""
