"""From what the schema finds wrong with a document to faults: each at its exact position, with what to write."""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

from authz.policy.errors import MAX_FAULTS_AT_ONCE, Fault, FaultCode, quoted
from authz.policy.field_reading import Fields, written_as
from authz.policy.remedy import known_field, no_list, no_mapping, no_text, unknown_field

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from authz.policy.document import Document, Key, Value

_Path: TypeAlias = tuple[str, ...]

_TYPOGRAPHIC: Final = frozenset(
    "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{DOUBLE LOW-9 QUOTATION MARK}"
    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
)


def schema_faults(
    document: Document, prefix: tuple[Key, ...], error: ValidationError, model: type[Fields]
) -> list[Fault]:
    """Give the faults that the schema found in the part of a document that `prefix` leads to."""
    # An empty list is found before; this is also said of a list whose every entry is at fault.
    found = [details for details in error.errors(include_url=False) if details["type"] != "too_short"]
    misspelt = {
        (*details["loc"][:-1], meant)
        for details in found
        if details["type"] == "extra_forbidden"
        and (meant := known_field(str(details["loc"][-1]), _known_beside(details["loc"], model))) is not None
    }
    # Whoever misspells a field has not left it out.
    told = (details for details in found if details["type"] != "missing" or details["loc"] not in misspelt)
    return [_fault(document, prefix, details, model) for details in islice(told, MAX_FAULTS_AT_ONCE)]


def required_fields(location: tuple[Key, ...], model: type[Fields]) -> frozenset[str]:
    """Give the fields that the mapping at a location of a document must have."""
    return _required_by_path(model).get(_names(location), frozenset())


def _fault(document: Document, prefix: tuple[Key, ...], details: ErrorDetails, model: type[Fields]) -> Fault:
    context: dict[str, Any] = details.get("ctx") or {}
    keys = (*prefix, *_known_keys(document, prefix, (*details["loc"], *context.get("at", ()))))
    code: FaultCode = context.get("code", FaultCode.SCHEMA)
    if details["type"] == "extra_forbidden":
        return document.fault_at_key(keys, _unknown_field(str(keys[-1]), details["loc"], model))
    return document.fault(keys, _message(details, context, document.node(*keys).value, keys), code)


def _message(details: ErrorDetails, context: dict[str, Any], value: Value, keys: tuple[Key, ...]) -> str:
    match details["type"]:
        case "authz":
            message = str(context["message"])
            if isinstance(value, str) and value[:1] in _TYPOGRAPHIC:
                message += f'; `{value[0]}` is a quote of typography: write `"`'
        case "missing":
            field = str(details["loc"][-1])
            message = f"`{field}` is required{_why_required(field)}"
        case "string_type":
            message = no_text(keys, value, _article(value)) or _not_a_string(value)
        case "tuple_type":
            message = f"must be a list, not {_article(value)}; {no_list(keys, value)}"
        case "dict_type" | "model_type":
            instead = no_mapping(keys, value)
            message = f"must be a mapping, not {_article(value)}" + (f"; {instead}" if instead else "")
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
    """Say that a field is unknown, and where further in it would be known."""
    here = _names(location[:-1])
    inner = (path for path, known in _fields_by_path(model).items() if name in known and path[: len(here)] == here)
    belongs = next((path[-1] for path in sorted(inner, key=len) if len(path) > len(here)), None)
    return unknown_field(name, _known_beside(location, model), belongs)


def _known_beside(location: tuple[Key, ...], model: type[Fields]) -> frozenset[str]:
    """Give the names that are known in the mapping of the field at a location."""
    return _fields_by_path(model).get(_names(location[:-1]), frozenset())


def _names(location: tuple[Key, ...]) -> _Path:
    return tuple(key for key in location if isinstance(key, str) and not key.startswith("<"))


@cache
def _fields_by_path(model: type[Fields]) -> dict[_Path, frozenset[str]]:
    """Give the names that are known in each mapping of a model, by the names that lead to it."""
    found: dict[_Path, frozenset[str]] = {}
    _collect(model, (), found, required_only=False)
    return found


@cache
def _required_by_path(model: type[Fields]) -> dict[_Path, frozenset[str]]:
    """Give the names that each mapping of a model must have, by the names that lead to it."""
    found: dict[_Path, frozenset[str]] = {}
    _collect(model, (), found, required_only=True)
    return found


def _collect(model: type[Fields], path: _Path, found: dict[_Path, frozenset[str]], *, required_only: bool) -> None:
    here = {
        field.alias or name for name, field in model.model_fields.items() if field.is_required() or not required_only
    }
    found[path] = found.get(path, frozenset()) | here
    for name, field in model.model_fields.items():
        for inner in _models_in((field.annotation, *field.metadata)):
            _collect(inner, (*path, field.alias or name), found, required_only=required_only)


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
