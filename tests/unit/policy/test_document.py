from __future__ import annotations

import pytest

from authz.policy.document import MAX_FILE_BYTES, SourceFile
from authz.policy.document_reader import MAX_DEPTH, read_documents

MERGE = "a: {b: c}\n<<: {d: e}\n"


def faults_of(content: bytes | str) -> list[str]:
    given = content.encode() if isinstance(content, str) else content
    return [str(fault) for fault in read_documents(SourceFile("f.yaml", given)).faults]


def value_of(text: str) -> object:
    read = read_documents(SourceFile("f.yaml", text.encode()))
    assert not read.faults
    return read.documents[0].root.value


def test_several_documents_of_one_file_keep_their_lines() -> None:
    read = read_documents(SourceFile("f.yaml", b"# one\na: 1\n---\nb:\n  - x\n  - y\n"))
    assert [document.root.line for document in read.documents] == [2, 4]
    node = read.documents[1].node("b", 1)
    assert (node.line, node.column, node.value) == (6, 5, "y")


def test_columns_count_characters_not_bytes() -> None:
    node = read_documents(SourceFile("f.yaml", 'é: {"€": x}'.encode())).documents[0].node("é", "€")
    assert (node.line, node.column, node.key_column) == (1, 10, 5)


def test_a_byte_order_mark_at_the_start_is_no_text() -> None:
    read = read_documents(SourceFile("f.yaml", b"\xef\xbb\xbfa: b\n"))
    assert read.documents[0].root.value == {"a": "b"}


def test_comments_alone_are_no_document() -> None:
    assert read_documents(SourceFile("f.yaml", b"# nothing\n")).documents == ()


def test_a_file_with_crlf_is_read_like_any_other() -> None:
    assert value_of("a: b\r\nc: d\r\n") == {"a": "b", "c": "d"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("0", 0),
        ("-12", -12),
        ("8443", 8443),
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
        ("2026-11-01", "2026-11-01"),
        ("1.2.3", "1.2.3"),
        ("api.acme.example:8443", "api.acme.example:8443"),
        ("-", None),
        ('"NO"', "NO"),
        ("'017'", "017"),
        ('""', ""),
        ("y", "y"),
        ("none", "none"),
        ("GET", "GET"),
        ("90d", "90d"),
    ],
)
def test_scalars_are_what_every_reader_takes_them_for(text: str, value: object) -> None:
    if value is not None:
        assert value_of(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    "text",
    ["NO", "no", "Yes", "on", "OFF", "True", "FALSE", "017", "1_000", "0x1F", "0o17", "0b1", "08:00", "12:30:45", "1.5",
     "-.5", "1e3", "1.5e+3", ".inf", "-.INF", ".nan", "+1", "00", "-0_1", "99999999999999999999"],
)  # fmt: skip
def test_what_readers_disagree_about_is_to_be_quoted(text: str) -> None:
    (fault,) = faults_of(f"a: {text}")
    assert fault.startswith(f'f.yaml:1:4: `{text}` is text for some YAML readers only; write "{text}" in quotes')


def test_a_key_is_read_by_the_same_rule() -> None:
    assert faults_of("on: a") == [
        'f.yaml:1:1: `on` is text for some YAML readers only; write "on" in quotes, or `true` / `false`'
    ]
    assert faults_of("1: a") == ["f.yaml:1:1: a key must be a string; put it in quotes"]
    assert faults_of("[a]: b") == ["f.yaml:1:1: a key must be a string; put it in quotes"]


@pytest.mark.parametrize("text", ["null", "~", "Null", "NULL"])
def test_null_is_a_fault(text: str) -> None:
    assert faults_of(f"a: {text}") == [f"f.yaml:1:4: `{text}` is not allowed; leave the field out, or give it a value"]


def test_an_empty_value_is_a_fault() -> None:
    assert faults_of("a:\nb: c\n") == [
        "f.yaml:1:3: `a` has no value; indent what belongs to it, or leave the field out"
    ]
    assert len(faults_of("- a\n-\n")) == 2


