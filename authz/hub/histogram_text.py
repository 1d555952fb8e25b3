"""Latency histograms as text, in which SQLite adds them up and hands them over many times as fast as in columns. Pure.

Packed: a letter for each bucket that has calls, and behind it how many these are where it is not one: `KKM12` are two
calls in the bucket `K` and twelve in `M`. Two of them written one behind the other are their sum, however large its
numbers are. In columns' order: all numbers, with commas between.
"""

from __future__ import annotations

import re
from functools import lru_cache
from operator import add
from typing import TYPE_CHECKING, Final

from authz.hub.columns import DURATIONS
from authz.hub.latency import quantiles_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: the letter of each bucket
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWX"
_BUCKET: Final = {letter: number for number, letter in enumerate(LETTERS)}
_EACH: Final = re.compile("([A-X])([0-9]*)")
#: Texts as long are put in order before they are looked for among those that are known: many edges have few calls.
_FEW: Final = 12
_NONE: Final = (0,) * len(DURATIONS)


@lru_cache(8192)
def packed(counts: tuple[int, ...]) -> str:
    """Give counts by bucket as packed text."""
    return "".join(
        [f"{letter}{count if count > 1 else ''}" for letter, count in zip(LETTERS, counts, strict=True) if count]
    )


def summed(text: str) -> str:
    """Give packed text as short as it can be: each letter once."""
    return packed(_counts(text))


def counts_of(texts: Iterable[str]) -> tuple[int, ...]:
    """Give the sum by bucket of texts of either form."""
    counts: Sequence[int] = _NONE
    letters = []
    for text in texts:
        if text[:1].isdigit():
            counts = list(map(add, counts, map(int, text.split(","))))
        else:
            letters.append(text)
    return tuple(map(add, counts, _counts("".join(letters)))) if letters else tuple(counts)


def latencies_ms(texts: Sequence[str]) -> tuple[float | None, float | None]:
    """Give the median and the 99th percentile of the sum of texts of either form."""
    text = texts[0] if len(texts) == 1 else "".join(texts)
    if text.isalpha():
        return _latencies_of_letters("".join(sorted(text)) if len(text) <= _FEW else text)
    return _latencies(counts_of(texts))


@lru_cache(8192)
def _latencies_of_letters(text: str) -> tuple[float | None, float | None]:
    return _latencies(_counts(text))


def _latencies(counts: Sequence[int]) -> tuple[float | None, float | None]:
    p50_ms, p99_ms = quantiles_ms(counts, (0.5, 0.99))
    return p50_ms, p99_ms


def _counts(text: str) -> tuple[int, ...]:
    if text.isalpha():
        return tuple(map(text.count, LETTERS))
    counts = [0] * len(LETTERS)
    for letter, count in _EACH.findall(text):
        counts[_BUCKET[letter]] += int(count or 1)
    return tuple(counts)
