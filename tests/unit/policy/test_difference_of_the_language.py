"""Whatever the policy language has: where it changes an answer, `compare` tells it, with an example that shows it."""

from __future__ import annotations

import pytest

from authz.decision import Reason, Verdict
from authz.policy.difference import compare
from authz.policy.document import SourceFile
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_set import PolicySet, parse_policy_set
from tests.support.policy_texts import document, joined, rule, service
from tests.unit.policy.test_difference import NOW_NS, PARTIES, acme, compared, guard, told


def mesh(more: str = "", *, own: str = "shop.example", bundle: str = "acme.pem") -> str:
    spec = f"{{trustDomains: [{own}], federates: [{{trustDomain: acme.example, bundle: {bundle}}}]{more}}}"
    return document("Mesh", "m", spec)


def partner(more: str = "", *, pattern: str = "spiffe://acme.example/**", closes: str = "2027-01-01T00:00:00Z") -> str:
    window = f"window: {{opens: 2026-01-01T00:00:00Z, closes: {closes}}}"
    return document("ThirdParty", "partner", f'{{identities: ["{pattern}"], {window}{more}}}')


def other(name: str, more: str) -> tuple[str, ...]:
    """Give the Services, one of them with more to it."""
    return tuple(service(each, more=more if each == name else "") for each in ("a", "b", "c"))


def dated(name: str = "r") -> str:
    return rule(name, more=", window: {opens: 2026-01-01T00:00:00Z, closes: 2026-05-01T00:00:00Z}")


