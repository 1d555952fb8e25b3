"""A trust domain that is not ours: its authorities, the bundles that it publishes, and who hears of them here."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509

from authz.identity.authority import Authority
from authz.identity.bundle import Bundle
from authz.identity.spiffe_id import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz.identity.trust import Trust

ACME = TrustDomain.parse("acme.example")
ACME_SERVER = SpiffeId.parse("spiffe://acme.example/bundle-server")
#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 30


def new_authority(trust_domain: TrustDomain = ACME) -> Authority:
    return Authority.generate(trust_domain, datetime.now(UTC), timedelta(days=1))


def bundle_of(
    *authorities: Authority,
    sequence: int | None = None,
    refresh_hint: timedelta | None = None,
    trust_domain: TrustDomain = ACME,
) -> Bundle:
    return Bundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(x509.load_pem_x509_certificate(each.certificate_pem) for each in authorities),
        sequence=sequence,
        refresh_hint=refresh_hint,
    )


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in the place of another, as those do who know that somebody reads it."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


class Heard:
    """What was told of changes: the newest trust, and how often."""

    def __init__(self) -> None:
        self.trust: Trust | None = None
        self.times = 0
        self._told = asyncio.Event()

    def __call__(self, trust: Trust) -> None:
        self.trust = trust
        self.times += 1
        self._told.set()

    async def until(self, holds: Callable[[Trust], bool]) -> Trust:
        """Wait until what was told last is as it should be."""
        async with asyncio.timeout(PATIENCE_S):
            while self.trust is None or not holds(self.trust):
                self._told.clear()
                await self._told.wait()
        return self.trust


def trusts(trust: Trust, *authorities: Authority, trust_domain: TrustDomain = ACME) -> bool:
    """Whether a trust domain's bundle has exactly these authorities; none at all where none are named."""
    bundle = trust.bundle(trust_domain)
    wanted = bundle_of(*authorities, trust_domain=trust_domain)
    if bundle is None:
        return not authorities
    return replace(bundle, sequence=None, refresh_hint=None) == wanted
