"""What the conditions of vectors and generated sets mean, said in Python instead of CEL.

Written from the contract and the CEL specification, without the library: the reference judges conditions by it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz.policy.schema import Service, ThirdParty
    from authz.request import Call


class Unreadable(Exception):  # noqa: N818 it is what CEL calls an error value
    """Something that cannot be read was read."""


class Facts:
    def __init__(
        self, call: Call, caller: Service | ThirdParty | None, destination: Service | ThirdParty, segments: list[str]
    ) -> None:
        def service(party: Service | ThirdParty | None) -> str:
            return party.name if party is not None and not hasattr(party, "window") else ""

        def third_party(party: Service | ThirdParty | None) -> str:
            return party.name if party is not None and hasattr(party, "window") else ""

        self._headers = call.headers
        self.method, self.host, self.path = call.method, call.host, "/" + "/".join(segments)
        self.query = "" if call.method == "CONNECT" or "?" not in call.path else call.path.split("?", 1)[1]
        self.identity = "" if call.caller is None else str(call.caller)
        self.service, self.third_party = service(caller), third_party(caller)
        self.to_service, self.to_third_party = service(destination), third_party(destination)
        self._attributes = {} if caller is None else caller.attributes
        self._to_attributes = destination.attributes
        inbound = call.direction == "inbound"
        self.tls = (call.tls or "") if inbound else getattr(destination, "tls", "TLSv1_3")

    def header(self, name: str) -> str:
        values = [value for each, value in self._headers if each == name]
        if len(values) != 1 or b"\0" in values[0]:
            raise Unreadable
        try:
            return values[0].decode()
        except UnicodeDecodeError:
            raise Unreadable from None

    def has_header(self, name: str) -> bool:
        return any(each == name for each, _ in self._headers)

    def headers(self) -> dict[str, str]:
        return {name: self.header(name) for name, _ in self._headers}

    def attribute(self, name: str) -> str:
        return self._of(self._attributes, name)

    def to_attribute(self, name: str) -> str:
        return self._of(self._to_attributes, name)

    def has_attribute(self, name: str) -> bool:
        return name in self._attributes

    @staticmethod
    def _of(attributes: Mapping[str, str], name: str) -> str:
        if name not in attributes:
            raise Unreadable
        return attributes[name]


def either(*sides: Callable[[], bool]) -> bool:
    """Give what `||` gives: true if a side is, whatever the others are; else an error if a side is one."""
    answers = [_value(side) for side in sides]
    if True not in answers and None in answers:
        raise Unreadable
    return True in answers


def both(*sides: Callable[[], bool]) -> bool:
    return not either(*(lambda side=side: not side() for side in sides))


def _value(side: Callable[[], bool]) -> bool | None:
    try:
        return side()
    except Unreadable:
        return None


#: what tells callers apart that have no SPIFFE ID, and tunnels
OF_EVIDENCE: dict[str, Callable[[Facts], bool]] = {
    "caller.identity == ''": lambda it: it.identity == "",
    "caller.identity == '' && caller.thirdParty != ''": lambda it: it.identity == "" and it.third_party != "",
    "request.method == 'CONNECT' && request.path == '/' && request.query == ''": lambda it: (
        (it.method, it.path, it.query) == ("CONNECT", "/", "")
    ),
    "request.host == 'u.example:8443'": lambda it: it.host == "u.example:8443",
}

MEANING: dict[str, Callable[[Facts], bool]] = {
    **OF_EVIDENCE,
    "true": lambda _: True,
    "false": lambda _: False,
    "request.method == 'GET'": lambda it: it.method == "GET",
    "request.method in ['GET', 'HEAD']": lambda it: it.method in {"GET", "HEAD"},
    "request.path.startsWith('/a')": lambda it: it.path.startswith("/a"),
    "request.path == '/é' || request.path.endsWith('/b')": lambda it: it.path == "/é" or it.path.endswith("/b"),
    "request.path.matches('^/[ab]/[a-z]+$')": lambda it: re.search("^/[ab]/[a-z]+\\Z", it.path) is not None,
    "request.query != ''": lambda it: it.query != "",
    "request.query.contains('//')": lambda it: "//" in it.query,
    "request.host.endsWith('.example')": lambda it: it.host.endswith(".example"),
    "caller.service != 's1'": lambda it: it.service != "s1",
    "caller.service == '' && caller.thirdParty == ''": lambda it: it.service == "" and it.third_party == "",
    "caller.identity.startsWith('spiffe://o.example/a')": lambda it: it.identity.startswith("spiffe://o.example/a"),
    "destination.thirdParty != '' || destination.service == 's2'": lambda it: (
        it.to_third_party != "" or it.to_service == "s2"
    ),
    "caller.attributes.env == destination.attributes.env": lambda it: it.attribute("env") == it.to_attribute("env"),
    "caller.attributes['team'] == 'x'": lambda it: it.attribute("team") == "x",
    "has(caller.attributes.env)": lambda it: it.has_attribute("env"),
    "!('team' in caller.attributes) || caller.attributes.team == 'y'": lambda it: either(
        lambda: not it.has_attribute("team"), lambda: it.attribute("team") == "y"
    ),
    "tls.version == 'TLSv1_3'": lambda it: it.tls == "TLSv1_3",
    "tls.version >= 'TLSv1_2'": lambda it: it.tls >= "TLSv1_2",
    "request.headers['x-h'] == 'a'": lambda it: it.header("x-h") == "a",
    "request.headers['x-h'] != 'a'": lambda it: it.header("x-h") != "a",
    "'x-h' in request.headers": lambda it: it.has_header("x-h"),
    "!('x-h' in request.headers)": lambda it: not it.has_header("x-h"),
    "request.headers['x-h'] == 'a' || request.method == 'GET'": lambda it: either(
        lambda: it.header("x-h") == "a", lambda: it.method == "GET"
    ),
    "request.headers['x-h'] == 'a' && request.method == 'GET'": lambda it: both(
        lambda: it.header("x-h") == "a", lambda: it.method == "GET"
    ),
    "request.method == 'GET' ? request.headers['x-h'] == 'a' : true": lambda it: (
        it.header("x-h") == "a" if it.method == "GET" else True
    ),
    "request.headers.exists(name, name == 'x-h')": lambda it: "x-h" in it.headers(),
    "request.headers['content-type'].startsWith('application/grpc')": lambda it: it.header("content-type").startswith(
        "application/grpc"
    ),
    "['/a', '/b'].exists(each, request.path.startsWith(each))": lambda it: it.path.startswith(("/a", "/b")),
    "1 / size(request.query) == 0": lambda it: _zero(len(it.query)),
}


def _zero(number: int) -> bool:
    if number == 0:
        raise Unreadable
    return 1 // number == 0
