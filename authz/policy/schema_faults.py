"""From what the schema finds wrong with a document to faults: each at its exact position, with what to write."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

from authz.policy.errors import MAX_FAULTS_AT_ONCE, Fault, FaultCode, nearest, quoted
from authz.policy.field_reading import Fields, written_as

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from authz.policy.document import Document, Key, Value

_Path: TypeAlias = tuple[str, ...]

#: fields whose name in another place, or another product, is well known
_ELSEWHERE: Final = {
    "selector": "`from` and `to` say whom a rule is about",
    "action": "a MicroPolicy always allows; a Guardrail forbids",
    "effect": "a MicroPolicy always allows; a Guardrail forbids",
    "require": "a Guardrail has it; a MicroPolicy allows",
    "rules": "`operations` in an entry of `to` says what is allowed",
    "during": "a ThirdParty is there from `opens` to `closes`; hours belong to the rules about it",
    "namespace": "names are unique in the whole set; there are no namespaces",
}


def schema_faults(
    document: Document, prefix: tuple[Key, ...], error: ValidationError, model: type[Fields]
) -> list[Fault]:
    """Give the faults that the schema found in the part of a document that `prefix` leads to."""
    # An empty list is found before; this is also said of a list whose every entry is at fault.
    told = (details for details in error.errors(include_url=False) if details["type"] != "too_short")
    return [_fault(document, prefix, details, model) for details in islice(told, MAX_FAULTS_AT_ONCE)]


def _fault(document: Document, prefix: tuple[Key, ...], details: ErrorDetails, model: type[Fields]) -> Fault:
    context: dict[str, Any] = details.get("ctx") or {}
    keys = (*prefix, *_known_keys(document, prefix, (*details["loc"], *context.get("at", ()))))
    code: FaultCode = context.get("code", FaultCode.SCHEMA)
    if details["type"] == "extra_forbidden":
        return document.fault_at_key(keys, _unknown_field(str(keys[-1]), details["loc"], model))
    return document.fault(keys, _message(details, context, document.node(*keys).value), code)


def _message(details: ErrorDetails, context: dict[str, Any], value: Value) -> str:
    match details["type"]:
        case "authz":
            message = str(context["message"])
        case "missing":
            field = str(details["loc"][-1])
            message = f"`{field}` is required{_why_required(field)}"
        case "string_type":
            message = _not_a_string(value)
        case "tuple_type":
            message = f"must be a list, not {_article(value)}; write `- ` or `[...]`"
        case "dict_type" | "model_type":
            message = f"must be a mapping, not {_article(value)}"
        case "too_long":
            message = f"at most {context['max_length']} entries are allowed; write fewer, or several documents"
        case "int_type":
            message = f"must be a number, not {_article(value)}"
        case "bool_type":
            message = f"must be `true` or `false`, not {_article(value)}"
        case _:
            message = details["msg"].lower()
    return message


def _known_keys(document: Document, prefix: tuple[Key, ...], keys: tuple[Key, ...]) -> tuple[Key, ...]:
    """Leave out what the schema put between the keys of the document, and what is not there at all."""
    node = document.node(*prefix)
    known: list[Key] = []
    for key in keys:
        child = node.children.get(key)
        if child is not None:
            known.append(key)
            node = child
    return tuple(known)


def _article(value: Value) -> str:
    match value:
        case bool():
            return f"the boolean `{str(value).lower()}`"
        case int():
            return f"the number `{value}`"
        case str():
            return f"the text {quoted(value)}"
        case tuple():
            return "a list"
        case dict():
            return "a mapping"


def _not_a_string(value: Value) -> str:
    match value:
        case bool() | int():
            text = str(value).lower()
            return f'must be text, not {_article(value)}; write "{text}" in quotes'
        case _:
            return f"must be text, not {_article(value)}"


def _why_required(field: str) -> str:
    match field:
        case "opens" | "closes" | "window":
            return ": a ThirdParty has both dates"
        case "operations":
            return "; write `all` for every one"
        case _:
            return ""


def _unknown_field(name: str, location: tuple[Key, ...], model: type[Fields]) -> str:
    path = tuple(key for key in location[:-1] if isinstance(key, str) and not key.startswith("<"))
    known = _fields_by_path(model).get(path, frozenset())
    hint = nearest(name, known)
    if not hint and name in _ELSEWHERE:
        hint = f"; {_ELSEWHERE[name]}"
    if not hint and known:
        hint = "; known here: " + ", ".join(f"`{field}`" for field in sorted(known))
    return f"unknown field {quoted(name)}{hint}"


_FIELDS_BY_PATH: Final[dict[type[Fields], dict[_Path, frozenset[str]]]] = {}


def _fields_by_path(model: type[Fields]) -> dict[_Path, frozenset[str]]:
    """Give the names that are known in each mapping of a model, by the names that lead to it."""
    if model not in _FIELDS_BY_PATH:
        found: dict[_Path, frozenset[str]] = {}
        _collect(model, (), found)
        _FIELDS_BY_PATH[model] = found
    return _FIELDS_BY_PATH[model]


def _collect(model: type[Fields], path: _Path, found: dict[_Path, frozenset[str]]) -> None:
    found[path] = found.get(path, frozenset()) | {field.alias or name for name, field in model.model_fields.items()}
    for name, field in model.model_fields.items():
        for inner in _models_in((field.annotation, *field.metadata)):
            _collect(inner, (*path, field.alias or name), found)


def _models_in(parts: tuple[Any, ...]) -> list[type[Fields]]:
    """Give the models that an annotation is made of."""
    models: list[type[Fields]] = []
    for part in parts:
        fields = written_as(part)
        if fields is not None:
            models.append(fields)
        elif isinstance(part, type) and issubclass(part, Fields):
            models.append(part)
        else:
            models.extend(_models_in(get_args(part)))
    return models
