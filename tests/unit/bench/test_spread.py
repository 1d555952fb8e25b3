"""Medians, their spread, and ratios round by round."""

from __future__ import annotations

import pytest

from tests.bench.check_path.spread import Spread


def test_the_median_stands_between_the_lowest_and_the_highest() -> None:
    assert Spread.of([5, 1, 9, 2, 100]) == Spread(median=5, low=1, high=100)
    assert Spread.of([1, 2]) == Spread(median=1.5, low=1, high=2)


def test_nothing_measured_has_no_median() -> None:
    with pytest.raises(ValueError, match="nothing that was measured"):
        Spread.of([])


def test_a_drift_that_hits_both_sides_of_each_round_leaves_the_ratio() -> None:
    assert Spread.of_ratios([20, 10, 40], [10, 5, 20]) == Spread(median=2, low=2, high=2)


def test_a_round_without_a_divisor_says_nothing() -> None:
    assert Spread.of_ratios([1, 1], [1, 0]) is None
    assert Spread.of_ratios([1, 1], [1, -3]) is None


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Spread.of_ratios([1, 2], [1])


def test_a_spread_is_written_with_its_bounds() -> None:
    assert Spread(median=12_345.6, low=1, high=99_999).text() == "12,346 (1 - 99,999)"
    assert Spread(median=1.234, low=1, high=2).text(2) == "1.23 (1.00 - 2.00)"
