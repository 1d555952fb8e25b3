"""What two sets say differently that no example of a call stands for: it is told in words.

Before a call is asked about, its caller has been verified. Which proofs are taken for that is said in the set, too, and
a call has only what came of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.policy.errors import quoted
from authz.policy.revocation import RevokedSerial
from authz.policy.schema_fields import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.policy.policy_set import PolicySet
    from authz.policy.schema import Mesh, Service, ThirdParty


def difference_notes(old: PolicySet, new: PolicySet) -> Iterator[str]:
    """Give a sentence for each such difference."""
    yield from _serials(old.mesh, new.mesh)
    yield from _authorities(old.mesh, new.mesh)
    services = {service.name: service for service in old.services}
    for service in new.services:
        if service.name in services:
            yield from _tokens(services[service.name], service)
    third_parties = {third_party.name: third_party for third_party in old.third_parties}
    for third_party in new.third_parties:
        if third_party.name in third_parties:
            yield from _certificates(third_parties[third_party.name], third_party)


def _serials(old: Mesh, new: Mesh) -> Iterator[str]:
    before, after = ({each for each in mesh.revoked if isinstance(each, RevokedSerial)} for mesh in (old, new))
    for becomes, revoked in (("becomes denied", after - before), ("is no longer denied", before - after)):
        for each in sorted(revoked, key=lambda one: (one.trust_domain.name, one.serial)):
            serial = quoted(f"serial:{each.trust_domain}/{each.serial}")
            yield f"every call with the certificate {serial} {becomes} because of it (`revoked` of the Mesh)"


def _authorities(old: Mesh, new: Mesh) -> Iterator[str]:
    before = {each.trust_domain: each for each in old.federates}
    for each in new.federates:
        if each.trust_domain in before and before[each.trust_domain] != each:
            domain = quoted(each.trust_domain.name)
            yield f"who is of the trust domain {domain} is proven by other authorities (`federates` of the Mesh)"


def _tokens(old: Service, new: Service) -> Iterator[str]:
    """Tell whom tokens must be for, where both take some: which calls have them is compared."""
    before, after = (quoted(_audience(each)) for each in (old, new))
    if all(Evidence.JWT_SVID in each.accepts for each in (old, new)) and before != after:
        yield f"{quoted(new.name)}: JWT-SVIDs must be for {after}, and had to be for {before}"


def _certificates(old: ThirdParty, new: ThirdParty) -> Iterator[str]:
    """Tell which certificates prove a caller, where some do in both: that none do any more is compared."""
    before, after = (
        {(each.authority, name) for each in third_party.certificates for name in (*each.dns, *each.uri)}
        for third_party in (old, new)
    )
    if before and after and before != after:
        yield f"other certificates prove that {quoted(new.name)} calls (`certificates`)"


def _audience(service: Service) -> str:
    """Give its first exact identity, which tokens must be for."""
    return next((str(each) for each in service.identities if each.exact is not None), "nobody")
