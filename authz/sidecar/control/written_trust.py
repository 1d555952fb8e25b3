"""Whom workers trust is what control has found out last: from files, or from whoever delivers the SVID."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz.identity.spiffe_id import TrustDomain
    from authz.identity.trust import Trust
    from authz.sidecar.trust_page import TrustPage

_log = logging.getLogger(__name__)


class WrittenTrust:
    """Puts bundles into the page, and says once which of them found no room."""

    def __init__(self, page: TrustPage) -> None:
        self._page = page
        self._written: Trust | None = None
        self._left_out: tuple[TrustDomain, ...] = ()

    def write(self, trust: Trust) -> None:
        """Have workers trust these bundles from their next call on; the same object again costs nothing."""
        if trust is self._written:
            return
        left_out = self._page.write(trust)
        self._written = trust
        for trust_domain in left_out:
            if trust_domain not in self._left_out:
                _log.error("the bundle of `%s` finds no room beside the others, so it is not trusted", trust_domain)
        self._left_out = left_out