OF_W_X = "spiffe://shop.example/w/x"
OWN_PATTERN = '"spiffe://shop.example/w/*"'
TO_ACME = rule("r", to="{thirdParties: [acme]}")
FROM_PARTNER = rule("r", callers="[{thirdParties: [partner]}]")
BY_ATTRIBUTE = rule("r", to="{attributes: {env: prod}}")
BY_TEAM = rule("r", callers="[{attributes: {team: x}}]")
BY_API = rule("r", operations="[{api: [op]}]")
IN_PROD = rule("r", more=""", when: ["caller.attributes.env == 'prod'"]""")
EVERYBODY = rule("r", callers='[{identities: ["spiffe://shop.example/**"]}]')
NEEDS_TLS = document("Guardrail", "g", "{require: {tls: TLSv1_3}}")
MAX_WINDOW = document("Guardrail", "g", "{require: {maxWindow: %s}}")
OF_TWO_DOMAINS = rule("r", callers='[{identities: ["spiffe://shop.example/**", "spiffe://o.example/**"]}]')


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        pytest.param(
            (mesh(), *PARTIES, rule("r")),
            (mesh(', revoked: ["spiffe://shop.example/a"]'), *PARTIES, rule("r")),
            ["a -> b: GET /x: deny unidentified"],
            id="revoked",
        ),
        pytest.param(
            (mesh(own="shop.example, o.example"), *PARTIES, OF_TWO_DOMAINS),
            (mesh(), *PARTIES, EVERYBODY),
            ["spiffe://o.example/** -> b: GET /x: deny untrusted"],
            id="trustDomains",
        ),
        pytest.param(
            (mesh(", defaults: {mode: observe}"), service("b")),
            (mesh(own="shop.example, o.example", more=", defaults: {mode: observe}"), service("b")),
            ["any other workload of o.example -> b: any method on any path: allow untrusted"],
            id="trustDomains, of nobody known",
        ),
        pytest.param(
            (mesh(), *PARTIES, partner(), FROM_PARTNER),
            (document("Mesh", "m", "{trustDomains: [shop.example]}"), *PARTIES),
            ["partner -> b: GET /x: deny untrusted"],
            id="federates",
        ),
        pytest.param(
            (mesh(), service("b")),
            (mesh(", defaults: {mode: observe}"), service("b")),
            ["every caller -> b: any method on any path: allow no_policy"],
            id="defaults.mode",
        ),
        pytest.param(
            (mesh(), service("a", identity=OWN_PATTERN), service("b"), service("c"), rule("r")),
            (mesh(), service("a", identity=OWN_PATTERN), service("b"), service("c", identity=OF_W_X), rule("r")),
            ["spiffe://shop.example/w/x (was a, is c) -> b: GET /x: deny no_policy"],
            id="an identity that a more specific pattern takes",
        ),
        pytest.param(
            (mesh(), *PARTIES, BY_ATTRIBUTE),
            (mesh(), *other("b", ", attributes: {env: prod}"), BY_ATTRIBUTE),
            ["a -> b: GET /x: allow no_policy"],
            id="attributes of a destination",
        ),
        pytest.param(
            (mesh(), *PARTIES, BY_TEAM),
            (mesh(), *other("c", ", attributes: {team: x}"), BY_TEAM),
            ["c -> b: GET /x: allow no_policy"],
            id="attributes of a caller",
        ),
        pytest.param(
            (mesh(), *other("b", ", api: [{name: op, methods: [GET], paths: [/x]}]"), BY_API),
            (mesh(), *other("b", ", api: [{name: op, methods: [GET], paths: [/y]}]"), BY_API),
            ["a -> b: GET /x: deny no_policy", "a -> b: GET /y: allow no_policy"],
            id="api",
        ),
        pytest.param(
            (mesh(), *PARTIES, acme(), TO_ACME),
            (mesh(), *PARTIES, acme().replace("[api.acme.example]", '["*.acme.example", "x.example:8443"]'), TO_ACME),
            ["a -> *.acme.example, x.example:8443: GET /x: allow unknown_destination"],
            id="hosts of a ThirdParty",
        ),
        pytest.param(
            (mesh(), *PARTIES, acme(), TO_ACME, NEEDS_TLS),
            (mesh(), *PARTIES, acme(more=", tls: TLSv1_3"), TO_ACME, NEEDS_TLS),
            ["a -> acme: GET /x: allow guardrail"],
            id="tls of a ThirdParty",
        ),
        pytest.param(
            (mesh(), *PARTIES, partner(), FROM_PARTNER),
            (mesh(), *PARTIES, partner(closes="2026-08-01T00:00:00Z"), FROM_PARTNER),
            ["partner -> b: GET /x: deny decommissioned"],
            id="window of a ThirdParty that calls",
        ),
        pytest.param(
            (mesh(), *PARTIES, partner(), FROM_PARTNER),
            (mesh(), *PARTIES, partner(pattern="spiffe://acme.example/a/**"), FROM_PARTNER),
            ["partner (spiffe://acme.example/**) -> b: GET /x: deny untrusted"],
            id="identities of a ThirdParty",
        ),
        pytest.param(
            (mesh(), *PARTIES, rule("r"), NEEDS_TLS.replace("TLSv1_3", "TLSv1_2")),
            (mesh(), *PARTIES, rule("r"), NEEDS_TLS),
            ["a -> b: GET over TLSv1_2 /x: deny guardrail"],
            id="require.tls of a Guardrail",
        ),
        pytest.param(
            (mesh(), *PARTIES, dated(), MAX_WINDOW % "90d"),
            (mesh(), *PARTIES, dated(), MAX_WINDOW % "200d"),
            ["a -> b: GET /x: allow guardrail"],
            id="require.maxWindow of a Guardrail",
        ),
        pytest.param(
            (mesh(), *PARTIES, rule("r"), guard("{to: [{services: [b], operations: all}]}")),
            (mesh(), *PARTIES, rule("r"), guard("{to: [{services: [b], operations: all}], mode: observe}")),
            ["a -> b: GET /x: allow guardrail"],
            id="mode of a Guardrail",
        ),
        pytest.param(
            (mesh(), *other("a", ", attributes: {env: prod}"), IN_PROD),
            (mesh(), *other("a", ", attributes: {env: dev}"), IN_PROD),
            ["a -> b: GET /x: deny no_policy"],
            id="attributes that a condition asks about",
        ),
        pytest.param(
            (mesh(), *PARTIES, rule("r", callers="[{services: [a, c]}]")),
            (
                mesh(),
                *PARTIES,
                rule("r", callers="[{services: [a, c]}]"),
                document("Guardrail", "g", """{when: ["caller.service != 'a'"]}"""),
            ),
            ["c -> b: GET /x: deny guardrail"],
            id="a Guardrail for everyone but one",
        ),
    ],
)  # fmt: skip
def test_every_part_of_the_language_that_changes_an_answer_is_told(
    old: tuple[str, ...], new: tuple[str, ...], lines: list[str]
) -> None:
    found = compare(one_file(old), one_file(new), now_ns=NOW_NS)
    assert [f"{each}: {each.change.becomes} {each.change.reason}" for each in found.differences] == lines
    assert not found.notes
    for each in found.differences:
        verdicts = [
            evaluate(compile_index(one_file(side)), each.example, each.change.example_at_ns).verdict
            for side in (old, new)
        ]
        assert verdicts[0] is not verdicts[1] is each.change.becomes


