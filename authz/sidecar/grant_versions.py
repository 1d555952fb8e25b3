"""What a grant that was given may depend on, beside the set in force: whoever keeps calls that run looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz.sidecar.shared_memory import SharedMemory


class GrantVersions:
    """The versions of identity, bundles, authorities, what an edit takes away, and the clock.

    Who sees another one than before asks again about every call. While one is odd it is being written.
    """

    def __init__(self, shared: SharedMemory) -> None:
        pages = (shared.identity, shared.trust, shared.authorities, shared.tightening)
        self._pages = [memoryview(page)[:8].cast("Q") for page in pages]
        self._clock = shared.clock

    def read(self) -> tuple[int, ...]:
        """Give them as they are now; costs a few reads of memory."""
        steps = self._clock.steps
        # Ends are waited for by the wall clock: where that was set, each has to be worked out anew. Never odd.
        return *(page[0] for page in self._pages), 2 * (steps.forward + steps.back)
