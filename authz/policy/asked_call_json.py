"""One asked call from one line of JSON, in the words of `authz check`'s flags.

# INVARIANT (total): any bytes give an asked call or an AskedCallError; nothing else is raised.
"""

from __future__ import annotations

import json
from typing import Any, Final

from authz.policy.asked_call import AskedCall, AskedCallError
from authz.policy.errors import nearest, quoted
from authz.policy.window import InstantError, parse_instant_ns
from authz.request import Direction, TlsVersion

#: A path of 8 KiB and headers of 64 KiB, each character escaped as `\\uXXXX`, and the rest.
MAX_LINE_BYTES: Final = 512 * 1024

_TEXTS: Final = ("from", "to", "method", "path", "grpc", "host")
_FIELDS: Final = frozenset({*_TEXTS, "headers", "tls", "direction", "at"})
_TLS: Final = {str(version): version for version in TlsVersion}
_DIRECTIONS: Final = {str(direction): direction for direction in Direction}


def asked_call_from_json(line: bytes) -> tuple[AskedCall, int | None]:
    """Read a call and its `at` (None: now); raises AskedCallError."""
    if len(line) > MAX_LINE_BYTES:
        raise AskedCallError(f"a call has at most {MAX_LINE_BYTES} bytes")
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise AskedCallError("the line is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise AskedCallError(f"column {error.colno}: not JSON: {error.msg.lower()}") from error
    except RecursionError as error:
        raise AskedCallError("not a call: nested too deep") from error
    except ValueError as error:  # a number of thousands of digits
        raise AskedCallError("not a call: a number that no field takes") from error
    if not isinstance(value, dict):
        raise AskedCallError("not a call: a call is a JSON object")
    for key in value:
        if key not in _FIELDS:
            hint = "; write `headers`, an object" if key == "header" else nearest(key, _FIELDS)
            raise AskedCallError(f"unknown field {quoted(key)}{hint}")
    texts = [_text(value, field) for field in _TEXTS]
    caller, destination, method, path, grpc, host = texts
    asked = AskedCall(
        caller=caller,
        destination=destination,
        method=method,
        path=path,
        grpc=grpc,
        host=host,
        headers=_headers(value.get("headers")),
        tls=_word(value, "tls", _TLS),
        direction=_word(value, "direction", _DIRECTIONS),
    )
    return asked, _at(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise AskedCallError("a field stands there twice")
    return fields


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique)


def _text(value: dict[str, Any], field: str) -> str | None:
    text = value.get(field)
    if text is not None and not isinstance(text, str):
        raise AskedCallError(f"`{field}` must be a string", field=field)
    return text


def _word(value: dict[str, Any], field: str, words: dict[str, Any]) -> Any:
    text = _text(value, field)
    if text is None:
        return None
    if text not in words:
        raise AskedCallError(
            f"`{field}`: {quoted(text)} is none of {', '.join(f'`{word}`' for word in words)}", field=field
        )
    return words[text]


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise AskedCallError("`headers` must be an object", field="headers")
    for name, content in value.items():
        if not isinstance(content, str):
            raise AskedCallError(f"the header {quoted(name)} must be a string", field="headers")
    return tuple(value.items())


def _at(value: dict[str, Any]) -> int | None:
    text = _text(value, "at")
    if text is None:
        return None
    try:
        return parse_instant_ns(text)
    except InstantError as error:
        raise AskedCallError(f"`at`: {error}", field="at") from error
