"""A page of shared memory that one process writes and any number read, without a lock.

Nobody waits: the version is odd while the page is written (a sequence lock). Who finds it so, or finds that it has
changed while reading, keeps what was read before, and looks again at the next call. The content has a checksum: memory
of two processors need not change in the order in which it was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    import mmap

_HEADER_BYTES: Final = 24
_VERSION, _LENGTH, _CHECKSUM = 0, 1, 2


class SharedPage:
    """The page: `put` in the one process, `changed` in the others."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._bytes = memoryview(memory)
        self._words = self._bytes[:_HEADER_BYTES].cast("Q")
        self._seen = 0

    @property
    def room(self) -> int:
        """How many bytes find room."""
        return len(self._bytes) - _HEADER_BYTES

    def put(self, content: bytes) -> None:
        """Write the content, of at most `room` bytes; what the page says already is left alone."""
        words = self._words
        end = _HEADER_BYTES + len(content)
        said = words[_VERSION]
        if said and said % 2 == 0 and words[_LENGTH] == len(content) and self._bytes[_HEADER_BYTES:end] == content:
            return
        # A writer that was killed left an odd version: the next one goes on from there.
        version = said | 1
        words[_VERSION] = version
        words[_LENGTH] = len(content)
        words[_CHECKSUM] = crc32(content)
        self._bytes[_HEADER_BYTES:end] = content
        words[_VERSION] = version + 1

    def changed(self) -> bytes | None:
        """Give the content where it is another one than was given last."""
        version = self._words[_VERSION]
        if version == self._seen or version % 2:
            return None
        content = bytes(self._bytes[_HEADER_BYTES : _HEADER_BYTES + min(self._words[_LENGTH], len(self._bytes))])
        checksum = self._words[_CHECKSUM]
        if self._words[_VERSION] != version or crc32(content) != checksum:
            return None
        self._seen = version
        return content
