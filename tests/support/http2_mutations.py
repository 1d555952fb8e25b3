"""Sessions of a real client, and what damage makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

#: behind the beginning of a frame: its header, and most of a header block or the beginning of a message
_NEAR_BYTES = 60


def mutated(said: bytes, generator: random.Random, *, near: Sequence[int] = ()) -> bytes:
    """Damage a session in one to four places: a bit, a piece lost, twice, inserted, or taken from elsewhere in it.

    Half of the places are right behind one of those that are given.
    """
    for _ in range(generator.randrange(1, 5)):
        at, length = generator.randrange(len(said)), generator.randrange(40)
        if near and generator.randrange(2):
            at = min(len(said) - 1, generator.choice(near) + generator.randrange(_NEAR_BYTES))
        match generator.randrange(5):
            case 0:
                said = said[:at] + bytes([said[at] ^ 1 << generator.randrange(8)]) + said[at + 1 :]
            case 1:
                said = said[:at] + said[at + length :]
            case 2:
                said = said[:at] + said[at : at + length] + said[at:]
            case 3:
                said = said[:at] + generator.randbytes(generator.randrange(12)) + said[at:]
            case _:
                other = generator.randrange(len(said))
                said = said[:at] + said[other : other + length] + said[at + length :]
    return said
