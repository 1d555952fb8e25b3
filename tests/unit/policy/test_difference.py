"""What `compare` says of two sets: in whose words, at which times, and what is no difference at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from authz.policy.difference import Comparison, compare
from authz.policy.document import SourceFile
from authz.policy.policy_set import parse_policy_set
from authz.policy.segment_partition import Alphabet, segment_classes
from authz.policy.window import parse_instant_ns
from authz.policy.window_words import instant
from tests.support.policy_texts import document, parsed, rule, service

NOW_NS = parse_instant_ns("2026-06-01T00:00:00Z")
PARTIES = (service("a"), service("b"), service("c"))


def acme(closes: str = "2027-01-01T00:00:00Z", more: str = "") -> str:
    spec = f"{{hosts: [api.acme.example], window: {{opens: 2026-01-01T00:00:00Z, closes: {closes}}}{more}}}"
    return document("ThirdParty", "acme", spec)


def compared(old: tuple[str, ...], new: tuple[str, ...]) -> Comparison:
    return compare(parsed(*old), parsed(*new), now_ns=NOW_NS)


def told(old: tuple[str, ...], new: tuple[str, ...]) -> list[str]:
    return [
        f"{each}: {each.change.becomes} "
        + "; ".join(f"{edge(span.from_ns)}..{edge(span.until_ns)}" for span in each.change.spans)
        for each in compared(old, new).differences
    ]


def edge(at_ns: int | None) -> str:
    return "" if at_ns is None else instant(at_ns)


def operations(text: str) -> tuple[str, ...]:
    return (*PARTIES, rule("r", operations=text))


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ((*PARTIES,), (*PARTIES, rule("r")), ["a -> b: GET /x: allow .."]),
        ((*PARTIES, rule("r")), (*PARTIES,), ["a -> b: GET /x: deny .."]),
        (
            operations("[{methods: [GET], paths: [/x]}]"),
            operations("[{methods: [GET, PUT], paths: [/x]}]"),
            ["a -> b: PUT /x: allow .."],
        ),
        (
            operations("[{methods: [GET], paths: [/x]}]"),
            operations("[{methods: all, paths: [/x]}]"),
            ["a -> b: any method but GET /x: allow .."],
        ),
        (
            operations('[{methods: [GET], paths: ["/x/{id}"]}]'),
            operations('[{methods: [GET], paths: ["/x/{**}"]}]'),
            ["a -> b: GET /x/{**} (but not /x/{id}): allow .."],
        ),
        (
            operations("[{methods: [GET], paths: [/x]}]"),
            operations("all"),
            ["a -> b: any method but GET /x: allow ..", "a -> b: any method on any path (but not /x): allow .."],
        ),
        (
            operations('[{methods: [POST], paths: ["/p.S/M"]}]'),
            operations("[{grpc: [p.S/M]}]"),
            ["a -> b: POST (not gRPC) /p.S/M: deny .."],
        ),
        (
            operations("[{grpc: [p.S/M]}]"),
            operations("[{grpc: [p.S/*]}]"),
            ["a -> b: grpc p.S/* (but not /p.S/M): allow .."],
        ),
        (
            (*PARTIES, rule("r", more=", window: {closes: 2026-07-01T00:00:00Z}")),
            (*PARTIES, rule("r", more=", window: {closes: 2026-09-01T00:00:00Z}")),
            ["a -> b: GET /x: allow 2026-07-01T00:00:00Z..2026-09-01T00:00:00Z"],
        ),
        (
            (*PARTIES, rule("r")),
            (*PARTIES, rule("r", more=", window: {opens: 2026-07-01T00:00:00Z, closes: 2026-09-01T00:00:00Z}")),
            ["a -> b: GET /x: deny ..2026-07-01T00:00:00Z; 2026-09-01T00:00:00Z.."],
        ),
        (
            (*PARTIES, acme(), rule("r", to="{thirdParties: [acme]}")),
            (*PARTIES, acme("2026-08-01T00:00:00Z"), rule("r", to="{thirdParties: [acme]}")),
            ["a -> acme: GET /x: deny 2026-08-01T00:00:00Z..2027-01-01T00:00:00Z"],
        ),
        (
            (*PARTIES, rule("r", callers="[{services: [a]}]")),
            (*PARTIES, rule("r", callers="[{services: [a, c]}]")),
            ["c -> b: GET /x: allow .."],
        ),
        (
            (*PARTIES, rule("r")),
            (*PARTIES, rule("r", callers='[{services: [a]}, {identities: ["spiffe://shop.example/z/*"]}]')),
            ["spiffe://shop.example/z/* -> b: GET /x: allow .."],
        ),
        (
            (service("a"), service("b"), rule("r")),
            (service("a", identity="spiffe://shop.example/z"), service("b"), rule("r")),
            ["a (spiffe://shop.example/a) -> b: GET /x: deny ..", "a (spiffe://shop.example/z) -> b: GET /x: allow .."],
        ),
        (
            (service("a"), service("b", more=", hosts: [b.local]"), service("c"), rule("r")),
            (service("a"), service("b"), service("c", more=", hosts: [b.local]"), rule("r")),
            ["a -> b.local: GET /x: deny .."],
        ),
        (
            operations('[{methods: [GET], paths: ["/x/{id}"]}]'),
            (
                service("a"),
                service("b", more=", paths: {allow: [semicolon]}"),
                service("c"),
                rule("r", operations='[{methods: [GET], paths: ["/x/{id}"]}]'),
            ),
            ["a -> b: GET /x/{id} with semicolon in it: allow .."],
        ),
    ],
)  # fmt: skip
def test_what_becomes_allowed_or_denied_is_told_as_a_person_would(
    old: tuple[str, ...], new: tuple[str, ...], lines: list[str]
) -> None:
    assert told(old, new) == lines


def guard(spec: str) -> str:
    return document("Guardrail", "g", spec)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        pytest.param(
            (*PARTIES, rule("r")),
            (*PARTIES, rule("r"), guard("{to: [{services: [b], operations: all}]}")),
            ["a -> b: GET /x: deny .."],
            id="what a Guardrail forbids",
        ),
        pytest.param(
            operations('[{methods: all, paths: ["/x/{**}"]}]'),
            (
                *operations('[{methods: all, paths: ["/x/{**}"]}]'),
                guard('{to: [{services: [b], operations: [{methods: [GET], paths: ["/x/y"]}]}]}'),
            ),
            ["a -> b: GET, HEAD /x/y: deny .."],
            id="as broadly as it forbids",
        ),
        pytest.param(
            (*PARTIES, rule("r")),
            (*PARTIES, rule("r"), guard("{require: {tls: TLSv1_3}}")),
            ["a -> b: GET over TLSv1_2 or less /x: deny .."],
            id="what a Guardrail requires",
        ),
        pytest.param(
            (*PARTIES, rule("r")),
            (*PARTIES, rule("r"), guard("{window: {opens: 2026-07-01T00:00:00Z}}")),
            ["a -> b: GET /x: deny 2026-07-01T00:00:00Z.."],
            id="while the Guardrail is open",
        ),
        pytest.param(
            (*PARTIES, rule("r", more=", mode: observe")),
            (*PARTIES, rule("r")),
            ["a -> b: GET /x: allow .."],
            id="a rule that is enforced from now on",
        ),
        pytest.param(
            (service("a"), service("b", more=", mode: observe")),
            (service("a"), service("b")),
            ["every caller -> b: any method on any path: deny .."],
            id="a Service that enforces from now on",
        ),
        pytest.param(
            (*PARTIES,),
            (*PARTIES, rule("r", more=", when: ['request.query == \"\"']")),
            ['a -> b: GET /x where `request.query == ""` holds: allow ..'],
            id="where a condition holds",
        ),
    ],
)
def test_guardrails_modes_and_conditions_are_told(old: tuple[str, ...], new: tuple[str, ...], lines: list[str]) -> None:
    assert told(old, new) == lines


def test_hours_are_told_by_their_spans_for_a_year() -> None:
    hours = ", window: {during: [{days: [mon], from: '08:00', until: '%s', timezone: UTC}]}"
    (difference,) = compared(
        (*PARTIES, rule("r", more=hours % "10:00")), (*PARTIES, rule("r", more=hours % "09:00"))
    ).differences
    first = difference.change.spans[0]
    assert (first.from_ns, first.until_ns) == (
        parse_instant_ns("2026-06-01T09:00:00Z"),
        parse_instant_ns("2026-06-01T10:00:00Z"),
    )
    assert 52 <= len(difference.change.spans) <= 54
    assert difference.change.times.recurring


def test_a_condition_that_changed_is_told_for_either_answer_of_it() -> None:
    old, new = (rule("r", more=f", when: ['request.query == \"{text}\"']") for text in ("x", "y"))
    assert told((*PARTIES, old), (*PARTIES, new)) == [
        'a -> b: GET /x where `request.query == "x"` holds and `request.query == "y"` does not hold: deny ..',
        'a -> b: GET /x where `request.query == "y"` holds and `request.query == "x"` does not hold: allow ..',
    ]
    assert compared((*PARTIES, old), (*PARTIES, old)).same


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((*PARTIES, rule("r")), (*PARTIES, rule("renamed"))),
        ((*PARTIES, rule("r")), (rule("r"), *reversed(PARTIES))),
        ((*PARTIES, rule("r")), (*PARTIES, rule("r"), rule("again"))),
        ((*PARTIES,), (*PARTIES, service("d"))),
        (operations('[{methods: [GET], paths: ["/{id}"]}]'), operations('[{methods: [GET], paths: ["/{*}"]}]')),
        (
            operations("[{methods: [GET, PUT], paths: [/x]}]"),
            operations("[{methods: [GET], paths: [/x]}, {methods: [PUT], paths: [/x]}]"),
        ),
    ],
)
def test_what_is_only_written_in_another_way_is_no_difference(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    assert compared(old, new).same


def test_the_rule_that_allows_and_the_reason_of_the_deny_are_told() -> None:
    (difference,) = compared((*PARTIES, rule("r")), PARTIES).differences
    assert (difference.change.policy, difference.change.reason.value) == ("r", "no_policy")


def test_a_certificate_that_is_revoked_by_its_number_is_told_in_a_note() -> None:
    mesh = "{trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]"
    old, new = (
        parse_policy_set([SourceFile("mesh.yaml", document("Mesh", "m", f"{mesh}{revoked}}}").encode())])
        for revoked in ("", ', revoked: ["serial:shop.example/0AbC"]')
    )
    comparison = compare(old, new, now_ns=NOW_NS)
    (note,) = comparison.notes
    assert note.startswith("every call with the certificate `serial:shop.example/abc` becomes denied because of it")
    assert not comparison.same


PATHS = Alphabet(any_segment="{*}", rest="{**}", empty_last=True)


def test_every_way_in_which_patterns_match_together_has_one_example() -> None:
    patterns = [(("a", "{*}"), 1), (("{*}", "b"), 2), (("a", "{**}"), 3), (("",), 4)]
    found = {each.matched: each.example for each in segment_classes(patterns, PATHS)}
    assert set(found) == {frozenset(each) for each in ({4}, {1, 3}, {1, 2, 3}, {2}, {3})}
    assert found[frozenset({1, 2, 3})] == ("a", "b")
    assert len(found[frozenset({3})]) == 3


def test_a_path_that_no_pattern_matches_is_found_where_there_is_one() -> None:
    patterns = [(("{**}",), 1), (("",), 2), (("{*}", ""), 3)]

    def unmatched(alphabet: Alphabet) -> list[tuple[str, ...]]:
        classes = segment_classes(patterns, alphabet, unmatched=True)
        return [each.example for each in classes if not each.matched]

    assert unmatched(PATHS) == [("any", "any", "")]
    patterns.append((("{**}", ""), 4))
    assert unmatched(PATHS) == []
    # Two slashes are matched by none of them, where the destination allows them.
    assert unmatched(replace(PATHS, empty_within=True)) == [("", "")]


def test_only_classes_that_a_relevant_pattern_is_in_are_gone_through() -> None:
    patterns = [((f"p{number}", "{*}"), number) for number in range(50)]
    assert [each.matched for each in segment_classes(patterns, PATHS, relevant={7})] == [frozenset({7})]


def test_destinations_of_which_the_same_is_said_stand_in_one_line() -> None:
    to_both = rule("r", to="{services: [b, c]}")
    assert told(PARTIES, (*PARTIES, to_both)) == ["a -> b, c: GET /x: allow .."]


def test_only_what_a_change_can_reach_is_gone_through() -> None:
    many = [service(f"s{number}") for number in range(40)]
    rules = [rule(f"r{number}", to=f"{{services: [s{number}]}}") for number in range(40)]
    steps: list[int] = []
    old, new = parsed(*PARTIES, *many, *rules), parsed(*PARTIES, *many, *rules[1:])
    compare(old, new, now_ns=NOW_NS, progress=lambda _, of: steps.append(of))
    assert steps == [1]
