"""JSON as it comes from others: one strict reading, so that no two readers take the same bytes for two things.

Decides the form only: UTF-8, one value, an object at the top, no name twice in one object, no number that is none
(NaN, Infinity), none of more digits than 64 bits have. What the members mean is decided by who asks.

# INVARIANT (one meaning): two readers of RFC 8259 that both take these bytes see the same members.

https://www.rfc-editor.org/rfc/rfc8259 4: names SHOULD be unique, and what software does otherwise is unpredictable.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Never

from authz.identity.errors import IdentityError, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

#: -9223372036854775808 and 18446744073709551615: what 64 bits hold has 20 characters at most.
_MAX_INTEGER_CHARACTERS: Final = 20


class JsonError(IdentityError):
    """Bytes are no JSON object, or one that two readers could take for two different ones."""


def json_object(document: bytes) -> dict[str, Any]:
    """Read one JSON object; raises JsonError. The caller has limited the size."""
    try:
        value = _DECODER.decode(document.decode("utf-8"))
    except JsonError:
        raise
    except UnicodeDecodeError as exc:
        raise JsonError("not in UTF-8") from exc
    except RecursionError as exc:
        raise JsonError("nested too deeply") from exc
    except ValueError as exc:
        raise JsonError("not JSON") from exc
    if not isinstance(value, dict):
        raise JsonError("no JSON object")
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise JsonError(f"the name {quoted(name)} stands twice in one object")
    return members


def _integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_CHARACTERS:
        raise JsonError("a number has more than 64 bits")
    return int(text)


def _no_number(_text: str) -> Never:
    raise JsonError("a number is none (NaN or Infinity)")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_no_number)
