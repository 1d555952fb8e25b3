"""From typed Envoy messages to the JSON that Envoy reads.

This is the one place that knows how `envoy-data-plane` (betterproto2) says things on paper. Its own `to_dict` is not
used: it writes `consecutive_5_xx` for `consecutive_5xx`, which Envoy refuses as an unknown field, and resolves every
type hint again for every message (half a second for a dozen destinations). The rules of ProtoJSON that a configuration
needs are few: a field that holds its default is left out unless it has presence, a `typed_config`
(`google.protobuf.Any`) becomes the message's own fields beside an `@type`, a duration is `"0.350s"`, an enum is its
name.

JSON is used, and not YAML, because every JSON document is a YAML document too (YAML 1.2, 1.3) and nothing in it can
be read in two ways.

ProtoJSON: https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from functools import cache
from typing import TypeAlias

import betterproto2
from envoy_data_plane.google.protobuf import Any, Duration, Struct

from authz.proxy.errors import ProxyError

_LINE_CHARS = 110
_INDENT_CHARS = 2

_Json: TypeAlias = "dict[str, _Json] | list[_Json] | str | int | float | bool"


def packed(message: betterproto2.Message) -> Any:
    """Give the message as an Any, which names its type."""
    return Any.pack(message)


def rendered(message: betterproto2.Message) -> str:
    """Give the message as indented JSON that ends in a newline; equal messages give equal bytes.

    What fits into one line stands on one line: a configuration is read by people, too.
    """
    return _laid_out(_json(message), indent=0, used=0) + "\n"


def _laid_out(value: _Json, *, indent: int, used: int) -> str:
    line = json.dumps(value)
    if indent + used + len(line) <= _LINE_CHARS or not value:
        return line
    inner = indent + _INDENT_CHARS
    match value:
        case dict():
            items = [
                f"{json.dumps(key)}: {_laid_out(item, indent=inner, used=len(key) + 4)}" for key, item in value.items()
            ]
        case list():
            items = [_laid_out(item, indent=inner, used=0) for item in value]
        case _:
            return line
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    pad = " " * inner
    return f"{opening}\n{pad}" + f",\n{pad}".join(items) + f"\n{' ' * indent}{closing}"


def _json(value: object) -> _Json:
    match value:
        case betterproto2.Message():
            return _of_message(value)
        case timedelta():
            return _of_message(Duration.from_timedelta(value))
        case betterproto2.Enum():
            return value.proto_name or value.name
        case list():
            return [_json(item) for item in value]
        case dict():
            return {str(key): _json(item) for key, item in value.items()}
        case bool() | int() | float() | str():
            return value
        case _:
            raise ProxyError(f"a value of type `{type(value).__name__}` cannot be written into a configuration")


def _of_message(message: betterproto2.Message) -> _Json:
    match message:
        case Any():
            content = message.unpack()
            fields = {} if content is None else _fields(content)
            return {"@type": message.type_url, **fields}
        case Struct() | Duration():
            document: _Json = message.to_dict()
            return document
        case _:
            return _fields(message)


def _fields(message: betterproto2.Message) -> dict[str, _Json]:
    written: dict[str, _Json] = {}
    for name, has_presence in _field_names(type(message)):
        value = getattr(message, name)
        # Without presence 0, "", false, [] and {} are what a missing field means; with it None alone is missing.
        if value is None or (not value and not has_presence):
            continue
        written[name.removesuffix("_")] = _json(value)
    return written


@cache
def _field_names(kind: type[betterproto2.Message]) -> tuple[tuple[str, bool], ...]:
    names = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        of_field = betterproto2.FieldMetadata.get(field)
        is_message = of_field.proto_type == betterproto2.TYPE_MESSAGE and not of_field.repeated
        names.append((field.name, bool(of_field.optional or of_field.group or is_message)))
    return tuple(names)
