"""The files that a set was compiled from, as one sealed piece of memory that outlives the process that read them.

The supervisor holds its descriptor: what is in force can be compiled again when its compiler was killed or its hours
are to be worked out anew, whatever stands in the folder by then, and without a state folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from typing import TYPE_CHECKING, Final

from authz.policy.document import MAX_SET_BYTES, SourceFile
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: policies are repetitive text: the fastest level makes a tenth of them
_LEVEL: Final = 1
#: memfd_create(2): nobody changes it any more
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_LENGTH_BYTES: Final = 8
#: of a set's paths and the lengths between them
_MOST_BYTES: Final = 2 * MAX_SET_BYTES


def empty_memory() -> int:
    """Give the descriptor of memory that processes forked from this one can fill."""
    return os.memfd_create("policies", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def source_digest(files: Sequence[SourceFile]) -> str:
    """Tell sets of files apart, by paths and content."""
    digest = hashlib.sha256()
    for part in _parts(files):
        digest.update(len(part).to_bytes(_LENGTH_BYTES, "big"))
        digest.update(part)
    return digest.hexdigest()


def seal_source(files: Sequence[SourceFile], descriptor: int) -> None:
    """Put files into a piece of memory that is empty, and that nobody can change afterwards."""
    packed = zlib.compressobj(_LEVEL)
    with open(descriptor, "wb", closefd=False) as memory:
        for part in _parts(files):
            memory.write(packed.compress(len(part).to_bytes(_LENGTH_BYTES, "big")))
            memory.write(packed.compress(part))
        memory.write(packed.flush())
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def opened_source(descriptor: int) -> tuple[SourceFile, ...]:
    """Give the files back; raises SidecarError where the memory holds none."""
    size = os.fstat(descriptor).st_size
    try:
        content = zlib.decompressobj().decompress(os.pread(descriptor, size, 0), _MOST_BYTES)
    except zlib.error as error:
        raise SidecarError("the set in force cannot be read again from memory") from error
    parts: list[bytes] = []
    at = 0
    while at < len(content):
        length = int.from_bytes(content[at : at + _LENGTH_BYTES], "big")
        at += _LENGTH_BYTES
        parts.append(content[at : at + length])
        at += length
    return tuple(
        SourceFile(path=os.fsdecode(path), content=file) for path, file in zip(parts[::2], parts[1::2], strict=True)
    )


def _parts(files: Sequence[SourceFile]) -> list[bytes]:
    return [part for file in files for part in (os.fsencode(file.path), file.content)]
