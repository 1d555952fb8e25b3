from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy.document import MAX_SET_BYTES, SourceFile
from authz.policy.errors import FaultCode, PolicySetFaults
from authz.policy.policy_set import KnownFiles, parse_policy_set
from authz.policy.route import PathShape
from authz.policy.window import Window
from authz.request import TlsVersion
from tests.support.policy_texts import MESH, document, faults, joined, parsed, rule, service

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B = service("a"), service("b")
PARTY = document(
    "ThirdParty", "p", "{hosts: [p.example], window: {opens: 2026-01-01T00:00:00Z, closes: 2027-01-01T00:00:00Z}}"
)


def third_party(name: str, hosts: str) -> str:
    return PARTY.replace("{name: p}", f"{{name: {name}}}").replace("[p.example]", f"[{hosts}]")


def test_a_file_that_is_known_is_not_read_again_and_changes_nothing_of_what_is_said_of_the_set() -> None:
    def files(*texts: str) -> list[SourceFile]:
        return [SourceFile(f"{number}.yaml", text.encode()) for number, text in enumerate(texts)]

    known = KnownFiles()
    first = parse_policy_set(files(MESH, A, B), known)
    assert known.unknown_bytes(files(MESH, A, B)) == 0
    other = service("b", more=", hosts: [b.shop.local]")
    assert known.unknown_bytes(files(MESH, A, other)) == len(other)
    second = parse_policy_set(files(MESH, A, other), known)
    assert second == parse_policy_set(files(MESH, A, other))
    assert second.services[0] is first.services[0]
    for broken in (files(MESH, A, "kind: Mesh\n"), files(A, B), files(MESH, A, A)):
        with pytest.raises(PolicySetFaults) as told:
            parse_policy_set(broken, known)
        with pytest.raises(PolicySetFaults) as expected:
            parse_policy_set(broken)
        assert told.value.faults == expected.value.faults
    assert parse_policy_set(files(MESH, A, B), known) == first
    assert known.unknown_bytes(files(MESH, A, B, other)) == len(other)


def test_a_set_is_what_its_documents_say() -> None:
    policy_set = parsed(
        PARTY,
        service("b", more=", hosts: [B.shop.local], attributes: {env: prod}, paths: {allow: [semicolon]}"),
        service("a", identity='"spiffe://shop.example/*/a"'),
        rule("r", more=", window: {opens: 2026-01-01T00:00:00Z}"),
    )
    assert policy_set.mesh.trust_domains == (TrustDomain.parse("shop.example"),)
    assert [(each.trust_domain.name, each.bundle) for each in policy_set.mesh.federates] == [
        ("acme.example", "acme.pem")
    ]
    assert [each.name for each in policy_set.services] == ["a", "b"]
    a, b = policy_set.services
    assert (a.identities[0].exact, str(a.identities[0])) == (None, "spiffe://shop.example/*/a")
    assert b.identities[0].exact == SpiffeId.parse("spiffe://shop.example/b")
    assert (b.hosts, b.attributes, b.path_shapes) == (("b.shop.local",), {"env": "prod"}, {PathShape.SEMICOLON})
    (party,) = policy_set.third_parties
    assert (party.tls, str(party.hosts[0])) == (TlsVersion.TLS_1_2, "p.example")
    assert party.window == Window(opens_ns=1_767_225_600 * 10**9, closes_ns=1_798_761_600 * 10**9)
    assert policy_set.micro_policies[0].window.closes_ns is None
    assert len(policy_set.revision) == 64


# --- all faults in one run


def test_all_faults_of_all_files_come_at_once_and_sorted() -> None:
    first = joined(MESH, B, service("b", more=", hots: [red]"), "a: 1\n")
    second = joined(document("Servce", "x", "{}"), rule("r", callers="[{services: [nobody]}]", more=", wen: x"))
    files = [SourceFile("z.yaml", b"a: [\n"), SourceFile("b.yaml", second), SourceFile("a.yaml", first)]
    with pytest.raises(PolicySetFaults) as raised:
        parse_policy_set(files)
    assert str(raised.value).splitlines() == [
        "a.yaml:13:18: duplicate name `b`; the first is the Service in a.yaml:8",
        "a.yaml:14:21: the identity `spiffe://shop.example/b` is already that of `b` in a.yaml:9",
        "a.yaml:14:47: unknown field `hots`; did you mean `hosts`?",
        "a.yaml:16:1: this is no policy: it has neither `apiVersion` nor `kind`; keep the file in another folder",
        "b.yaml:2:7: unknown kind `Servce`; did you mean `Service`?",
        "b.yaml:4:7: an empty mapping is not allowed; give it a value",
        "b.yaml:9:27: there is no Service `nobody`",
        "b.yaml:9:106: unknown field `wen`; did you mean `when`?",
        "z.yaml:2:1: not YAML: a value is missing here, or a `[` or `{` before it is not closed",
    ]


def test_a_set_without_a_mesh_or_with_two_is_none() -> None:
    with pytest.raises(PolicySetFaults, match="the set has no Mesh"):
        parse_policy_set([SourceFile("a.yaml", A.encode())])
    with pytest.raises(PolicySetFaults, match="policies:1:1: the set has no Mesh"):
        parse_policy_set([])
    assert faults(MESH) == ["mesh.yaml:2:7: a set has one Mesh; the first is in 0.yaml:1"]


