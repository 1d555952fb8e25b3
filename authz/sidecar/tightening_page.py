"""What an edit takes away before it is compiled, in shared memory: who reads policies writes it, workers read it.

As with the page of bundles nobody waits: one process writes, any number read, and the version is odd while the page is
written (a sequence lock). Who finds it so, or finds that it has changed while reading, keeps what was read before, and
looks again at the next call. A tightening is said of a revision: workers that answer by another one, such as those of
the new set, pass it over, so that nobody has to take it back at the right moment.

# INVARIANT (only tighter): what cannot be read, or finds no room, takes nothing away; the new set does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

from authz.policy.tightening import Tightening

if TYPE_CHECKING:
    import mmap

_HEADER_BYTES: Final = 24
_VERSION, _LENGTH, _CHECKSUM = 0, 1, 2


class Tightened(NamedTuple):
    """What is taken away of the set with the revision `of`."""

    of: str
    tightening: Tightening


class TighteningPage:
    """The page; `write` where policies are read, call it in workers."""

    __slots__ = ("_bytes", "_seen", "_tightened", "_words")

    def __init__(self, memory: mmap.mmap) -> None:
        self._bytes = memoryview(memory)
        self._words = self._bytes[:_HEADER_BYTES].cast("Q")
        self._seen = 0
        self._tightened: Tightened | None = None

    @property
    def version(self) -> int:
        """What differs whenever the page says something else."""
        return self._words[_VERSION]

    def write(self, tightened: Tightened | None) -> bool:
        """Say what is taken away; gives whether there was room. What finds none is left to the new set."""
        content = b""
        if tightened is not None and not tightened.tightening.is_empty:
            fields: dict[str, Any] = {"of": tightened.of, "tightening": tightened.tightening.as_fields()}
            content = json.dumps(fields, separators=(",", ":")).encode()
        fits = len(content) <= len(self._bytes) - _HEADER_BYTES
        self._put(content if fits else b"")
        return fits

    def forget(self, revision: str) -> None:
        """Take back what was taken away of a set that is new again: it was an edit's that came in between."""
        tightened = self()
        if tightened is not None and tightened.of == revision:
            self._put(b"")

    def _put(self, content: bytes) -> None:
        words = self._words
        end = _HEADER_BYTES + len(content)
        said = words[_VERSION]
        if said % 2 == 0 and words[_LENGTH] == len(content) and self._bytes[_HEADER_BYTES:end] == content:
            return
        # A writer that was killed left an odd version: the next one goes on from there.
        version = said | 1
        words[_VERSION] = version
        words[_LENGTH] = len(content)
        words[_CHECKSUM] = crc32(content)
        self._bytes[_HEADER_BYTES:end] = content
        words[_VERSION] = version + 1

    def __call__(self) -> Tightened | None:
        """Give what was written last: the same object until something else is."""
        version = self._words[_VERSION]
        if version != self._seen and version % 2 == 0:
            self._read(version)
        return self._tightened

    def _read(self, version: int) -> None:
        content = bytes(self._bytes[_HEADER_BYTES : _HEADER_BYTES + min(self._words[_LENGTH], len(self._bytes))])
        checksum = self._words[_CHECKSUM]
        if self._words[_VERSION] != version or crc32(content) != checksum:
            return
        self._seen = version
        self._tightened = None
        if content:
            fields = json.loads(content)
            self._tightened = Tightened(fields["of"], Tightening.from_fields(fields["tightening"]))
