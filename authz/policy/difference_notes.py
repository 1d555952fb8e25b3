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
    from authz.policy.schema import Mesh, Service


def difference_notes(old: PolicySet, new: PolicySet) -> Iterator[str]:
    """Give a sentence for each such difference."""
    yield from _serials(old.mesh, new.mesh)
    yield from _authorities(old.mesh, new.mesh)
    before = {service.name: service for service in old.services}
    for service in new.services:
        if service.name in before:
            yield from _evidence(before[service.name], service)


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


def _evidence(old: Service, new: Service) -> Iterator[str]:
    had, has = Evidence.JWT_SVID in old.accepts, Evidence.JWT_SVID in new.accepts
    if had is not has:
        what = "counts from now on" if has else "does not count any more"
        yield f"{quoted(new.name)}: a JWT-SVID as the proof of a caller {what} (`accepts`)"
    elif has and _audience(old) != _audience(new):
        before, after = quoted(_audience(old)), quoted(_audience(new))
        yield f"{quoted(new.name)}: JWT-SVIDs must be for {after}, and had to be for {before}"


def _audience(service: Service) -> str:
    """Give its first exact identity, which tokens must be for."""
    return next((str(each) for each in service.identities if each.exact is not None), "nobody")
