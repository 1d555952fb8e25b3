"""Generated policy sets with something changed, in every way that the language has."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeAlias

from authz.policy.route import PathShape
from tests.support.generated_sets import GeneratedSet

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

_Documents: TypeAlias = "list[dict[str, Any]]"


def altered(made: GeneratedSet, random: Random) -> _Documents:
    """Give the documents with one to three changes; the set that comes of it may have faults."""
    documents = deepcopy(made.documents)
    for _ in range(random.randint(1, 3)):
        random.choice(_CHANGES)(documents, random)
    return documents


def _of(documents: _Documents, *kinds: str) -> _Documents:
    return [each for each in documents if each["kind"] in kinds]


def _removed(documents: _Documents, random: Random) -> None:
    if len(documents) > 2:
        del documents[random.randrange(1, len(documents))]


def _replaced(documents: _Documents, random: Random) -> None:
    number = random.randrange(1, len(documents))
    others = _of(GeneratedSet(random).documents, documents[number]["kind"])
    if others:
        documents[number] = {**random.choice(others), "metadata": documents[number]["metadata"]}


def _one_field(documents: _Documents, random: Random) -> None:
    document = random.choice(documents[1:])
    others = _of(GeneratedSet(random).documents, document["kind"])
    if others:
        other = random.choice(others)["spec"]
        field = random.choice(sorted(other))
        document["spec"][field] = other[field]


def _revoked(documents: _Documents, random: Random) -> None:
    texts = [text for each in _of(documents, "Service") for text in each["spec"]["identities"] if "*" not in text]
    found = random.choice(texts or ["spiffe://o.example/a"])
    documents[0]["spec"]["revoked"] = random.choice(([found], ["serial:o.example/12"], [found, "serial:o.example/ABC"]))


def _trust_domains(documents: _Documents, _: Random) -> None:
    if len(documents[0]["spec"]["trustDomains"]) > 1:
        documents[0]["spec"]["trustDomains"].pop()


def _path_shapes(documents: _Documents, random: Random) -> None:
    chosen = random.sample([str(shape) for shape in PathShape], random.randint(0, 3))
    for party in _of(documents, "Service", "ThirdParty")[:2]:
        party["spec"].pop("paths", None)
        party["spec"] |= {"paths": {"allow": chosen}} if chosen else {}


def _commissioned(documents: _Documents, random: Random) -> None:
    for party in _of(documents, "ThirdParty")[:1]:
        closes = random.choice(("2026-01-05T00:00:00Z", "2030-01-01T00:00:00Z"))
        party["spec"]["window"] = {"opens": "2026-01-02T00:00:00Z", "closes": closes}


def _default_mode(documents: _Documents, random: Random) -> None:
    documents[0]["spec"]["defaults"] = {"mode": random.choice(("observe", "enforce"))}


def _owner_of_an_identity(documents: _Documents, random: Random) -> None:
    having = [each for each in _of(documents, "Service") if len(each["spec"]["identities"]) > 1]
    others = [each for each in _of(documents, "Service") if each not in having]
    if having and others:
        random.choice(others)["spec"]["identities"].append(random.choice(having)["spec"]["identities"].pop())


def _version_of_tls(documents: _Documents, random: Random) -> None:
    for party in _of(documents, "ThirdParty"):
        party["spec"]["tls"] = random.choice(("TLSv1_2", "TLSv1_3"))


def _evidence(documents: _Documents, random: Random) -> None:
    """Change what proves a caller, who presents tokens, and where tunnels lead."""
    others = GeneratedSet(random, evidence=1).documents
    for kind, fields in (("Service", ("accepts", "forwarders", "egress")), ("ThirdParty", ("certificates",))):
        party, other = (random.choice(_of(each, kind) or [{"spec": {}}])["spec"] for each in (documents, others))
        field = random.choice(fields)
        if field in other:
            party[field] = other[field]
        elif len(party.keys() & {"identities", "hosts"}) > 0:
            party.pop(field, None)


_CHANGES: tuple[Callable[[_Documents, Random], None], ...] = (
    _removed,
    _replaced,
    _replaced,
    _one_field,
    _one_field,
    _one_field,
    _revoked,
    _trust_domains,
    _path_shapes,
    _commissioned,
    _default_mode,
    _owner_of_an_identity,
    _version_of_tls,
    _evidence,
    _evidence,
)
