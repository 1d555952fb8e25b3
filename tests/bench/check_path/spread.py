"""Medians with their spread, and ratios that are taken round by round: what drifts hits both sides of a round alike."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Give the spread of at least one value."""
        if not values:
            raise ValueError("there is nothing that was measured")
        return cls(median=statistics.median(values), low=min(values), high=max(values))

    @classmethod
    def of_ratios(cls, values: Sequence[float], to: Sequence[float]) -> Self | None:
        """Divide round by round; None where a round's divisor is not above 0, which says nothing."""
        if not all(each > 0 for each in to):
            return None
        return cls.of([value / other for value, other in zip(values, to, strict=True)])

    def text(self, digits: int = 0) -> str:
        """Write `median (low-high)`, the thousands apart."""
        median, low, high = (f"{value:,.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{median} ({low} - {high})"
