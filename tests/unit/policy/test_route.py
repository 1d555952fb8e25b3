from __future__ import annotations

from itertools import product

import pytest

from authz.policy.route import GrpcMethod, PathTemplate, RouteError, parse_method, path_segments
from authz.policy.segment_trie import SegmentTrie

PARTS = ("a", "b", "", "{x}")
TEMPLATES = [
    PathTemplate.parse("/" + "/".join(each))
    for length in range(1, 4)
    for each in [*product(PARTS, repeat=length), *((*start, "{**}") for start in product(PARTS, repeat=length - 1))]
]
PATHS = [list(each) for length in range(1, 5) for each in product(("a", "b", "c", ""), repeat=length)]


def matches(template: PathTemplate) -> set[tuple[str, ...]]:
    trie: SegmentTrie[bool] = SegmentTrie()
    trie.add(template.segments, value=True)
    return {tuple(path) for path in PATHS if trie.matching(path)}


MATCHES = {template: matches(template) for template in TEMPLATES}


def test_cover_is_exact() -> None:
    for one, other in product(TEMPLATES, repeat=2):
        assert one.covers(other) == (MATCHES[other] <= MATCHES[one]), (one.text, other.text)


def test_a_trie_of_all_templates_finds_each_of_them() -> None:
    trie: SegmentTrie[PathTemplate] = SegmentTrie()
    for template in TEMPLATES:
        trie.add(template.segments, template)
    for path in PATHS:
        expected = sorted(template.text for template in TEMPLATES if tuple(path) in MATCHES[template])
        assert sorted(template.text for template in trie.matching(path)) == expected


def test_a_long_path_costs_no_more_than_its_length() -> None:
    trie: SegmentTrie[int] = SegmentTrie()
    for number in range(64):
        trie.add(["{*}"] * number + ["{**}"], number)
    assert len(trie.matching(["a"] * 4000)) == 64


def test_braces_of_a_request_are_no_wildcards() -> None:
    trie: SegmentTrie[int] = SegmentTrie()
    trie.add(PathTemplate.parse("/a/{x}").segments, 1)
    assert trie.matching(["{*}", "b"]) == []
    assert trie.matching(["a", "{**}"]) == [1]
    trie.add(PathTemplate.parse("/b/{**}").segments, 2)
    assert trie.matching(["b", "{**}", "c"]) == [2]


def test_templates_that_part_late_are_all_found() -> None:
    trie: SegmentTrie[str] = SegmentTrie()
    long = ["a"] * 4000
    for end in ("b", "c", "{*}", "{**}"):
        trie.add([*long, end], end)
    trie.add(long, "none")
    assert sorted(trie.matching([*long, "b"])) == ["b", "{**}", "{*}"]
    assert sorted(trie.matching([*long, "b", "c"])) == ["{**}"]
    assert trie.matching(long) == ["none"]


def test_a_target_of_the_greatest_length_is_read() -> None:
    assert path_segments("/" + "a" * 8191) is not None
    assert path_segments("/" + "a" * 8192) is None
    assert path_segments("/a?" + "b" * 8189) is not None
    assert path_segments("/a?" + "b" * 8190) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begins with `/`"),
        ("items", "begins with `/`"),
        ("/a%20b", "has a `%`: write the path decoded"),
        ("/a?b", "has a `?`: a query is never matched"),
        ("/a#b", "has a `#`"),
        ("/a;b", "has a `;`"),
        ("/a*", "has a `*`: write `{*}`"),
        ("/*", "has a `*`: write `{*}`"),
        ("/a{b}", "has a `{`: braces stand for a whole segment"),
        ("/{a}b", "has a `{`: braces"),
        ("/{}", "has a `{`: braces"),
        ("/{a=*}", "has a `{`: braces"),
        ("/{a b}", "has a `{`: braces"),
        ("/a}", "has a `}`: braces"),
        ("/{**}/a", "`{**}` must be the last segment"),
        ("/{a=**}/b", "`{a=**}` must be the last segment"),
        ("/a/../b", "a request with the segment `..` is refused"),
        ("/.", "a request with the segment `.` is refused"),
        ("/a\\b", "has a `\\`: a request with a backslash"),
        ("/a\x07", "has a control character"),
        ("/a\x85", "has a control character"),
        ("/" + "a" * 8192, "at most 8192 characters"),
    ],
)
def test_what_is_no_path_pattern_says_why(text: str, why: str) -> None:
    with pytest.raises(RouteError) as raised:
        PathTemplate.parse(text)
    assert why in str(raised.value)


@pytest.mark.parametrize("text", ["pkg.Service/Method", "Service/Method", "a.b.c.S/M_1", "pkg.S/*"])
def test_grpc_methods_are_read(text: str) -> None:
    assert str(GrpcMethod.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "/pkg.S/M", "pkg.S", "pkg.S/", "/M", "pkg.S/M/N", "*/M", "*/*", "pkg.*/M", "pkg..S/M", "pkg.S/M\n", "p-k.S/M"],
)
def test_what_is_no_grpc_method_is_refused(text: str) -> None:
    with pytest.raises(RouteError, match="is no gRPC method"):
        GrpcMethod.parse(text)


def test_a_lower_case_method_names_the_right_one() -> None:
    with pytest.raises(RouteError, match="did you mean `GET`"):
        parse_method("get")
    with pytest.raises(RouteError, match="is no method"):
        parse_method("G3T")
    with pytest.raises(RouteError, match="is no method"):
        parse_method("GET\n")
