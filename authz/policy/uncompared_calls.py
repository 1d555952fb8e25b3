"""The calls that no class of a comparison of two sets stands for: whose caller is no SVID's, and opaque tunnels.

Told where the sets have such calls and say different things at all; whether these calls change is not looked into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.policy.errors import quoted
from authz.policy.schema import Kind
from authz.policy.schema_fields import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.policy.policy_set import PolicySet


def uncompared_notes(old: PolicySet, new: PolicySet) -> Iterator[str]:
    """Name the ThirdParties and Services whose calls are not compared, if the sets say different things."""
    if _said(old) == _said(new):
        return
    both = (old, new)
    certified = {each.name for side in both for each in side.third_parties if each.certificates}
    accepting = {each.name for side in both for each in side.services if Evidence.JWT_SVID in each.accepts}
    tunnelling = {each.name for side in both for each in side.services if each.egress is not None}
    if certified:
        yield f"not compared: calls that certificates without SPIFFE ID prove, of {_named(certified)}"
    if accepting:
        yield f"not compared: calls with JWT-SVIDs, to {_named(accepting)}"
    if tunnelling:
        yield f"not compared: opaque tunnels (CONNECT), of {_named(tunnelling)}"


def _named(names: set[str]) -> str:
    return ", ".join(quoted(name) for name in sorted(names))


def _said(policy_set: PolicySet) -> frozenset[tuple[Kind, str, str]]:
    """Give what decides calls: all specs, with the names of those who call and are called."""
    parties = {Kind.SERVICE, Kind.THIRD_PARTY}
    return frozenset(
        (kind, name if kind in parties else "", repr(document.node("spec").value))
        for (kind, name), document in policy_set.documents.items()
        if kind is not Kind.POLICY_TEST
    )