def test_one_broken_document_does_not_make_its_names_missing() -> None:
    assert faults(service("a", more=", x: y"), B, rule("r"))[1:] == []
    assert faults("kind: [\nname: a\n", B, rule("r"))[1:] == []


def test_a_set_that_is_too_large_is_not_read() -> None:
    files = [SourceFile(f"{number}.yaml", b"\n" * 4_000_000) for number in range(MAX_SET_BYTES // 4_000_000 + 1)]
    with pytest.raises(PolicySetFaults, match="bytes; "):
        parse_policy_set(files)


# --- each fault, at its position


def refused() -> Iterator[tuple[str, str, str]]:
    """Give kind, spec with a `^` before what is at fault, and message."""
    text = Path(__file__).with_name("refused_documents.txt").read_text("utf-8")
    for paragraph in text.split("\n\n"):
        if not paragraph.startswith("#"):
            kind, spec, message = (line.strip() for line in paragraph.strip().splitlines())
            yield kind, spec, message


@pytest.mark.parametrize(("kind", "spec", "message"), list(refused()))
def test_a_document_is_refused_where_it_is_wrong(kind: str, spec: str, message: str) -> None:
    offered = ", hosts: [b.local], attributes: {env: prod}, api: [{name: getItem, methods: [GET], paths: [/x]}]"
    before, marked, after = spec.partition("^")
    position = f"4:{len('spec: ') + len(before) + 1}: " if marked else ""
    wrong = document(kind, "x", before + after)
    rest = () if kind == "Mesh" else (A, service("b", more=offered), PARTY)
    found = faults(*rest, wrong, mesh=kind != "Mesh")
    assert f"{len(rest)}.yaml:{position}{message.replace(' ', ': ', not marked)}" in found


def test_patterns_of_two_owners_that_never_meet_are_none() -> None:
    assert (
        faults(
            A,
            service("x", identity='"spiffe://shop.example/x/*"'),
            service("y", identity='"spiffe://shop.example/*/*"'),
        )
        == []
    )


def test_names_are_unique_over_services_and_third_parties() -> None:
    assert faults(A, third_party("a", "x.example")) == [
        "1.yaml:3:18: duplicate name `a`; the first is the Service in 0.yaml:3"
    ]
    assert faults(A, B, rule("a")) == []


def test_equally_specific_patterns_of_two_owners_that_can_meet_are_a_fault() -> None:
    one = service("x", identity='"spiffe://shop.example/*/sa"')
    (fault,) = faults(one, service("y", identity='"spiffe://shop.example/ns/*"'))
    assert fault.startswith(
        "1.yaml:4:21: `spiffe://shop.example/ns/*` and the equally specific pattern of `x` in 0.yaml:4 can match the"
    )
    assert faults(one, service("y", identity='"spiffe://shop.example/ns/sb/*"')) == []
    assert faults(one, service("y", identity="spiffe://shop.example/ns/sa")) == []


def test_every_fault_has_a_code() -> None:
    with pytest.raises(PolicySetFaults) as raised:
        parse_policy_set(
            [
                SourceFile("m.yaml", joined(MESH, document("Service", "g", "{x: ~, egress: {}}"), rule("r"), A, A)),
                SourceFile("n.yaml", b"x: {"),
            ]
        )
    assert {fault.code for fault in raised.value.faults} == set(FaultCode)


# --- revision


def test_the_revision_is_that_of_the_content() -> None:
    revision = parsed(A, B, rule("r")).revision
    assert parsed(rule("r"), B, A).revision == revision
    assert parsed(A, "# a comment\n" + B, rule("r").replace("[/x]", '["/x", /x]')).revision == revision
    block = "apiVersion: authz/v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  identities:\n    - 'spiffe://shop.example/a'\n"
    assert parsed(block, B, rule("r")).revision == revision
    test = "{now: 2026-01-01T00:00:00Z, cases: [{name: x, call: {to: a, method: GET, path: /}, expect: deny}]}"
    assert parsed(A, B, rule("r"), document("PolicyTest", "t", test)).revision == revision


def test_the_revision_changes_with_the_content() -> None:
    revisions = {
        parsed(A, B, rule("r")).revision,
        parsed(A, B, rule("q")).revision,
        parsed(A, B, rule("r", operations="all")).revision,
        parsed(A, B, rule("r", more=", window: {opens: 2026-01-01T00:00:00Z}")).revision,
        parsed(A, B, rule("r", metadata=", owner: x")).revision,
        parsed(A, B).revision,
    }
    assert len(revisions) == 6


def test_which_trust_domain_comes_first_is_part_of_the_revision() -> None:
    sets = [
        document("Mesh", "m", f"{{trustDomains: [{each}]}}")
        for each in ("a.b, c.d, e.f", "c.d, a.b, e.f", "a.b, e.f, c.d")
    ]
    first, second, third = (parse_policy_set([SourceFile("m", each.encode())]).revision for each in sets)
    assert first == third != second
