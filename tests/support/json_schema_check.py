"""As much of JSON Schema 2020-12 as our own schema uses; a keyword that is not known here is an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description", "examples", "then"}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
}  # fmt: skip


def problems(schema: dict[str, Any], value: Any) -> list[str]:
    """Give what is wrong with a value, each with its place."""
    return list(_problems(schema, value, schema, "$"))


def _problems(schema: Any, value: Any, root: dict[str, Any], at: str) -> Iterator[str]:
    if isinstance(schema, bool):
        if not schema:
            yield f"{at}: nothing is allowed here"
        return
    for keyword, wanted in schema.items():
        if keyword not in _ANNOTATIONS:
            yield from _KEYWORDS[keyword](wanted, value, root, at, schema)


def _fits(schema: Any, value: Any, root: dict[str, Any]) -> bool:
    return not any(True for _ in _problems(schema, value, root, "$"))


def _ref(wanted: str, value: Any, root: dict[str, Any], at: str, _: Any) -> Iterator[str]:
    target: Any = root
    for part in wanted.removeprefix("#/").split("/"):
        target = target[part]
    yield from _problems(target, value, root, at)


def _type(wanted: str, value: Any, _root: Any, at: str, _: Any) -> Iterator[str]:
    is_bool = isinstance(value, bool) and wanted != "boolean"
    if is_bool or not isinstance(value, _TYPES[wanted]):
        yield f"{at}: is no {wanted}"


def _properties(wanted: dict[str, Any], value: Any, root: dict[str, Any], at: str, _: Any) -> Iterator[str]:
    for name, schema in wanted.items():
        if isinstance(value, dict) and name in value:
            yield from _problems(schema, value[name], root, f"{at}.{name}")


def _additional(wanted: Any, value: Any, root: dict[str, Any], at: str, schema: dict[str, Any]) -> Iterator[str]:
    for name in value if isinstance(value, dict) else ():
        if name not in schema.get("properties", {}):
            yield from _problems(wanted, value[name], root, f"{at}.{name}")


def _items(wanted: Any, value: Any, root: dict[str, Any], at: str, _: Any) -> Iterator[str]:
    for number, entry in enumerate(value if isinstance(value, list) else ()):
        yield from _problems(wanted, entry, root, f"{at}[{number}]")


def _conditional(wanted: Any, value: Any, root: dict[str, Any], at: str, schema: dict[str, Any]) -> Iterator[str]:
    if _fits(wanted, value, root):
        yield from _problems(schema["then"], value, root, at)


def _said(holds: bool, at: str, keyword: str) -> Iterator[str]:  # noqa: FBT001 the one question there is
    if not holds:
        yield f"{at}: {keyword}"


_KEYWORDS: dict[str, Any] = {
    "$ref": _ref,
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
    "if": _conditional,
    "const": lambda wanted, value, _root, at, _: _said(type(value) is type(wanted) and value == wanted, at, "const"),
    "enum": lambda wanted, value, _root, at, _: _said(isinstance(value, str) and value in wanted, at, "enum"),
    "pattern": lambda wanted, value, _root, at, _: _said(
        not isinstance(value, str) or re.search(wanted, value) is not None, at, "pattern"
    ),
    "required": lambda wanted, value, _root, at, _: _said(
        not isinstance(value, dict) or all(name in value for name in wanted), at, f"required {wanted}"
    ),
    "minLength": lambda wanted, value, _root, at, _: _said(
        not isinstance(value, str) or len(value) >= wanted, at, "minLength"
    ),
    "minimum": lambda wanted, value, _root, at, _: _said(not isinstance(value, int) or value >= wanted, at, "minimum"),
    "maximum": lambda wanted, value, _root, at, _: _said(not isinstance(value, int) or value <= wanted, at, "maximum"),
    "minItems": lambda wanted, value, _root, at, _: _said(
        not isinstance(value, list) or len(value) >= wanted, at, "minItems"
    ),
    "maxItems": lambda wanted, value, _root, at, _: _said(
        not isinstance(value, list) or len(value) <= wanted, at, "maxItems"
    ),
    "minProperties": lambda wanted, value, _root, at, _: _said(
        not isinstance(value, dict) or len(value) >= wanted, at, "minProperties"
    ),
    "maxProperties": lambda wanted, value, _root, at, _: _said(
        not isinstance(value, dict) or len(value) <= wanted, at, "maxProperties"
    ),
    "oneOf": lambda wanted, value, root, at, _: _said(
        sum(_fits(each, value, root) for each in wanted) == 1, at, "oneOf"
    ),
    "anyOf": lambda wanted, value, root, at, _: _said(any(_fits(each, value, root) for each in wanted), at, "anyOf"),
    "allOf": lambda wanted, value, root, at, _: (
        problem for each in wanted for problem in _problems(each, value, root, at)
    ),
    "not": lambda wanted, value, root, at, _: _said(not _fits(wanted, value, root), at, "not"),
}
