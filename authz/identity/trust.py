"""Whom a verifier trusts: for each trust domain the one bundle that speaks for it.

Decides nothing; it keeps bundles apart, so that an SVID is only ever judged by the bundle of its own trust domain.

# INVARIANT (never merged): a trust domain has one bundle, and no bundle speaks for two trust domains.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from authz.identity.bundle import Bundle, BundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from authz.identity.spiffe_id import TrustDomain


@dataclass(frozen=True, slots=True)
class Trust:
    """Bundles by trust domain, own and federated; changed by taking another one in its place."""

    bundles: Mapping[TrustDomain, Bundle]

    def __post_init__(self) -> None:
        # INVARIANT (never merged)
        for trust_domain, bundle in self.bundles.items():
            if bundle.trust_domain != trust_domain:
                raise BundleError(f"the bundle of `{bundle.trust_domain}` does not speak for `{trust_domain}`")
        object.__setattr__(self, "bundles", MappingProxyType(dict(self.bundles)))

    @classmethod
    def of(cls, bundles: Iterable[Bundle]) -> Trust:
        """Take bundles of different trust domains; raises BundleError for two of the same."""
        by_domain: dict[TrustDomain, Bundle] = {}
        for bundle in bundles:
            if by_domain.setdefault(bundle.trust_domain, bundle) is not bundle:
                raise BundleError(f"there are two bundles of `{bundle.trust_domain}`, which are never merged")
        return cls(by_domain)

    def bundle(self, trust_domain: TrustDomain) -> Bundle | None:
        """Give the bundle that speaks for a trust domain, or None: then nothing of it is proven."""
        return self.bundles.get(trust_domain)

    def replace(self, bundle: Bundle) -> Trust:
        """Give the same trust with this bundle for its trust domain, in the place of one that was there."""
        return Trust({**self.bundles, bundle.trust_domain: bundle})

    def without(self, trust_domain: TrustDomain) -> Trust:
        """Give the same trust without anything for this trust domain."""
        return Trust({domain: bundle for domain, bundle in self.bundles.items() if domain != trust_domain})

    def __iter__(self) -> Iterator[Bundle]:
        return iter(self.bundles.values())

    def __len__(self) -> int:
        return len(self.bundles)
