"""Which Service has which SPIFFE IDs, and what a workload must be to get them: the policy set, as the issuer reads it.

Decides nothing about who asks. Registered are the exact identities of Services in own trust domains, without those that
the Mesh has revoked; a pattern names no ID that could be issued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.identity.spiffe_id import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.identity.spiffe_id import TrustDomain
    from authz.policy.evidence_fields import Attestation
    from authz.policy.policy_set import PolicySet
    from authz.policy.schema import Federation


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A Service with the SPIFFE IDs that its workloads get; `attest` is empty where nothing is said of them."""

    service: str
    identities: tuple[SpiffeId, ...]
    attest: tuple[Attestation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """All registrations of one revision of the policy set, by name; only Services that have an ID to be issued."""

    revision: str
    trust_domains: tuple[TrustDomain, ...]
    registrations: Mapping[str, Registration]
    revoked: frozenset[SpiffeId]
    federates: tuple[Federation, ...]


def registry_of(policy_set: PolicySet) -> Registry:
    """Read the registrations of a policy set."""
    revoked = frozenset(each for each in policy_set.mesh.revoked if isinstance(each, SpiffeId))
    registrations = {}
    for service in policy_set.services:
        exact = (entry.exact for entry in service.identities)
        identities = tuple(
            each
            for each in exact
            if each is not None and each.trust_domain in policy_set.mesh.trust_domains and each not in revoked
        )
        if identities:
            registrations[service.name] = Registration(
                service=service.name, identities=identities, attest=tuple(service.attest)
            )
    return Registry(
        revision=policy_set.revision,
        trust_domains=tuple(policy_set.mesh.trust_domains),
        registrations=registrations,
        revoked=revoked,
        federates=tuple(policy_set.mesh.federates),
    )
