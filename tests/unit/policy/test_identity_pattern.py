from __future__ import annotations

from itertools import product

import pytest

from authz.identity.spiffe_id import SpiffeId
from authz.policy.identity_pattern import IdentityPattern, IdentityPatternError, IdentityTable

SEGMENTS = ("a", "b", "*")
IDS = [
    SpiffeId.parse("spiffe://td/" + "/".join(each)) for length in range(1, 5) for each in product("abc", repeat=length)
]
PATTERNS = [
    IdentityPattern.parse("spiffe://td/" + "/".join(each))
    for length in range(1, 4)
    for each in [
        *product(SEGMENTS, repeat=length),
        *((*start, "**") for start in product(SEGMENTS, repeat=length - 1)),
    ]
]


def members(pattern: IdentityPattern) -> set[SpiffeId]:
    return {each for each in IDS if pattern.matches(each)}


MEMBERS = {pattern: members(pattern) for pattern in PATTERNS}


def test_a_pattern_without_wildcard_is_exactly_one_id() -> None:
    pattern = IdentityPattern.parse("spiffe://shop.example/ns/a")
    assert pattern.exact == SpiffeId.parse("spiffe://shop.example/ns/a")
    assert str(pattern) == "spiffe://shop.example/ns/a"


def test_overlap_is_exact() -> None:
    for one, other in product(PATTERNS, repeat=2):
        assert one.overlaps(other) == bool(MEMBERS[one] & MEMBERS[other]), (str(one), str(other))


def test_cover_is_exact() -> None:
    for one, other in product(PATTERNS, repeat=2):
        assert one.covers(other) == (MEMBERS[other] <= MEMBERS[one]), (str(one), str(other))


def test_a_table_finds_what_matches() -> None:
    table: IdentityTable[IdentityPattern] = IdentityTable()
    for pattern in PATTERNS:
        table.add(pattern, pattern)
    for each in IDS:
        found = [*table.exact(each), *table.matching(each)]
        assert sorted(map(str, found)) == sorted(str(pattern) for pattern in PATTERNS if pattern.matches(each))


def test_a_table_finds_what_overlaps() -> None:
    wild = [pattern for pattern in PATTERNS if pattern.exact is None]
    table: IdentityTable[IdentityPattern] = IdentityTable()
    for pattern in wild:
        table.add(pattern, pattern)
    for each in PATTERNS:
        expected = {pattern for pattern in wild if pattern.overlaps(each)}
        assert set(table.overlapping(each)) == expected


def test_trust_domains_never_mix() -> None:
    pattern = IdentityPattern.parse("spiffe://td/**")
    assert not pattern.matches(SpiffeId.parse("spiffe://td.example/a"))
    assert not pattern.overlaps(IdentityPattern.parse("spiffe://other/**"))
    assert not pattern.covers(IdentityPattern.parse("spiffe://other/a"))
    assert not pattern.matches(SpiffeId.parse("spiffe://td"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("spiffe://*/a", "the trust domain must be written out"),
        ("spiffe://td*/a", "the trust domain must be written out"),
        ("spiffe://td/**/a", "`**` must be the last segment"),
        ("spiffe://td/a*", "`*` stands for a whole segment"),
        ("spiffe://td/***", "`*` stands for a whole segment"),
        ("spiffe://td", "is a trust domain, not a workload; `spiffe://td/**` is all of it"),
        ("spiffe://td/", "ends in a slash"),
        ("spiffe://td//a", "empty path segment"),
        ("spiffe://td/../a", "the path segment `..`"),
        ("spiffe://TD/a", "has only the characters"),
        ("spiffe://td/a\n", "has only the characters"),
        ("spiffe://td/*\n", "`*` stands for a whole segment"),
        ("http://td/a", "does not begin with `spiffe://`"),
        ("*", "does not begin with `spiffe://`"),
        ("", "does not begin with `spiffe://`"),
    ],
)
def test_what_is_no_pattern_says_why(text: str, why: str) -> None:
    with pytest.raises(IdentityPatternError) as raised:
        IdentityPattern.parse(text)
    assert why in str(raised.value)
