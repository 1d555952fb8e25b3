"""The laws of formatting."""

# ruff: noqa: S311 files are made by chance from the seed that hypothesis chooses

from __future__ import annotations

import re
from random import Random
from typing import Any

import yaml
from hypothesis import given, settings, strategies as st

from authz.policy.document import SourceFile
from authz.policy.document_reader import read_documents
from authz.policy.errors import PolicySetFaults
from authz.policy.formatting import formatted
from authz.policy.layout import LayoutError
from authz.policy.policy_set import parse_policy_set
from tests.property.test_policy_laws import YAML_PIECES
from tests.support.generated_sets import GeneratedSet

SEEDS = st.integers(min_value=0, max_value=2**48)


def carelessly_written(documents: list[dict[str, Any]], random: Random) -> str:
    """Write documents in some style, with comments at the ends of lines and between them."""
    style = random.choice((None, None, "'", '"'))
    text = yaml.safe_dump_all(
        documents,
        default_flow_style=random.choice((None, False, True)),
        default_style=style,
        indent=random.choice((2, 3, 4)),
        width=random.choice((40, 80, 10_000)),
        sort_keys=random.random() < 0.5,
        allow_unicode=True,
        explicit_start=random.random() < 0.5,
    )
    lines = []
    for number, line in enumerate(text.splitlines()):
        if random.random() < 0.2:
            lines.append(f"{' ' * random.randrange(8)}# above {number}")
        if random.random() < 0.1:
            lines.append("")
        # Behind a text that goes on in the next line a comment would end it.
        ended = line.endswith((":", "]", "}", '"', "'", "-")) or line == "---"
        lines.append(
            f"{line}{' ' * random.randint(1, 3)}# behind {number}" if ended and random.random() < 0.2 else line
        )
    return "\n".join(lines) + "\n"


class TestMeaning:
    """Formatting keeps the meaning (and so the revision) and every comment, and formatting again changes nothing."""

    @settings(max_examples=200)
    @given(seed=SEEDS)
    def test_nothing_is_lost_and_nothing_is_new(self, seed: int) -> None:
        random = Random(seed)
        text = carelessly_written(GeneratedSet(random).documents, random)
        before = SourceFile("set.yaml", text.encode())
        if read_documents(before).faults:
            return
        try:
            parse_policy_set([before])
            after = SourceFile("set.yaml", formatted(before))
        except (LayoutError, PolicySetFaults):  # a comment within a text over several lines is text
            return
        assert parse_policy_set([after]).revision == parse_policy_set([before]).revision
        comment = re.compile(r"# (?:above|behind) \d+")
        assert sorted(comment.findall(after.content.decode())) == sorted(comment.findall(text))
        assert formatted(after) == after.content
        assert b" \n" not in after.content
        assert b"\n\n\n" not in after.content

    @settings(max_examples=60)
    @given(seed=SEEDS)
    def test_a_set_written_by_a_program_can_be_formatted(self, seed: int) -> None:
        made = GeneratedSet(Random(seed))
        (file,) = made.files()
        assert parse_policy_set([SourceFile("x", formatted(file))]).revision == parse_policy_set([file]).revision


def formatted_or_refused(file: SourceFile) -> bytes | None:
    try:
        return formatted(file)
    except LayoutError as error:
        refusal = error
    assert str(refusal)
    assert refusal.line >= 1
    return None


class TestTotal:
    """Any bytes are formatted or refused with a LayoutError; nothing else is raised."""

    @settings(max_examples=300)
    @given(pieces=st.lists(YAML_PIECES, max_size=60))
    def test_pieces_of_yaml(self, pieces: list[str]) -> None:
        file = SourceFile("any.yaml", "".join(pieces).encode())
        content = formatted_or_refused(file)
        if content is not None:
            assert formatted(SourceFile("any.yaml", content)) == content

    @settings(max_examples=100)
    @given(content=st.binary(max_size=200))
    def test_bytes(self, content: bytes) -> None:
        formatted_or_refused(SourceFile("any.yaml", content))
