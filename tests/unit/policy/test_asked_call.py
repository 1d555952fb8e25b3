from __future__ import annotations

import pytest

from authz.identity.spiffe_id import SpiffeId
from authz.policy.asked_call import AskedCall, AskedCallError
from authz.policy.asked_call_json import MAX_LINE_BYTES, asked_call_from_json
from authz.policy.policy_test import directory_of
from authz.request import MAX_HEADERS_BYTES, Call, Direction, TlsVersion
from tests.support.policy_texts import document, parsed, service

OPEN = "window: {opens: 2026-01-01T00:00:00Z, closes: 2027-01-01T00:00:00Z}"
DIRECTORY = directory_of(
    parsed(
        service("a", more=", hosts: [a.local]"),
        service("many", identity="'spiffe://shop.example/*/x/y', spiffe://shop.example/m2, spiffe://shop.example/m1"),
        service("wild", identity="'spiffe://shop.example/w/*'"),
        document(
            "ThirdParty",
            "p",
            f"{{hosts: ['*.p.example', p.example:8443], identities: [spiffe://acme.example/p], {OPEN}}}",
        ),
        document("ThirdParty", "q", f"{{hosts: ['*.q.example'], {OPEN}}}"),
        document("ThirdParty", "r", f"{{identities: ['spiffe://acme.example/r/**'], {OPEN}}}"),
    )
)


def call(**words: object) -> Call:
    given = {"caller": "a", "destination": "a", **words}
    if "grpc" not in given:
        given = {"method": "GET", "path": "/", **given}
    return DIRECTORY.call(AskedCall(**given))  # type: ignore[arg-type]


def test_a_call_to_a_service_is_inbound_to_it() -> None:
    given = call()
    assert (given.direction, given.service, given.host, given.tls) == (Direction.INBOUND, "a", "a", TlsVersion.TLS_1_3)
    assert given.caller == SpiffeId.parse("spiffe://shop.example/a")


def test_a_call_to_a_third_party_is_outbound_to_its_first_exact_host() -> None:
    given = call(destination="p", tls=TlsVersion.TLS_1_2)
    assert (given.direction, given.service, given.host, given.tls) == (Direction.OUTBOUND, "a", "p.example:8443", None)


def test_a_call_to_a_host_is_outbound() -> None:
    assert call(destination="x.example:80").host == "x.example:80"
    assert call(destination="a.local").direction is Direction.OUTBOUND
    assert call(destination="a", direction=Direction.OUTBOUND).host == "a"


def test_a_host_can_be_asked_inbound() -> None:
    assert call(destination="A.local:80", direction=Direction.INBOUND).service == "a"
    assert call(destination="x.example", direction=Direction.INBOUND).service == "x.example"


def test_a_name_stands_for_its_first_exact_identity() -> None:
    assert str(call(caller="many").caller) == "spiffe://shop.example/m2"
    assert str(call(caller="p").caller) == "spiffe://acme.example/p"
    assert str(call(caller="spiffe://else.example/x").caller) == "spiffe://else.example/x"


def test_no_caller_is_nobody() -> None:
    assert call(caller=None).caller is None
    assert call(caller="").caller is None


def test_grpc_stands_for_method_path_and_content_type() -> None:
    given = call(grpc="a.B/C", headers=(("X-A", "1"),))
    assert (given.method, given.path) == ("POST", "/a.B/C")
    assert given.headers == (("x-a", b"1"), ("content-type", b"application/grpc"))


def test_header_names_are_in_lower_case_and_values_in_utf8() -> None:
    assert call(headers=(("Content-Type", "é"),)).headers == (("content-type", "é".encode()),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"caller": "aa"}, "there is no Service or ThirdParty `aa`"),
        ({"caller": "mny"}, "did you mean `many`?"),
        ({"caller": "spiffe://X/a"}, "a trust domain has only the characters"),
        ({"caller": "wild"}, "`wild` has no exact identity; give a SPIFFE ID, such as `spiffe://shop.example/w/*`"),
        ({"caller": "q"}, "`q` has no exact identity; give a SPIFFE ID"),
        ({"destination": "q"}, "`q` has no exact host; give one that `*.q.example` stands for"),
        ({"destination": "r"}, "`r` has no hosts, so it is never called"),
        (
            {"destination": "mny"},
            "there is no Service or ThirdParty `mny`; did you mean `many`? (a host has a dot or a port)",
        ),
        ({"destination": None}, "`to` is required"),
        ({"destination": ""}, "`to` is required"),
        ({"destination": "p", "direction": Direction.INBOUND}, "`p` is a ThirdParty: calls to it are outbound"),
        ({"caller": "p", "destination": "p"}, "`p` and `p` are both ThirdParties"),
        ({"method": None}, "`method` is required"),
        ({"path": None}, "`path` is required"),
        ({"grpc": "a.B/C", "path": "/"}, "`grpc` stands for method and path; leave `path` out"),
        ({"grpc": "a.B/*"}, "a call has one method"),
        ({"grpc": "a"}, "`a` is no gRPC method"),
        ({"headers": (("a b", "c"),)}, "`a b` is no header name"),
        ({"headers": (("a", "\ud800"),)}, "has a value that is no text"),
        ({"headers": (("a", "b" * MAX_HEADERS_BYTES),)}, "the headers have 65537 bytes"),
    ],
)
def test_what_cannot_be_understood_says_what_to_give(words: dict[str, object], message: str) -> None:
    with pytest.raises(AskedCallError) as raised:
        call(**words)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "column 1: not JSON"),
        (b"[]", "a call is a JSON object"),
        (b'"a"', "a call is a JSON object"),
        (b'{"form": "a"}', "unknown field `form`; did you mean `from`?"),
        (b'{"header": {}}', "unknown field `header`; write `headers`, an object"),
        (b'{"to": 1}', "`to` must be a string"),
        (b'{"to": "a", "to": "b"}', "a field stands there twice"),
        (b'{"headers": []}', "`headers` must be an object"),
        (b'{"headers": {"a": 1}}', "the header `a` must be a string"),
        (b'{"headers": {"a": "1", "a": "2"}}', "a field stands there twice"),
        (b'{"tls": "1.3"}', "`tls`: `1.3` is none of `TLSv1_2`, `TLSv1_3`"),
        (b'{"direction": "in"}', "`direction`: `in` is none of `inbound`, `outbound`"),
        (b'{"at": "now"}', "`at`: `now` is no time of RFC 3339"),
        (b'{"at": 5}', "`at` must be a string"),
        (b"\xff", "the line is not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"to": ' + b"9" * 5000 + b"}", "a number that no field takes"),
        (b" " * (MAX_LINE_BYTES + 1), "a call has at most"),
    ],
)
def test_a_line_that_is_no_call_says_why(line: bytes, message: str) -> None:
    with pytest.raises(AskedCallError) as raised:
        asked_call_from_json(line)
    assert message in str(raised.value)


def test_null_is_what_was_left_out() -> None:
    asked, at_ns = asked_call_from_json(b'{"from": null, "to": "a", "headers": null, "at": null, "tls": null}')
    assert (asked, at_ns) == (AskedCall(destination="a"), None)
