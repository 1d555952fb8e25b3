"""The clock in memory that all processes of a sidecar share: the latest instant ever seen, and a clock set for tests.

# INVARIANT (never ahead): the latest instant is one that a wall clock has shown, here or before a restart. Nothing
# adds to it.

Each word is one store or load of eight bytes: no lock, no system call, nobody waits. Where two workers store at the
same instant, the earlier reading may stay; the two lie as far apart as one of them was kept from running in between,
and the next reading of any process is stored again.
"""

from __future__ import annotations

import mmap
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from authz.sidecar.errors import ClockError

if TYPE_CHECKING:
    from collections.abc import Callable

#: before every instant that fits
NEVER_NS: Final = -(2**63)
#: what follows a step in less than this is that step, and a smaller difference is none: two readings of two clocks are
#: not made at once, and a process may be kept from running in between (authz.proxy.access_log.CLOCKS_APART)
STEP_NS: Final = 250_000_000

_WORDS: Final = 512
_LATEST, _SETTING, _FORWARD, _BACK, _STEP, _STEP_AT, _BASE, _BASE_FLOWS = range(8)
_MODE_BITS: Final = 2
_NS_PER_US: Final = 1000


class ClockMode(IntEnum):
    """What the sidecar takes for the time."""

    #: the machine's wall clock
    REAL = 0
    #: an instant, which stands still
    STANDS = 1
    #: the wall clock and so much more
    OFFSET = 2
    #: what was to say so cannot be read: no call is allowed
    BROKEN = 3


class ClockSetting(NamedTuple):
    """What the sidecar takes for the time; `value_us` is an instant or a difference, in microseconds."""

    mode: ClockMode
    value_us: int


class Steps(NamedTuple):
    """How often the clock was set, and what the last time made of it; times are in nanoseconds."""

    forward: int
    back: int
    last_ns: int
    last_at_ns: int


class ClockCell:
    """The shared words; made before the first fork."""

    __slots__ = ("_real", "words")

    def __init__(self, *, real: Callable[[], int] = time.time_ns) -> None:
        self.words: memoryview[int] = memoryview(mmap.mmap(-1, _WORDS * 8)).cast("q")
        self.words[_LATEST] = NEVER_NS
        self._real = real

    @property
    def latest_ns(self) -> int:
        """The latest instant seen, NEVER_NS before the first."""
        return self.words[_LATEST]

    def saw(self, instant_ns: int) -> None:
        """Take in a reading of the clock."""
        self.words[_LATEST] = max(self.words[_LATEST], instant_ns)

    @property
    def setting(self) -> ClockSetting:
        """What is taken for the time."""
        word = self.words[_SETTING]
        return ClockSetting(ClockMode(word & (1 << _MODE_BITS) - 1), word >> _MODE_BITS)

    def set(self, setting: ClockSetting) -> None:
        """Have something else taken for the time, by all processes at once."""
        self.words[_SETTING] = setting.value_us << _MODE_BITS | setting.mode

    def now_ns(self) -> int:
        """Give what is taken for the time; raises ClockError where nothing can be."""
        mode, value_us = self.setting
        match mode:
            case ClockMode.REAL:
                return self._real()
            case ClockMode.STANDS:
                return value_us * _NS_PER_US
            case ClockMode.OFFSET:
                return self._real() + value_us * _NS_PER_US
            case ClockMode.BROKEN:
                raise ClockError("--unsafe-clock-file says no time that can be read: no call is allowed")

    def around_ns(self) -> int:
        """Give an instant around which hours are worked out: the machine's, where nothing else can be told."""
        try:
            return self.now_ns()
        except ClockError:
            return self._real()

    @property
    def steps(self) -> Steps:
        """How often the clock was set."""
        words = self.words
        return Steps(words[_FORWARD], words[_BACK], words[_STEP], words[_STEP_AT])

    def look_for_step(self, steady_ns: int, now_ns: int) -> int:
        """Give by how much the clock was set since the last look, in nanoseconds; 0 where it was not.

        `steady_ns` is what a clock says that nobody can set. For one writer; a successor goes on where it has ended.
        """
        words = self.words
        flows = self.setting.mode is not ClockMode.STANDS
        expected_ns = words[_BASE] + (steady_ns if words[_BASE_FLOWS] == 1 else 0)
        step_ns = now_ns - expected_ns
        known = words[_BASE_FLOWS] != 0
        if known and abs(step_ns) < STEP_NS and words[_BASE_FLOWS] == (1 if flows else -1):
            return 0
        words[_BASE] = now_ns - (steady_ns if flows else 0)
        words[_BASE_FLOWS] = 1 if flows else -1
        if not known or abs(step_ns) < STEP_NS:
            return 0
        words[_FORWARD if step_ns > 0 else _BACK] += 1
        words[_STEP], words[_STEP_AT] = step_ns, now_ns
        return step_ns
