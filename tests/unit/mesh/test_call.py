from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from authz.mesh.calls.call import MeshCall, make_call
from authz.mesh.calls.http1_call import call_http1
from authz.mesh.calls.wire import Endpoint, WireAnswer
from authz.mesh.errors import CallUsageError, NoAnswerError
from authz.mesh.process_mark import ProcessMark
from authz.mesh.state import MeshState, RunningService, RunningThirdParty

if TYPE_CHECKING:
    from collections.abc import Iterator


class _OneShot:
    """A server that takes one request, remembers its bytes, and answers what it was told to."""

    def __init__(self, answer: bytes) -> None:
        self.received = b""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while b"\r\n\r\n" not in self.received and (data := connection.recv(65536)):
                self.received += data
            connection.sendall(self._answer)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._thread.join(30)
        self._listener.close()


@contextmanager
def _answering(answer: bytes) -> Iterator[_OneShot]:
    server = _OneShot(answer)
    server.start()
    try:
        yield server
    finally:
        server.end()


_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-A: 1\r\nx-a: 2\r\n\r\nhi"


def _call(address: str, *, method: bytes = b"GET", path: bytes = b"/", body: bytes | None = None) -> WireAnswer:
    return call_http1(
        Endpoint(address=address, what="the server"),
        method=method,
        path=path,
        host=b"orders",
        headers=((b"x-Case", b"K\xc3"),),
        body=body,
        timeout_s=30,
    )


def test_a_request_is_sent_byte_for_byte_as_it_was_asked_for() -> None:
    with _answering(_OK) as server:
        answer = _call(server.address, method=b"get", path=b"/a/../b;c=%zz//\xff?x#y")
    assert server.received == b"get /a/../b;c=%zz//\xff?x#y HTTP/1.1\r\nhost: orders\r\nx-Case: K\xc3\r\n\r\n"
    assert (answer.status, answer.body, answer.joined_headers()["x-a"]) == (200, b"hi", "1, 2")


def test_a_body_comes_with_its_length() -> None:
    with _answering(_OK) as server:
        _call(server.address, method=b"POST", body=b"\x00two")
    assert server.received.endswith(b"content-length: 4\r\n\r\n\x00two")


def test_what_came_before_a_cut_is_given() -> None:
    with _answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nline\n\r\n5\r\nli") as server:
        assert _call(server.address).body == b"line\nli"


def test_the_answer_to_head_has_no_body_and_no_wait_for_one() -> None:
    with _answering(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n") as server:
        assert _call(server.address, method=b"HEAD").body == b""


@pytest.mark.parametrize(
    "answer", [b"", b"\r\n", b"hello\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28"]
)
def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    with _answering(answer) as server, pytest.raises(NoAnswerError):
        _call(server.address)


def test_a_listener_that_is_not_there_is_an_error_that_names_it() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(NoAnswerError, match=r"^the server does not answer: connection refused$"):
            _call(f"127.0.0.1:{held.getsockname()[1]}")


def test_an_answer_that_never_ends_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint(address=f"127.0.0.1:{silent.getsockname()[1]}", what="the server")
        with pytest.raises(NoAnswerError, match="not answered in time"):
            call_http1(endpoint, method=b"GET", path=b"/", host=None, headers=(), body=None, timeout_s=0.05)


@pytest.mark.parametrize(
    "call",
    [
        {"method": b"", "path": b"/"},
        {"method": b"GET", "path": b""},
        {"method": b"GET /x", "path": b"/"},
        {"method": b"GET", "path": b"/ HTTP/1.1\r\nx-authz-caller: me"},
        {"method": b"GET", "path": b"/", "headers": ((b"a b", b"c"),)},
        {"method": b"GET", "path": b"/", "headers": ((b"a", b"b\r\nc: d"),)},
        {"method": b"GET", "path": b"/", "headers": ((b":path", b"/other"),)},
        {"method": b"GET", "path": b"/", "host": b"a\nb"},
        {"method": b"GET", "path": b"/", "destination": "a\nb"},
        {"method": b"GET", "path": b"/", "grpc": "shop.v1.Orders/Get"},
        {"grpc": "/shop.v1.Orders/Get"},
        {"grpc": "Get"},
        {},
    ],
)
def test_what_would_be_no_request_or_two_is_a_usage_error(call: dict[str, object]) -> None:
    with pytest.raises(CallUsageError):
        MeshCall(**{"caller": "a", "destination": "b", **call})  # type: ignore[arg-type]


@given(
    st.binary(max_size=20), st.binary(max_size=20), st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5)))
)
def test_no_call_that_can_be_made_holds_a_second_request(
    method: bytes, path: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    try:
        call = MeshCall(caller="a", destination="b", method=method, path=path, headers=tuple(headers))
    except CallUsageError:
        return
    assert b"\n" not in b"".join([call.method, call.path, *(name + value for name, value in call.headers)])


def _service(name: str) -> RunningService:
    return RunningService(
        name=name,
        identity=f"spiffe://shop.example/{name}",
        app="127.0.0.1:1",
        inbound="127.0.0.1:2",
        outbound="127.0.0.1:3",
        admin="unix:/a",
        authz_socket="/b",
        decision_log="/c",
        certificate="/d",
        key="/e",
        bundle="/f",
        sidecar_state="/g",
    )


def _third_party(name: str, *hosts: str) -> RunningThirdParty:
    return RunningThirdParty(
        name=name, hosts=hosts, identity=None, address=None, certificate=None, key=None, bundle=None, authority=None
    )


_STATE = MeshState(
    supervisor=ProcessMark(pid=2, started=1),
    policies="p",
    runtime_directory="/r",
    laid_out=True,
    services=(_service("orders"),),
    third_parties=(_third_party("called", "*.called.example"), _third_party("caller")),
    processes=(),
)


@pytest.mark.parametrize(
    ("caller", "destination", "why"),
    [
        ("nobody", "orders", "there is no Service or ThirdParty `nobody`"),
        ("called", "caller", "both are outside the mesh"),
        ("called", "nobody", "both are outside the mesh"),
        ("caller", "orders", "`caller` has no identities"),
        ("orders", "called", "`called` has no exact host: give --host"),
        ("orders", "caller", "`caller` has no exact host: give --host"),
    ],
)
def test_a_call_that_nobody_could_make_is_a_usage_error(caller: str, destination: str, why: str) -> None:
    with pytest.raises(CallUsageError, match=why):
        make_call(_STATE, MeshCall(caller=caller, destination=destination, method=b"GET", path=b"/"))
