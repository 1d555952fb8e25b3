"""How a field of a policy document is read: text by a parser of the domain, a word of a few, a mapping into a value.

A field's parser is the domain's own (`route`, `host`, `window`, ...); this module only fits it into the schema, so
that every fault of a document is found in one pass and knows its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from authz.errors import AuthzError
from authz.policy.errors import FaultCode, quoted
from authz.policy.remedy import nearest_word

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum


#: The tags of the two forms that a value may be written in.
WORD: Final = "<word>"
LIST: Final = "<list>"


class Fields(BaseModel):
    """The fields of one mapping: none unknown, none coerced, never changed."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", alias_generator=to_camel, arbitrary_types_allowed=True
    )


def problem(message: str, *, code: FaultCode = FaultCode.SCHEMA, at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """Make the error that becomes a fault; `at` leads from the field's own place to the one at fault."""
    return PydanticCustomError("authz", "{message}", {"message": message, "code": code, "at": at})


class _Validated:
    """Annotates a value's type with the function that makes it; the type itself is the domain's, not the schema's."""

    def __init__(self, validate: Callable[[object], object]) -> None:
        self._validate = validate

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)


def text_by(parse: Callable[[str], object]) -> _Validated:
    """Read a string into a value by a parser of the domain."""

    def validate(value: object) -> object:
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "not a string")
        try:
            return parse(value)
        except AuthzError as error:
            raise problem(str(error)) from error

    return _Validated(validate)


def one_of(words: type[StrEnum]) -> _Validated:
    """Read one of an enumeration's words."""
    known = {str(word): word for word in words}

    def parse(text: str) -> StrEnum:
        if text not in known:
            allowed = ", ".join(f"`{word}`" for word in known)
            raise problem(f"{quoted(text)} is none of {allowed}{nearest_word(text, known)}")
        return known[text]

    return text_by(parse)


class Becomes:
    """Annotates a value's type with the fields that it is written in, and how it is made from them."""

    def __init__(self, fields: type[Fields], make: Callable[[Any], object]) -> None:
        self.fields = fields
        self._make = make

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._make, handler.generate_schema(self.fields))


def written_as(annotation: object) -> type[Fields] | None:
    """Give the fields that a value of this annotation is written in, if it is one of ours."""
    return annotation.fields if isinstance(annotation, Becomes) else None


def word_or_list(value: object) -> str:
    """Say which of the two forms a value is written in: `all` and the like, or a list."""
    return WORD if isinstance(value, str) else LIST
