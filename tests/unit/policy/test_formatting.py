"""How a policy file is written: what `formatted` changes, what it keeps, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.policy.document import SourceFile
from authz.policy.formatting import MAX_COLUMNS, formatted
from authz.policy.layout import LayoutError

POLICIES = Path(__file__).parents[3] / "policies"


def write(text: str) -> str:
    return formatted(SourceFile("x.yaml", text.encode())).decode()


@pytest.mark.parametrize(
    ("given", "written"),
    [
        pytest.param("a:   b\n", "a: b\n", id="one space after a colon"),
        pytest.param("a: b", "a: b\n", id="a line end at the end"),
        pytest.param("a: b   \n\n\n", "a: b\n", id="nothing after the end"),
        pytest.param("a:\r\n  b: c\r\n", "a:\n  b: c\n", id="line ends of another system"),
        pytest.param("\ufeffa: b\n", "a: b\n", id="no byte order mark"),
        pytest.param("a:\n    b:\n        c: d\n", "a:\n  b:\n    c: d\n", id="two spaces a level"),
        pytest.param("a:\n- b\n- c\n", "a:\n  - b\n  - c\n", id="lists below their key are indented"),
        pytest.param("a:\n  -   b: c\n      d: e\n", "a:\n  - b: c\n    d: e\n", id="one space after a dash"),
        pytest.param("a:\n  -\n    b: c\n", "a:\n  - b: c\n", id="what follows a dash stands beside it"),
        pytest.param("a:\n  - - b\n    - c\n", "a:\n  - - b\n    - c\n", id="lists in lists"),
        pytest.param("a: { b: c , d: [ e,f ] }\n", "a: {b: c, d: [e, f]}\n", id="no spaces within braces"),
        pytest.param("a: {b: c,\n  d: e}\n", "a: {b: c, d: e}\n", id="one line where it fits"),
        pytest.param("a: 'b c'\n", 'a: "b c"\n', id="double quotes"),
        pytest.param("a: 'b \"c\"'\n", "a: 'b \"c\"'\n", id="single quotes where they are needed"),
        pytest.param("a: \"b\"\nc: 'NO'\nd: true\ne: 1\n", 'a: "b"\nc: "NO"\nd: true\ne: 1\n', id="quotes stay"),
        pytest.param("a: b\n\n\n\nc: d\n", "a: b\n\nc: d\n", id="one blank line at most"),
        pytest.param("a:\n\n  b: c\n", "a:\n  b: c\n", id="no blank line below a key"),
        pytest.param("---\na: b\n...\n---\nc: d\n", "a: b\n---\nc: d\n", id="documents are parted, not framed"),
        pytest.param("a: b\n  c\n", 'a: "b c"\n', id="a text over two lines"),
        pytest.param("a: |\n     b\n      c\n\nd: e\n", "a: |\n  b\n   c\n\nd: e\n", id="a text in a block"),
        pytest.param(
            "spec: {}\nmetadata: {owner: o, name: n}\nkind: K\napiVersion: v\n",
            "apiVersion: v\nkind: K\nmetadata: {name: n, owner: o}\nspec: {}\n",
            id="the envelope's order",
        ),
        pytest.param("spec:\n  to: [b]\n  from: [a]\n", "spec:\n  to: [b]\n  from: [a]\n", id="a spec's own order"),
        pytest.param("labels: {z: y, b: a}\n", "labels: {z: y, b: a}\n", id="labels as they are"),
    ],
)
def test_there_is_one_way_to_write_it(given: str, written: str) -> None:
    assert write(given) == written
    assert write(written) == written


@pytest.mark.parametrize(
    ("given", "written"),
    [
        pytest.param("# x\n\n# of this\na: b # of b\n", "# x\n\n# of this\na: b  # of b\n", id="above and behind"),
        pytest.param("# of all\n---\n# of this\na: b\n", "# of all\n# of this\na: b\n", id="around the first ---"),
        pytest.param("a: b\n--- # of c\nc: d\n", "a: b\n---\n# of c\nc: d\n", id="behind a ---"),
        pytest.param("a: b\n# end\n---\nc: d\n", "a: b\n# end\n---\nc: d\n", id="before a ---"),
        pytest.param("a: # of a\n    b: c\n", "a:  # of a\n  b: c\n", id="behind a key"),
        pytest.param("a: # of a\n    b\n", "# of a\na: b\n", id="between a key and its text"),
        pytest.param("a:\n- # of b\n  b: c\n", "a:\n  # of b\n  - b: c\n", id="behind a dash"),
        pytest.param("a: [b, # of b\n  c]\n", "a:\n  - b  # of b\n  - c\n", id="within brackets"),
        pytest.param("a: [b,\n  # of c\n  c\n  # end\n  ]\n", "a:\n  - b\n  # of c\n  - c\n  # end\n", id="lines"),
        pytest.param("a: {b: c} # of a\n", "a: {b: c}  # of a\n", id="behind braces"),
        pytest.param(
            "a:\n    - b\n    # of a\n# of c\nc: d\n", "a:\n  - b\n  # of a\n# of c\nc: d\n", id="by indentation"
        ),
        pytest.param("a:\n  b: c\n  # end of a\n# end\n", "a:\n  b: c\n  # end of a\n# end\n", id="at the end"),
        pytest.param("a: 'b # c' # d\n", 'a: "b # c"  # d\n', id="not what only looks like one"),
        pytest.param("a: b#c\n", "a: b#c\n", id="not without a space before"),
        pytest.param("a: |\n  # text\n# comment\nb: c\n", "a: |\n  # text\n# comment\nb: c\n", id="not within a text"),
        pytest.param(
            "# of all\nspec: {} # of spec\n# of kind\nkind: K\n",
            "# of all\n# of kind\nkind: K\nspec: {}  # of spec\n",
            id="that move with their field",
        ),
    ],
)  # fmt: skip
def test_every_comment_stays_with_what_it_is_about(given: str, written: str) -> None:
    assert write(given) == written
    assert write(written) == written


def test_what_does_not_fit_into_the_line_is_written_below() -> None:
    names = [f"service-number-{number}" for number in range(8)]
    line = f"a: [{', '.join(names)}]"
    assert len(line) > MAX_COLUMNS
    assert write(f"{line}\n") == "a:\n" + "".join(f"  - {name}\n" for name in names)
    short = f"a: [{', '.join(names[:5])}]\n"
    assert write(short) == short


@pytest.mark.parametrize("path", sorted(POLICIES.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_the_shops_policies_are_formatted(path: Path) -> None:
    content = path.read_bytes()
    assert formatted(SourceFile(str(path), content)) == content


@pytest.mark.parametrize(
    ("given", "line", "message"),
    [
        ("a: b\nc: *x\n", 2, "aliases are not allowed"),
        ("a: b\nc: &x d\n", 2, "anchors are not allowed"),
        ("a: b\na: c\n", 2, "duplicate key"),
        ("a: [b\n", 2, "not YAML"),
        ("%YAML 1.2\n---\na: b\n", 1, "a directive"),
        ("a: |2\n    b\n", 1, "a text in a block that is not headed"),
        ("a: | # comment\n  b\n", 1, "a text in a block that is not headed"),
        ('a: "b\n  \\t c"\n', 1, "a text in quotes over several lines"),
    ],
)
def test_what_cannot_be_formatted_safely_is_refused_with_its_line(given: str, line: int, message: str) -> None:
    with pytest.raises(LayoutError, match=message) as refused:
        write(given)
    assert refused.value.line == line


def test_a_file_without_documents_stays_as_it_is() -> None:
    assert write("# nothing\n") == "# nothing\n"
    assert write("") == ""
