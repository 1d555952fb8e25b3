"""Whether a request brings a token that names a workload as its caller: a bearer whose `sub` is a SPIFFE ID.

Nothing is verified here. Such a token says that the caller is another one than the peer; where it is not proven, the
peer must not be taken in its place. Any other token is the app's own business.

Where readers of tokens disagree, `names_a_workload` is the lenient one: what any of them could take for such a token is
one. `only_token` is the strict one: it gives a token where all of them must read the same.

# INVARIANT (total): any values give an answer; nothing raises. Cost: linear in their size.

RFC 6750 2.1, RFC 7515 3.1, https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md
"""

from __future__ import annotations

import binascii
import json
import re
from typing import TYPE_CHECKING, Final

from authz.request import MAX_HEADERS_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: A token is one header at most.
MAX_TOKEN_BYTES: Final = MAX_HEADERS_BYTES

_SPIFFE: Final = "spiffe://"
# RFC 9110 11.1: the scheme's name in any case. JWT-SVID 3: compact serialization of a JWS, which has three parts.
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)")
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
#: Objects become their pairs, so that a `sub` that stands twice is seen twice; numbers stay texts of any length.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=list, parse_int=str, parse_float=str, strict=False)


def names_a_workload(values: Sequence[bytes]) -> bool:
    """Whether some value of the `authorization` header has a bearer token whose `sub` is a SPIFFE ID."""
    for value in values:
        # Repeats may have been joined by commas.
        for credentials in (value, *value.split(b",")):
            if any(_names_a_workload(token) for token in _tokens(credentials)):
                return True
    return False


def only_token(values: Sequence[bytes]) -> bytes | None:
    """Give the bearer token in compact form that is all that the `authorization` header says; None where it is not."""
    bearer = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    return None if bearer is None else bearer[1]


def _tokens(credentials: bytes) -> Iterator[bytes]:
    """Give what stands behind `Bearer`: up to the next white space, and all of it."""
    words = credentials.split(None, 2)
    if len(words) > 1 and words[0].lower() == b"bearer":
        yield words[1]
        yield credentials.split(None, 1)[1]


def _names_a_workload(token: bytes) -> bool:
    if len(token) > MAX_TOKEN_BYTES:
        return True  # unread, so that nobody is taken for its caller
    _, dot, rest = token.partition(b".")
    if not dot:
        return False
    payload = rest.partition(b".")[0].translate(_URL_SAFE)
    try:
        text = binascii.a2b_base64(payload + b"===").decode("utf-8-sig", "replace")
        claims, _ = _DECODER.raw_decode(text.lstrip())
    except RecursionError:
        return True  # unread, too
    except ValueError:
        return False
    return isinstance(claims, list) and any(_is_workload_subject(claim) for claim in claims)


def _is_workload_subject(claim: object) -> bool:
    """Whether a pair of an object is such a `sub`; the entries of a list are no pairs."""
    match claim:
        case ("sub", str(subject)):
            return subject.startswith(_SPIFFE)
        case _:
            return False
