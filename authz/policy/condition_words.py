"""The names that a condition may use, and what the library says of a wrong one in words that say what to write."""

from __future__ import annotations

import re
from typing import Final

from authz.policy.errors import nearest, quoted

HEADERS: Final = "request.headers"
#: what is a text ("" where there is none)
TEXTS: Final = (
    "request.method", "request.path", "request.host", "request.query", "caller.identity", "caller.service",
    "caller.thirdParty", "caller.address", "destination.service", "destination.thirdParty", "tls.version",
)  # fmt: skip
#: what is a map of texts
MAPS: Final = (HEADERS, "caller.attributes", "destination.attributes")

#: the functions of CEL that are about time
TIME: Final = frozenset({
    "timestamp", "duration", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours",
    "getMilliseconds", "getMinutes", "getMonth", "getSeconds",
})  # fmt: skip

#: operators of other languages
_OPERATORS: Final = {
    "and": "&&", "or": "||", "not": "!", "=": "==", "===": "==", "<>": "!=", "is": "==", "AND": "&&", "OR": "||",
    "&": "&&", "|": "||",
}  # fmt: skip
_CALLED: Final = ("matches", "contains", "startsWith", "endsWith")
#: what a proxy's or another engine's conditions call it
_CALLED_HERE: Final = {
    "source.principal": "caller.identity",
    "source.address": "caller.address",
    "connection.uri_san_peer_certificate": "caller.identity",
    "principal": "caller.identity",
    "request.url_path": "request.path",
    "request.url": "request.path",
    "input.path": "request.path",
    "input.method": "request.method",
    "input.host": "request.host",
}


def in_our_words(message: str) -> str:
    """Say what is wrong with an expression, and what to write, from the library's message."""
    found = re.match(r"undeclared reference to '([^']*)'", message)
    if found is not None:
        return f"there is no {quoted(found[1])}{_instead(found[1])}"
    found = re.match(r"found no matching overload for '([^']*)' applied to '(.*)'", message)
    if found is not None:
        return f"{quoted(found[1].strip('_@'))} does not take {quoted(found[2])}{_types(found[1], found[2])}"
    found = re.match(r"Syntax error: (?:mismatched|extraneous|no viable alternative at) input '(.*)'", message)
    if found is None:
        found = re.match(r"Syntax error: token recognition error at: '(.*)'", message)
    if found is not None:
        word = found[1].partition("' expecting")[0].strip()
        return "the expression ends too early" if word == "<EOF>" else _unexpected(word)
    found = re.match(r"Syntax error: missing '(.*)' at '(.*)'", message)
    if found is not None:
        return f"`{found[1]}` is missing {'at the end' if found[2] == '<EOF>' else f'before {quoted(found[2])}'}"
    return message[:1].lower() + message[1:]


def _unexpected(word: str) -> str:
    if word in _OPERATORS:
        return f"{quoted(word)} is not expected here; write `{_OPERATORS[word]}`"
    if word in _CALLED:
        return f"{quoted(word)} is not expected here; write `TEXT.{word}('...')`"
    return f"{quoted(word)} is not expected here"


def _instead(name: str) -> str:
    if name in {"now", "request.time", *TIME}:
        return ": time is said in windows only"
    if name.startswith("request.auth"):
        return "; end users' tokens are the app's own business"
    if name in _CALLED_HERE:
        return f"; did you mean `{_CALLED_HERE[name]}`?"
    below = [each for each in (*TEXTS, *MAPS) if each.startswith(f"{name}.")]
    if not below and "." in name:
        hint = nearest(name, (*TEXTS, *MAPS), similarity=0.8)
        if hint:
            return hint
        root = name.partition(".")[0]
        below = [each for each in (*TEXTS, *MAPS) if each.startswith(f"{root}.")] or [*TEXTS, *MAPS]
    return "; there is " + ", ".join(f"`{each}`" for each in below) if below else ""


def _types(operator: str, types: str) -> str:
    if operator == "!_":
        return "; compare it, such as `caller.service == ''`"
    if "string" in types and re.search(r"\b(?:int|uint|double|bool)\b", types):
        return "; what a call has is text: write '...' around the value"
    return ""
