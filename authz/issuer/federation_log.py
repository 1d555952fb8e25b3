"""What the issuer's log says of federated bundles: which one is in force, each time that it is another one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.federation.followed_bundle import FederationStatus, Origin
    from authz.identity.spiffe_id import TrustDomain

_log = logging.getLogger(__name__)


class FederationLog:
    """Is told how it stands whenever there is something to report; errors are said by who finds them."""

    def __init__(self) -> None:
        self._said: dict[TrustDomain, tuple[Origin | None, int | None]] = {}

    def report(self, status: Iterable[FederationStatus]) -> None:
        """Say what is another bundle than before; a trust domain that is not among them has ended."""
        before, self._said = self._said, {one.trust_domain: (one.origin, one.sequence) for one in status}
        for trust_domain, (origin, sequence) in self._said.items():
            if before.get(trust_domain) == (origin, sequence):
                continue
            if origin is None:
                _log.warning("there is no bundle of `%s`: workloads are given none, and believe nobody", trust_domain)
            else:
                _log.info("the bundle of `%s` is that of the %s, sequence %s", trust_domain, origin.value, sequence)
