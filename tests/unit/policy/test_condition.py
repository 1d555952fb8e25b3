"""Conditions: what they may read, what is an error where it is read, and that no text costs more than its limits."""

from __future__ import annotations

import time

import pytest

from authz.policy.condition import CallFacts, Condition, ConditionError
from authz.policy.condition_check import MAX_CHARACTERS, TEXTS, ConditionFault

FACTS = CallFacts(
    texts={**dict.fromkeys(TEXTS, ""), "request.method": "GET", "request.path": "/a/b", "caller.service": "a"},
    headers=(
        ("x-one", b"a"),
        ("x-twice", b"a"),
        ("x-twice", b"a"),
        ("x-bytes", b"\xff"),
        ("x-nul", b"a\0b"),
        ("x-empty", b""),
    ),
    caller_attributes={"env": "prod"},
    destination_attributes={"env": "prod", "data": "pci"},
)


def holds(text: str) -> bool:
    return Condition.compile(text).holds(FACTS)


@pytest.mark.parametrize(
    "text",
    [
        "request.headers['x-one'] == 'a'",
        "request.headers.`x-one` == 'a'",
        "request.headers['x-empty'] == ''",
        "has(request.headers.`x-twice`) && 'x-bytes' in request.headers && 'x-nul' in request.headers",
        "!('x-none' in request.headers)",
        "request.headers['x-twice'] == 'a' || true",
        "!(request.headers['x-twice'] == 'a' && false)",
        "caller.attributes == {'env': 'prod'}",
        "caller.attributes.env == destination.attributes['env']",
        "destination.attributes.exists(key, key == 'data')",
        "caller.attributes.all(key, caller.attributes[key] == 'prod')",
        "['/a', '/b'].exists(each, request.path.startsWith(each))",
        "request.path.matches('^/a/[a-z]{1,8}$')",
        "caller.thirdParty == '' && tls.version == ''",
        "size(request.path) == 4 ? true : 1 / 0 == 1",
    ],
)
def test_a_condition_holds(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "request.headers['x-none'] == 'a'",
        "request.headers['x-twice'] == 'a'",
        "request.headers['x-twice'] != 'a'",
        "request.headers['x-bytes'] != 'a'",
        "request.headers['x-nul'] == 'a'",
        "request.headers['x-twice'] == 'a' || false",
        "request.headers[request.method] == 'a'",
        "request.headers.exists(name, name == 'x-one')",
        "size(request.headers) > 0",
        "caller.attributes.data == 'pci'",
        "caller.attributes[request.method] == 'x'",
        "1 / size(request.query) == 1",
        "int(request.path) == 1",
    ],
)
def test_what_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ConditionError) as raised:
        holds(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x" * (MAX_CHARACTERS + 1),
        "(" * 5000 + "true" + ")" * 5000,
        " && ".join(["true"] * 800),
        "[" * 2000,
        "'" + "a" * 4000,
        " + ".join(["request.path"] * 40) + " == ''",
        "[1].exists(a, [1].exists(b, true))",
        "[1, 2].map(x, x) == []",
        "[1, 2].filter(x, x > 1) == []",
        "request.headers.all(x, request.headers.exists(y, x == y))",
        "request.path.matches(request.query)",
        "request.path.matches('(((a{90}){90}){90})')",
        "request.path.matches('a') && " * 5 + "true",
        "dyn(request.path) == 1",
        "type(request.path) == string",
        "[1, 'a'].exists(x, x == 'a')",
        "request.headers['X'] == ''",
        "request == request",
        "caller == caller",
        "request.pathh == ''",
        "now > 1",
        "getHours(timestamp('2026-01-01T00:00:00Z')) > 1",
        "request.time == request.time",
        "google.protobuf.Struct{} == google.protobuf.Struct{}",
        "1",
        "request.path",
        "null",
        "true\0",
        "tru\u2028e",
        "'\ud800' == ''",
        "\x1b[2Jtrue",
    ],
)
def test_what_is_no_condition_is_refused_at_once_on_one_line(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ConditionFault) as raised:
        Condition.compile(text)
    assert time.process_time() - began < 1
    message = str(raised.value)
    assert message.startswith("at 1:")
    assert message.isprintable()
    assert len(message) < 3000


def test_a_fault_says_line_and_column() -> None:
    with pytest.raises(ConditionFault, match=r"^at 2:9: there is no `request.pathh`; did you mean `request.path`\?$"):
        Condition.compile("request.path == '/a' ||\n request.pathh == 'b'")


def test_conditions_of_the_same_text_are_the_same() -> None:
    one = Condition.compile("request.path == '/a'")
    assert one == Condition.compile("request.path == '/a'")
    assert one != Condition.compile("request.path == '/b'")
    assert {one, Condition.compile("request.path == '/a'")} == {one}


def test_the_dearest_condition_takes_milliseconds() -> None:
    headers = tuple((f"x-{number}", b"v" * 600) for number in range(100))
    facts = CallFacts(
        texts={**dict.fromkeys(TEXTS, "a" * 8000)}, headers=headers, caller_attributes={}, destination_attributes={}
    )
    condition = Condition.compile(
        "request.headers.all(n, request.headers[n] != n) && !request.path.matches('^(a|aa|ab)*(a|b)*(a|c)*d$')"
    )
    began = time.process_time()
    assert condition.holds(facts)
    assert time.process_time() - began < 0.5
