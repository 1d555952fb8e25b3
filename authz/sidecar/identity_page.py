"""The workload's own identity in shared memory: control reads the SVID's file, workers read the page.

So no worker ever waits for a file system. One process writes, any number read, and nobody waits: the version is odd
while the page is written (a sequence lock). Who finds it so, or finds that it has changed while reading, keeps what
was read before; that ends at its notAfter like any other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId
from authz.identity.verification import VerifiedIdentity

if TYPE_CHECKING:
    import mmap

    from authz.identity.verification import VerifiedIdentity as Identity

_HEADER_BYTES: Final = 16
_VERSION, _LENGTH = 0, 1
_NOBODY: Final = b"null"


class IdentityPage:
    """The page; `write` in control, call it in workers."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._bytes = memoryview(memory)
        self._words = self._bytes[:_HEADER_BYTES].cast("Q")
        self._seen = 0
        self._identity: Identity | None = None

    def write(self, identity: Identity) -> None:
        """Put an identity into the page."""
        fields = [str(identity.spiffe_id), identity.serial, identity.not_before_ns, identity.not_after_ns]
        self._put(json.dumps(fields).encode())

    def _put(self, content: bytes) -> None:
        # A writer that was killed left an odd version: the next one goes on from there.
        version = self._words[_VERSION] | 1
        self._words[_VERSION] = version
        self._words[_LENGTH] = len(content)
        self._bytes[_HEADER_BYTES : _HEADER_BYTES + len(content)] = content
        self._words[_VERSION] = version + 1

    def withdraw(self) -> None:
        """Have nobody in the page: the workload has no identity any more."""
        self._put(_NOBODY)

    def __call__(self) -> Identity | None:
        """Give the identity that was written last; None before the first, and after it was withdrawn."""
        version = self._words[_VERSION]
        if version != self._seen and version % 2 == 0:
            content = bytes(self._bytes[_HEADER_BYTES : _HEADER_BYTES + min(self._words[_LENGTH], len(self._bytes))])
            if self._words[_VERSION] == version:
                self._seen = version
                self._identity = None if content == _NOBODY else _identity(content) or self._identity
        return self._identity


def _identity(content: bytes) -> Identity | None:
    try:
        spiffe_id, serial, not_before_ns, not_after_ns = json.loads(content)
        return VerifiedIdentity(
            spiffe_id=SpiffeId.parse(spiffe_id),
            serial=str(serial),
            not_before_ns=int(not_before_ns),
            not_after_ns=int(not_after_ns),
        )
    except (ValueError, TypeError, IdentityError):
        return None
