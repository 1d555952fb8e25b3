"""Fields of records as they come from others: each one there, of its kind and within its limit, and none besides.

What a field may hold is said where it is read; this only reads. A text may hold any character that UTF-8 can write:
names, hosts and paths come from whoever called, and who shows them escapes them.

# INVARIANT (total): any value that JSON can say is a field's value or a RecordError.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from authz.policy.window import InstantError, parse_instant_ns
from authz.records.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Collection

#: what a store's columns hold (a signed integer of 64 bits)
MAX_COUNT: Final = 2**63 - 1
_SHOWN_CHARS: Final = 60
#: 2026-01-31T12:00:00.000+00:00
MAX_TIME_CHARS: Final = 29


def fields_of(value: Any, names: Collection[str], *, of: str) -> dict[str, Any]:
    """Give an object that has exactly these fields."""
    if type(value) is not dict:
        raise RecordError(f"{of}: must be an object")
    if value.keys() != names:
        for name in sorted(names):
            if name not in value:
                raise RecordError(f"{of}: `{name}` is missing")
        unknown = next(name for name in value if name not in names)
        raise RecordError(f"{of}: `{unknown[:_SHOWN_CHARS].encode('ascii', 'replace').decode()}` is not known")
    return value


def list_of(value: Any, most: int, *, of: str) -> list[Any]:
    """Give a list of at most so many."""
    if type(value) is not list or len(value) > most:
        raise RecordError(f"{of}: must be a list of at most {most}")
    return value


def text_of(value: Any, most_chars: int, *, of: str) -> str:
    """Give a text that UTF-8 can write."""
    if type(value) is not str or len(value) > most_chars:
        raise RecordError(f"{of}: must be a text of at most {most_chars} characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RecordError(f"{of}: has half a character (a lone surrogate)") from error
    return value


def text_or_none(value: Any, most_chars: int, *, of: str) -> str | None:
    """Give a text, or None for null."""
    return None if value is None else text_of(value, most_chars, of=of)


def count_of(value: Any, most: int = MAX_COUNT, *, of: str) -> int:
    """Give a whole number from 0 on."""
    if type(value) is not int or not 0 <= value <= most:
        raise RecordError(f"{of}: must be a whole number from 0 to {most}")
    return value


def count_or_none(value: Any, most: int = MAX_COUNT, *, of: str) -> int | None:
    """Give a whole number from 0 on, or None for null."""
    return None if value is None else count_of(value, most, of=of)


def truth_of(value: Any, *, of: str) -> bool:
    """Give true or false."""
    if type(value) is not bool:
        raise RecordError(f"{of}: must be true or false")
    return value


def instant_ns_of(value: Any, *, of: str) -> int:
    """Give an instant in nanoseconds since the epoch, whole milliseconds."""
    if type(value) is not str or len(value) > MAX_TIME_CHARS:
        raise RecordError(f"{of}: must be a time such as 2026-01-31T12:00:00.000Z")
    try:
        return _parsed(value)
    except InstantError as error:
        raise RecordError(f"{of}: {error}") from error


def instant_ns_or_none(value: Any, *, of: str) -> int | None:
    """Give an instant, or None for null."""
    return None if value is None else instant_ns_of(value, of=of)


#: the flows of a batch have one time, or a few
_parsed: Final = lru_cache(maxsize=256)(parse_instant_ns)