def one_file(documents: tuple[str, ...]) -> PolicySet:
    return parse_policy_set([SourceFile("set.yaml", joined(*documents))])


@pytest.mark.parametrize(
    ("shape", "operation", "line"),
    [
        ("semicolon", '[{methods: [GET], paths: ["/x/{id}"]}]', "GET /x/{id} with semicolon in it"),
        ("encoded-slash", '[{methods: [GET], paths: ["/x/{id}"]}]', "GET /x/{id} with encoded-slash in it"),
        ("encoded-delimiter", '[{methods: [GET], paths: ["/{**}"]}]', "GET /{**} with encoded-delimiter in it"),
        ("double-slash", '[{methods: [GET], paths: ["/a//b"]}]', "GET /a//b"),
        ("semicolon", "all", "any method on any path with semicolon in it"),
        ("double-slash", "all", "any method on any path with double-slash in it"),
    ],
)
@pytest.mark.parametrize("kind", ["Service", "ThirdParty"])
def test_a_shape_of_path_that_a_destination_opts_in_to_is_told(
    kind: str, shape: str, operation: str, line: str
) -> None:
    allow = f", paths: {{allow: [{shape}]}}"
    if kind == "Service":
        to, sides = "b", [(*other("b", more), rule("r", operations=operation)) for more in ("", allow)]
    else:
        policy = rule("r", to="{thirdParties: [acme]}", operations=operation)
        to, sides = "acme", [(*PARTIES, acme(more=more), policy) for more in ("", allow)]
    for before, after, becomes in ((*sides, Verdict.ALLOW), (*sides[::-1], Verdict.DENY)):
        (difference,) = compared(before, after).differences
        assert (str(difference), difference.change.becomes) == (f"a -> {to}: {line}", becomes)
        assert difference.change.reason is Reason.MALFORMED


def test_paths_with_empty_segments_are_told_where_no_other_path_is_left() -> None:
    both = other("b", ", paths: {allow: [double-slash]}")
    broad = guard('{to: [{services: [b], operations: [{methods: all, paths: ["/{**}"]}]}]}')
    assert told((*both, rule("r", operations="all"), broad), (*both, broad)) == [
        "a -> b: any method on any path with double-slash in it: deny .."
    ]


def test_what_proves_an_identity_is_told_in_a_note() -> None:
    old, new = (one_file((mesh(bundle=file), *PARTIES)) for file in ("acme.pem", "other.pem"))
    (note,) = compare(old, new, now_ns=NOW_NS).notes
    assert note.startswith("who is of the trust domain `acme.example` is proven by other authorities")


def test_a_rule_that_only_one_of_two_conditions_shows_is_told() -> None:
    a = rule("a", more=""", when: ["request.query == 'a'"]""")
    forever = document("Guardrail", "g", "{require: {maxWindow: 90d}}")
    limited = dated("b").removesuffix("}\n") + """, when: ["request.query == 'b'"]}\n"""
    only_b = "`request.query == 'b'` holds and `request.query == 'a'` does not hold"
    assert told((*PARTIES, a, limited), (*PARTIES, a, limited, forever)) == [
        "a -> b: GET /x where `request.query == 'a'` holds: deny ..",
        f"a -> b: GET /x where {only_b}: deny 2026-01-01T00:00:00Z..2026-05-01T00:00:00Z",
    ]
