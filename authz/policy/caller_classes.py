"""The callers that two policy sets can tell apart, by one example of each.

Whatever a set says of callers, it says by patterns of SPIFFE IDs, and by whose an ID is. So the callers fall into
finitely many classes that neither set can take apart. Whoever a certificate without SPIFFE ID proves is one more.

# INVARIANT (complete): if the two sets answer some caller differently, they do so for the example of its class; serial
# numbers of certificates aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.decision import Reason
from authz.identity.spiffe_id import SpiffeId
from authz.policy.identity_pattern import ANY_SEGMENT, ANY_SEGMENTS, IdentityPattern
from authz.policy.revocation import RevokedSerial
from authz.policy.segment_partition import Alphabet, segment_classes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from authz.identity.spiffe_id import TrustDomain
    from authz.policy.index import PolicyIndex
    from authz.policy.party import Party
    from authz.policy.policy_set import PolicySet

_IDENTITIES: Final = Alphabet(any_segment=ANY_SEGMENT, rest=ANY_SEGMENTS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownCaller:
    """Who a caller is in one set: whom it belongs to, or why it is refused before any rule is looked at."""

    owner: Party | None
    refused: Reason | None

    @property
    def name(self) -> str | None:
        """The name of the Service or ThirdParty."""
        return None if self.owner is None else self.owner.name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallerClass:
    """The SPIFFE IDs that exactly these patterns match, and who they are in either set.

    Or, without an ID, whoever is proven as `third_party` by a certificate. `another` is a second ID of the class, for
    whoever presents the first one's token; None where there is none, or where nobody presents tokens.
    """

    example: SpiffeId | None
    another: SpiffeId | None = None
    third_party: str | None = None
    patterns: frozenset[IdentityPattern]
    old: KnownCaller
    new: KnownCaller

    @property
    def identity(self) -> str:
        """What stands for these callers: the most specific of the patterns."""
        if self.example is None:
            return "by certificate"
        if not self.patterns:
            return f"any other workload of {self.example.trust_domain}"
        return str(min(self.patterns, key=lambda each: (each.exact is None, -each.literals, str(each))))

    @property
    def is_refused(self) -> bool:
        """Whether both sets refuse it, whatever it asks for."""
        return self.old.refused is not None and self.new.refused is not None

    @property
    def has_no_sidecar(self) -> bool:
        """Whether it is a ThirdParty, and no Service: then nobody of ours stands beside it."""
        owners = [each for each in (self.old.owner, self.new.owner) if each is not None]
        return bool(owners) and not any(each.is_service for each in owners)


def caller_classes(old: PolicySet, new: PolicySet, old_index: PolicyIndex, new_index: PolicyIndex) -> list[CallerClass]:
    """Give the classes of callers that the two sets can tell apart, of all trust domains that either names."""
    by_domain: dict[TrustDomain, set[IdentityPattern]] = {}
    for domain in (*old.mesh.trust_domains, *new.mesh.trust_domains):
        by_domain[domain] = set()
    for pattern in (*_identity_patterns(old), *_identity_patterns(new)):
        by_domain.setdefault(pattern.trust_domain, set()).add(pattern)
    presented = any(service.forwarders for service in (*old.services, *new.services))
    found = []
    for domain in sorted(by_domain, key=lambda each: each.name):
        for patterns, example, another in _identities(domain, by_domain[domain], presented=presented):
            found.append(
                CallerClass(
                    example=example,
                    another=another,
                    patterns=patterns,
                    old=_known(old_index, example),
                    new=_known(new_index, example),
                )
            )
    certified = {each.name for each in (*old.third_parties, *new.third_parties) if each.certificates}
    return found + [
        CallerClass(
            example=None,
            third_party=name,
            patterns=frozenset(),
            old=_certified(old_index, name),
            new=_certified(new_index, name),
        )
        for name in sorted(certified)
    ]


def _identities(
    domain: TrustDomain, patterns: Iterable[IdentityPattern], *, presented: bool
) -> Iterator[tuple[frozenset[IdentityPattern], SpiffeId, SpiffeId | None]]:
    """Give the classes of a domain's IDs with one example of each, and with another one where there is one."""
    ordered = sorted(patterns, key=str)
    known = [(pattern.segments, pattern) for pattern in ordered]
    written = {segment for pattern in ordered for segment in pattern.segments}
    first: dict[frozenset[IdentityPattern], tuple[str, ...]] = {}
    other: dict[frozenset[IdentityPattern], tuple[str, ...]] = {}
    for each in segment_classes(known, _IDENTITIES, unmatched=True, free=presented):
        first.setdefault(each.matched, each.example)
        if presented and ANY_SEGMENT in each.shape:
            free = each.shape.index(ANY_SEGMENT)
            other[each.matched] = (*each.example[:free], _fresh({*written, *each.example}), *each.example[free + 1 :])
    for matched, example in first.items():
        another = other.get(matched)
        yield matched, _id(domain, example), None if another is None else _id(domain, another)


def _fresh(taken: Collection[str]) -> str:
    text = "another"
    while text in taken:
        text += "-one"
    return text


def _id(domain: TrustDomain, segments: Sequence[str]) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://{domain}/{'/'.join(segments)}")


def _certified(index: PolicyIndex, name: str) -> KnownCaller:
    owner = index.certified(name)
    return KnownCaller(owner=owner, refused=Reason.UNIDENTIFIED if owner is None else None)


def _known(index: PolicyIndex, example: SpiffeId) -> KnownCaller:
    owner = index.owner(example)
    refused = None
    if index.is_revoked(example, None):
        refused = Reason.UNIDENTIFIED
    elif owner is None and example.trust_domain not in index.trust_domains:
        refused = Reason.UNTRUSTED
    return KnownCaller(owner=owner, refused=refused)


def _identity_patterns(policy_set: PolicySet) -> Iterator[IdentityPattern]:
    for party in policy_set.parties:
        yield from party.identities
    froms = [rule.callers for rule in policy_set.micro_policies]
    for callers in (*froms, *(guardrail.callers or () for guardrail in policy_set.guardrails)):
        for selector in callers:
            yield from selector.identities
    for revoked in policy_set.mesh.revoked:
        if not isinstance(revoked, RevokedSerial):
            yield IdentityPattern.parse(str(revoked))
