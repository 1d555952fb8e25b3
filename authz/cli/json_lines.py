"""Streams of JSON lines as commands read them: no line is longer than a call can be."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

from authz.policy.asked_call_json import MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator


def lines_of(calls: BinaryIO) -> Iterator[bytes]:
    """Give the lines of a stream; of one that is too long for a call, only as much as shows that it is."""
    while line := calls.readline(MAX_LINE_BYTES + 1):
        yield line.rstrip(b"\r\n")
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = calls.readline(io.DEFAULT_BUFFER_SIZE)
