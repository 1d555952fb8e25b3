"""Whether control is hung, by its heartbeats, as who looks at them every tenth of a second sees it.

A control that begins reads the policies, the certificates and the programs of its services before its first beat. Was
it killed as hung meanwhile, its successor would begin all that again: on a machine busy enough no sidecar would serve.
"""

from __future__ import annotations

from typing import Final

#: control may wait for a disk much longer than a worker for anything: 10 s
HUNG_AFTER_LOOKS: Final = 100
#: with 20 processes waiting for each of two processors a control took more than 10 s to its first beat
BEGINS_WITHIN_LOOKS: Final = 600


class ControlSeen:
    """What was seen of one control after the other; `beats` count on from one to the next."""

    __slots__ = ("_beats", "_has_beaten", "_missed")

    def __init__(self) -> None:
        self.begins(0)

    def begins(self, beats: int) -> None:
        """Note that another control begins, at so many beats of those before."""
        self._beats = beats
        self._missed = 0
        self._has_beaten = False

    def is_hung(self, beats: int) -> bool:
        """Look: whether it has been silent for too many looks."""
        if beats != self._beats:
            self._beats = beats
            self._missed = 0
            self._has_beaten = True
            return False
        self._missed += 1
        return self._missed >= (HUNG_AFTER_LOOKS if self._has_beaten else BEGINS_WITHIN_LOOKS)
