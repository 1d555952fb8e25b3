"""What commands say of a hub that cannot be asked: the address, what is wrong there, and what to do."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from authz.cli.hub_fault import hub_url, why_not_answered
from authz.cli.main import main
from authz.errors import UsageError
from tests.support.certificates import leaf, with_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMANDS = (("observe",), ("map",), ("status",))


@contextmanager
def server(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answer every connection with some bytes, once it has said something, and end it."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            if ended.is_set():
                connection.close()
                return
            try:
                with connection if context is None else context.wrap_socket(connection, server_side=True) as open_one:
                    open_one.recv(65536)
                    open_one.sendall(answer)
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join()
        listener.close()


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for foreign in ("Connect call", "Errno", "('", "Error", "Traceback", "None"):
        assert foreign not in line
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_where_nothing_listens_the_address_is_said_and_how_to_start_a_hub_there(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(capsys, *command, "--hub", "http://127.0.0.1:1")
    assert line.startswith("--hub: http://127.0.0.1:1: nothing listens at 127.0.0.1:1: start `authz hub ")
    assert "nothing listens at [::1]:1: " in said(capsys, *command, "--hub", "http://[::1]:1")
    assert "nothing listens at localhost:1: " in said(capsys, *command, "--hub", "http://localhost:1")


def test_what_has_named_the_hub_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHZ_HUB", "http://127.0.0.1:1")
    assert said(capsys, "map", "--state", "/nowhere/at/all").startswith(
        "AUTHZ_HUB: http://127.0.0.1:1: nothing listens"
    )
    monkeypatch.delenv("AUTHZ_HUB")
    assert "no mesh with one runs in `/nowhere/at/all`" in said(capsys, "map", "--state", "/nowhere/at/all")


def test_a_name_that_nobody_knows_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "map", "--hub", "https://hub.invalid:8443")
    assert "no address is known for the name `hub.invalid`" in line


def test_who_speaks_no_http_or_ends_at_once_is_said_with_the_other_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    with server(b"\x15\x03\x01\x00\x02\x02\x46") as port:
        assert "does not speak HTTP: if it serves TLS, give https://" in said(
            capsys, "map", "--hub", f"http://127.0.0.1:{port}"
        )
    with server(b"") as port:
        assert "ended the connection without an answer: if it serves TLS" in said(
            capsys, "map", "--hub", f"http://127.0.0.1:{port}"
        )
    with server(b"HTTP/1.1 400 no\r\n\r\n") as port:
        assert "agrees on no TLS" in said(capsys, "map", "--hub", f"https://127.0.0.1:{port}")


def test_an_answer_that_ends_early_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with server(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{") as port:
        assert "ended early" in said(capsys, "map", "--hub", f"http://127.0.0.1:{port}")


def test_a_certificate_that_is_not_believed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pem = tmp_path / "server.pem"
    pem.write_bytes(with_key(leaf()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with server(b"", context) as port:
        line = said(capsys, "map", "--hub", f"https://127.0.0.1:{port}")
    assert "its certificate is not believed (" in line
    assert "SSL_CERT_FILE" in line


@pytest.mark.parametrize(
    ("status", "content", "shown", "message"),
    [
        (
            401,
            b'{"error": "say who asks"}',
            None,
            "it wants to know who asks (status 401: say who asks): give --token-file",
        ),
        (
            403,
            b"",
            "the token",
            "it does not take the token for this (status 403): the hub's --access file says who may",
        ),
        (404, b"<html>", None, "no hub, or one of another version (status 404)"),
        (404, b'{"error": "unknown"}', None, "unknown (status 404)"),
        (302, b"", None, "sends elsewhere (status 302)"),
        (429, b"", None, "asked too often (status 429)"),
        (421, b'{"error": "the Host is none of this hub\'s"}', None, "the Host is none of this hub's (status 421)"),
        (502, b"\xff", None, "it answers with status 502: is it a hub"),
    ],
)
def test_an_answer_that_is_none_says_what_to_do(status: int, content: bytes, shown: str | None, message: str) -> None:
    assert message in why_not_answered(status, content, shown=shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("127.0.0.1:8800", "give a URL such as http://127.0.0.1:8800"),
        ("hub", "give a URL such as"),
        ("", "give a URL such as"),
        ("http://127.0.0.1:99999", "it is no URL"),
        ("http://hub.example:8800", "http is for this machine only"),
        ("http://u:secret@127.0.0.1:1", "no user or password in the URL; show a token with --token-file"),
        ("https://hub.example/?x=1", "no `?` and no `#`"),
        ("https://h\u00fcb.example", "it is no URL"),
        ("https://" + "h" * 9000, "it is no URL"),
    ],
)
def test_what_is_no_address_of_a_hub_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        hub_url(text)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


@given(st.one_of(st.text(), st.text().map("https://{}".format), st.text().map("http://127.0.0.1{}".format)))
def test_any_text_is_the_url_of_a_hub_or_a_usage_error(text: str) -> None:
    try:
        url = hub_url(text)
    except UsageError:
        return
    assert url.scheme in {"http", "https"}
    assert url.host


@given(st.integers(300, 599), st.binary())
def test_whatever_answers_is_told_in_a_line(status: int, content: bytes) -> None:
    assert why_not_answered(status, content, shown=None)
