"""Every input that fuzzing has kept or found holds its target's law, and so does what hypothesis makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
INPUTS = {name: [each.read_bytes() for each in sorted((CORPUS / name).iterdir())] for name in TARGETS}
PIECES = [
    piece
    for line in Path(__file__).with_name("words.dict").read_text("ascii").splitlines()
    if line.startswith('"')
    for piece in [line[1:-1].encode().decode("unicode_escape").encode("latin-1")]
]


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert {each.name for each in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds_the_law(name: str) -> None:
    for content in INPUTS[name]:
        TARGETS[name](content)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_hold_the_law(name: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(content=st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join))
    def holds(content: bytes) -> None:
        TARGETS[name](content)

    holds()


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_corpus_holds_the_law(name: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(
        content=st.sampled_from(INPUTS[name]),
        damages=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES)), max_size=4),
    )
    def holds(content: bytes, damages: list[tuple[float, int, bytes]]) -> None:
        for where, length, piece in damages:
            start = int(where * len(content))
            content = content[:start] + piece + content[start + length :]
        TARGETS[name](content)

    holds()
