"""Base64url as JOSE writes it: without padding, and one text for the same bytes.

# INVARIANT (one text): what is read is written again as the very same text, so no byte string has two spellings.

https://www.rfc-editor.org/rfc/rfc7515 2
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64encode
from typing import Final

_ALPHABET: Final = re.compile(rb"[A-Za-z0-9_-]*")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def base64url(content: bytes) -> str:
    """Write bytes."""
    return urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def bytes_from_base64url(text: bytes) -> bytes:
    """Read bytes; raises ValueError for padding, line ends, other characters and bits that say nothing."""
    if not _ALPHABET.fullmatch(text):
        raise ValueError("not base64url without padding")
    content = binascii.a2b_base64(text.translate(_STANDARD) + b"=" * (-len(text) % 4))
    # INVARIANT (one text): the last character's unused bits are zero.
    if urlsafe_b64encode(content).rstrip(b"=") != text:
        raise ValueError("not canonical base64url")
    return content
