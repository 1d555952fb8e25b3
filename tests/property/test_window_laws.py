"""Laws of `authz windows`: of lines of logs, and of dates that are moved in their files."""

# ruff: noqa: S311 files are made by chance from the seed that hypothesis chooses

from __future__ import annotations

from random import Random

from hypothesis import given, settings, strategies as st

from authz.insight.attempt import Attempt, attempt_of_line
from authz.insight.errors import DamagedLineError
from authz.instant import rfc3339_from_ns
from authz.policy.document import SourceFile
from authz.policy.document_reader import read_documents
from authz.policy.errors import PolicySetFaults
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy.schema import Kind
from authz.policy.window_edit import WindowEditError, closed_at
from tests.property.test_formatting_laws import carelessly_written
from tests.property.test_policy_laws import YAML_PIECES
from tests.support.generated_sets import GeneratedSet
from tests.support.refusals import line

LINE = line("2026-07-01T00:00:00Z", request_id="r")
PIECES = st.sampled_from(
    [b"{", b"}", b'"', b":", b",", b'"reason"', b'"closed"', b'"deny"', b'"decision"', b"null", b"7", b"\\u0000",
     b"\\ud800", b"[" * 100, b"\xff", b"\x00", b"1" * 5000, b'"caller"', b'"time"', b"2026-07-01T00:00:00Z"]
)  # fmt: skip


def read_or_damaged(content: bytes) -> None:
    try:
        read = attempt_of_line(content)
    except DamagedLineError:
        return
    assert read is None or isinstance(read, Attempt)


class TestLines:
    """Any bytes of a line are an attempt, none, or damaged; nothing else is raised."""

    @settings(max_examples=300)
    @given(content=st.binary(max_size=300) | st.lists(PIECES, max_size=20).map(b"".join))
    def test_any_bytes(self, content: bytes) -> None:
        read_or_damaged(content)
        read_or_damaged(b"{" + content + b'"closed"}')

    @settings(max_examples=300)
    @given(start=st.integers(0, len(LINE)), length=st.integers(0, 30), piece=st.binary(max_size=8) | PIECES)
    def test_damaged_records(self, start: int, length: int, piece: bytes) -> None:
        read_or_damaged(LINE[:start] + piece + LINE[start + length :])


def loaded(file: SourceFile) -> PolicySet | None:
    try:
        return parse_policy_set([file])
    except PolicySetFaults:
        return None


class TestEdits:
    """Moving a date changes that date and nothing else, whatever else stands in the file and however it is written."""

    @settings(max_examples=150)
    @given(seed=st.integers(0, 2**48), closes_ns=st.integers(0, 4 * 10**18), end=st.sampled_from(["\n", "\r\n", "\r"]))
    def test_the_date_and_nothing_else(self, seed: int, closes_ns: int, end: str) -> None:
        random = Random(seed)
        text = carelessly_written(GeneratedSet(random).documents, random)
        before = SourceFile("set.yaml", text.replace("\n", end).encode())
        policy_set = loaded(before)
        if policy_set is None:  # a comment within a text over several lines is text
            return
        closes = rfc3339_from_ns(closes_ns)
        for kind, named in (
            *((Kind.THIRD_PARTY, each) for each in policy_set.third_parties),
            *((Kind.MICRO_POLICY, each) for each in policy_set.micro_policies),
        ):
            window = policy_set.documents[kind, named.name].find("spec", "window")
            if window is None:
                continue
            edit = closed_at(before, kind, named.name, closes)
            old, new = before.content, edit.file.content
            if edit.old is None:  # nothing is taken away, and one entry is there besides
                at, added = common(old, new), len(new) - len(old)
                assert new[:at] + new[at + added :] == old
            elif edit.old != closes:
                start = old.index(edit.old.encode(), max(0, common(old, new) - len(edit.old)))
                assert new == old[:start] + closes.encode() + old[start + len(edit.old) :]
            values = [each.root.value for each in read_documents(edit.file).documents]
            for document, value in zip(read_documents(before).documents, values, strict=True):
                if (document.text("kind"), document.text("metadata", "name")) == (kind.value, named.name):
                    document.root.value["spec"]["window"]["closes"] = closes  # type: ignore[index,call-overload]
                assert document.root.value == value

    @settings(max_examples=150)
    @given(pieces=st.lists(YAML_PIECES, max_size=60))
    def test_any_file_is_edited_or_refused(self, pieces: list[str]) -> None:
        head = "apiVersion: authz/v1\nkind: ThirdParty\nmetadata: {name: a}\nspec:\n  window:\n    closes: "
        for text in ("".join(pieces), head + "".join(pieces)):
            try:
                edit = closed_at(SourceFile("x.yaml", text.encode()), Kind.THIRD_PARTY, "a", "2026-01-01T00:00:00Z")
            except WindowEditError:
                continue
            assert not read_documents(edit.file).faults


def common(one: bytes, other: bytes) -> int:
    """Give how many bytes two texts begin with in common."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