def test_an_empty_document_is_a_fault() -> None:
    assert len(faults_of("a: b\n---\n---\nc: d\n")) == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: &x b", "1:4: anchors are not allowed"),
        ("a: &x b\nc: *x", "2:4: aliases are not allowed"),
        ("a: !!str b", "1:4: the tag `tag:yaml.org,2002:str` is not allowed"),
        ("a: !x {b: c}", "1:4: the tag `!x` is not allowed"),
        (MERGE, "2:1: merge keys are not allowed"),
        ("a: 1\nb: 2\na: 3\n", "3:1: duplicate key `a`; the first is in line 1"),
        ("- a", "1:1: a document is a mapping"),
        ("text", "1:1: a document is a mapping"),
        ("a: [b", "2:1: not YAML:"),
        ("a: b: c", "1:5: not YAML:"),
        ("\ta: b", "1:1: not YAML:"),
        ("a: b\n  c: d", "2:4: not YAML:"),
    ],
)
def test_what_policies_do_not_need_is_a_fault_where_it_stands(text: str, fault: str) -> None:
    assert any(each.startswith(f"f.yaml:{fault}") for each in faults_of(text)), faults_of(text)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a: b\x00c", "f.yaml:1:5: the character U+0000 is not allowed; write it escaped"),
        (b"a: b\n\xff\xfe", "f.yaml:2:1: the file is not UTF-8 from here on"),
        (b"\xef\xbb\xbfa\xff", "f.yaml:1:2: the file is not UTF-8 from here on"),
        (b"\xef\xbb\xbfa: bcd\xff", "f.yaml:1:7: the file is not UTF-8 from here on"),
        ("a: é\nb: ".encode() + b"\xc3\x28", "f.yaml:2:4: the file is not UTF-8 from here on"),
        ("a: \u202eb".encode(), "f.yaml:1:4: the character U+202E is not allowed; write it escaped"),
        ("a: \u2028b".encode(), "f.yaml:1:4: the character U+2028 is not allowed; write it escaped"),
        ("a: b\ufeff".encode(), "f.yaml:1:5: the character U+FEFF is not allowed; write it escaped"),
        (b"a: \x1b[31m", "f.yaml:1:4: the character U+001B is not allowed; write it escaped"),
    ],
)
def test_characters_that_mislead_are_faults(content: bytes, fault: str) -> None:
    assert faults_of(content) == [fault]


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "[{a: ", "{a: "])
def test_a_hundred_thousand_brackets_are_one_fault(opening: str) -> None:
    (fault,) = faults_of(opening * 100_000)
    assert "nested deeper than 64 levels" in fault or "not YAML" in fault


def test_the_deepest_nesting_that_is_allowed_is_read() -> None:
    nested = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert faults_of(nested) == []
    assert faults_of(nested.replace("[", "[[", 1).replace("]", "]]", 1)) != []


def test_an_alias_bomb_stays_small() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"k{n}: &k{n} [*a, *a, *a, *a]\n" for n in range(1000))
    found = faults_of(bomb)
    assert len(found) == 1001
    assert "more than 1000 faults; the file is not read further" in "".join(found)


def test_a_huge_scalar_is_a_fault() -> None:
    assert faults_of("a: " + "x" * 100_000) == ["f.yaml:1:4: longer than 65536 characters"]


def test_a_huge_file_is_not_even_looked_at() -> None:
    assert faults_of(b"[" * (MAX_FILE_BYTES + 1)) == [
        f"f.yaml:1:1: the file has {MAX_FILE_BYTES + 1} bytes; {MAX_FILE_BYTES} are allowed"
    ]


def test_documents_before_a_broken_one_are_read() -> None:
    read = read_documents(SourceFile("f.yaml", b"a: b\n---\nc: [\n"))
    assert [document.root.value for document in read.documents] == [{"a": "b"}]
    assert not read.complete
