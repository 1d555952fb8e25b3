"""What a worker tells the hold of a call that it has allowed and that may last: through a ring, before it answers.

The ring is shared memory and survives either end. A notice that finds no room is no hold, and the call is denied.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from authz.sidecar.errors import HoldError

if TYPE_CHECKING:
    from authz.sidecar.record_ring import RingProducer

#: the decision's id, when the check began (monotonic clock) and until when the call may run (since the epoch; None for
#: no end), both in nanoseconds, and the bytes of the check -> whether the hold will know of it
Hold: TypeAlias = Callable[[bytes, int, int | None, bytes], bool]

#: as long as a decision's id is, in hexadecimal
ID_BYTES: Final = 32
#: id, the set that the worker decides by, when the check began, until when the call may run
_HEAD: Final = struct.Struct(f"<{ID_BYTES}sQQQ")
_NEVER: Final = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One allowed call: by which set it was decided, and when that began (monotonic clock)."""

    decision_id: bytes
    generation: int
    checked_ns: int
    ends_ns: int | None
    message: bytes


class RingHold:
    """A worker's end: puts notices into its ring."""

    __slots__ = ("_generation", "_ring")

    def __init__(self, ring: RingProducer, *, generation: int) -> None:
        self._ring = ring
        self._generation = generation

    def __call__(self, decision_id: bytes, checked_ns: int, ends_ns: int | None, message: bytes) -> bool:
        """Put a notice and say whether it is in the ring; never waits."""
        ends = _NEVER if ends_ns is None else min(max(0, ends_ns), _NEVER - 1)
        return self._ring.put(_HEAD.pack(decision_id, self._generation, checked_ns, ends) + message)


def notice_from(content: bytes) -> Notice:
    """Read a notice; raises HoldError where it is none."""
    if len(content) < _HEAD.size:
        raise HoldError("a notice ends within its head")
    decision_id, generation, checked_ns, ends_ns = _HEAD.unpack_from(content)
    return Notice(
        decision_id=decision_id,
        generation=generation,
        checked_ns=checked_ns,
        ends_ns=None if ends_ns == _NEVER else ends_ns,
        message=content[_HEAD.size :],
    )
