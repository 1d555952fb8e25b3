"""A latency histogram as text says what its columns say, however it was added up."""

from __future__ import annotations

from hypothesis import given, strategies as st

from authz.hub.columns import DURATIONS, MAX_NUMBER
from authz.hub.histogram_text import LETTERS, counts_of, latencies_ms, packed, summed
from authz.hub.latency import quantiles_ms

NUMBERS = st.integers(0, 3) | st.integers(0, 1000) | st.integers(0, MAX_NUMBER)
COUNTS = st.dictionaries(st.integers(0, len(DURATIONS) - 1), NUMBERS, max_size=6).map(
    lambda found: tuple(found.get(number, 0) for number in range(len(DURATIONS)))
)


def columns(counts: tuple[int, ...]) -> str:
    """Write counts as a store writes those that it keeps in columns."""
    return ",".join(map(str, counts))


def added(histograms: list[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sum(each[number] for each in histograms) for number in range(len(DURATIONS)))


def test_there_is_a_letter_for_each_bucket() -> None:
    assert len(LETTERS) == len(set(LETTERS)) == len(DURATIONS)


def test_one_call_is_a_letter_and_twelve_are_a_letter_and_a_number() -> None:
    assert packed((1, 0, 12, *(0,) * 21)) == "AC12"
    assert packed((0,) * 24) == ""


@given(histograms=st.lists(st.tuples(COUNTS, st.booleans()), max_size=6))
def test_texts_of_either_form_are_added_up_as_columns_are(histograms: list[tuple[tuple[int, ...], bool]]) -> None:
    texts = [packed(counts) if is_packed else columns(counts) for counts, is_packed in histograms]
    assert counts_of(texts) == added([counts for counts, _ in histograms])


@given(histograms=st.lists(COUNTS, max_size=8))
def test_texts_behind_each_other_are_their_sum_and_are_packed_anew_as_short_as_one(
    histograms: list[tuple[int, ...]],
) -> None:
    text = "".join(map(packed, histograms))
    total = added(histograms)
    assert counts_of([text]) == total
    assert summed(text) == packed(total)


@given(histograms=st.lists(st.tuples(COUNTS, st.booleans()), max_size=6))
def test_latencies_of_texts_are_those_of_their_sum(histograms: list[tuple[tuple[int, ...], bool]]) -> None:
    texts = [packed(counts) if is_packed else columns(counts) for counts, is_packed in histograms]
    total = added([counts for counts, _ in histograms])
    assert list(latencies_ms(texts)) == quantiles_ms(total, (0.5, 0.99))
