from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from authz.proxy.addresses import MAX_UNIX_PATH_BYTES, TcpAddress, UnixAddress, parse_address
from authz.proxy.errors import ProxyError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", TcpAddress(host="127.0.0.1", port=8080)),
        ("[::1]:80", TcpAddress(host="::1", port=80)),
        ("orders-app:8080", TcpAddress(host="orders-app", port=8080)),
        ("unix:/run/out.sock", UnixAddress(path="/run/out.sock")),
    ],
)
def test_an_address_is_read_as_it_is_written(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":80",
        "host:http",
        "host:65536",
        "::1:80",
        "[::1]",
        "a b:80",
        "-a:80",
        "unix:",
        "unix:@abstract",
        "unix:/" + "a" * MAX_UNIX_PATH_BYTES,
        "a" * 300 + ":80",
        "host:-1",
        "host:+1",
        "host:1_0",
        "host:٣",
    ],
)
def test_what_is_no_address_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ProxyError) as refused:
        parse_address(text)
    assert "\n" not in str(refused.value)


@given(st.text())
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    for candidate in (text, f"unix:{text}", f"{text}:80"):
        try:
            address = parse_address(candidate)
        except ProxyError:
            continue
        assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("host", "is_ip"), [("127.0.0.1", True), ("::1", True), ("localhost", False), ("1.2.3", False)]
)
def test_only_a_literal_needs_no_resolving(host: str, is_ip: bool) -> None:  # noqa: FBT001
    assert TcpAddress(host=host, port=1).is_ip is is_ip
