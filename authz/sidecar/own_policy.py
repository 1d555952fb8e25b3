"""What the set in force says of a sidecar's own identity and trust: which SVID is its, and whose SVIDs it believes.

It travels from the compiler, which has read the policies, over the supervisor to control, which has not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from authz.federation.relationship import Relationship, relationships
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy.identity_pattern import IdentityPattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.policy.policy_set import PolicySet

#: A message between processes has room for so much of each list: what goes beyond it is not believed.
MAX_LISTED_CHARACTERS: Final = 40_000

#: as it stands in a message: JSON
Fields = dict[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPolicy:
    """`identities` are the Service's; `trust_domains` are the own ones, the local one first; `federates` the others.

    `authorities` are the files that ThirdParties' `certificates` name, as they are compared (`authority_file`).
    """

    identities: tuple[IdentityPattern, ...] = ()
    trust_domains: tuple[TrustDomain, ...] = ()
    federates: tuple[Relationship, ...] = ()
    authorities: tuple[str, ...] = ()

    def owns(self, spiffe_id: SpiffeId) -> bool:
        """Whether an ID is one of the Service's."""
        return any(pattern.matches(spiffe_id) for pattern in self.identities)

    @classmethod
    def of(cls, policy_set: PolicySet, service: str, folder: str) -> OwnPolicy:
        """Give what the set of a folder says of a Service's own."""
        return cls(
            identities=next((tuple(one.identities) for one in policy_set.services if one.name == service), ()),
            trust_domains=tuple(policy_set.mesh.trust_domains),
            federates=relationships(policy_set.mesh.federations, folder),
            authorities=tuple(
                sorted({entry.authority_file for one in policy_set.third_parties for entry in one.certificates})
            ),
        )

    def as_fields(self) -> Fields:
        """Give it for a message, as far as there is room; :meth:`from_fields` reads it again."""
        return {
            "identities": _listed([str(one) for one in self.identities]),
            "trust_domains": _listed([str(one) for one in self.trust_domains]),
            "federates": _listed([one.as_fields() for one in self.federates]),
            "authorities": _listed(list(self.authorities), MAX_LISTED_CHARACTERS // 4),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> OwnPolicy:
        """Read what :meth:`as_fields` gave; nothing where there is no set."""
        return cls(
            identities=tuple(map(IdentityPattern.parse, fields.get("identities", ()))),
            trust_domains=tuple(map(TrustDomain.parse, fields.get("trust_domains", ()))),
            federates=tuple(map(Relationship.from_fields, fields.get("federates", ()))),
            authorities=tuple(fields.get("authorities", ())),
        )


def _listed(values: list[_T], room: int = MAX_LISTED_CHARACTERS) -> list[_T]:
    """Give as many as there is room for."""
    for number, value in enumerate(values):
        room -= len(json.dumps(value))
        if room < 0:
            return values[:number]
    return values
