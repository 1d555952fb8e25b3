"""What the issuer has and says at one time: authorities, registrations and foreign bundles, and when they change.

Belongs to one event loop. Everything that streams waits for :attr:`Issuance.change`, which is set once, at the next
change, and then is another event.

# INVARIANT (kept before it counts): an authority is on disk before anything of it is published or signed.
# INVARIANT (named only): of foreign trust domains only those that the policy set federates are passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from authz.errors import AuthzError
from authz.identity.authority import Authority
from authz.identity.authority_rotation import RotatingAuthority
from authz.identity.errors import AuthorityError
from authz.identity.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz.identity.authority import IssuedSvid
    from authz.identity.authority_rotation import RotationPlan
    from authz.identity.jwt_authority import IssuedJwtSvid
    from authz.identity.spiffe_id import SpiffeId, TrustDomain
    from authz.identity.upstream_authority import UpstreamAuthority
    from authz.issuer.registration import Registry

_log = logging.getLogger(__name__)

#: how long it waits at most before it looks at the clock again, which may have been set, or have stood still, meanwhile
LONGEST_WAIT_S: Final = 30.0
#: after a failure: a full disk, an upstream root that has ended
_RETRY_S: Final = 5.0


class Keys(Protocol):
    """Where authorities are kept."""

    def kept(self, trust_domain: TrustDomain, plan: RotationPlan) -> RotatingAuthority | None:
        """Give what is kept of a trust domain, None if nothing is."""

    def keep(self, authority: RotatingAuthority) -> None:
        """Keep an authority; returns when it is safe."""


class InMemory:
    """Keeps nothing: keys end with the process, and everything that they signed stops being trusted."""

    def kept(self, _trust_domain: TrustDomain, _plan: RotationPlan) -> RotatingAuthority | None:
        """Give nothing."""
        return None

    def keep(self, _authority: RotatingAuthority) -> None:
        """Do nothing."""


def wall_clock() -> datetime:
    """Read the clock that SVIDs are judged by."""
    return datetime.now(UTC)


class Issuance:
    """Begins with a registry; needs a running loop. Raises an AuthzError where an authority cannot be had."""

    def __init__(
        self,
        registry: Registry,
        *,
        plan: RotationPlan,
        keys: Keys,
        upstream: UpstreamAuthority | None,
        svid_lifetime: timedelta,
        jwt_lifetime: timedelta,
        clock: Callable[[], datetime] = wall_clock,
    ) -> None:
        self._plan = plan
        self._keys = keys
        self._upstream = upstream
        self._svid_lifetime = svid_lifetime
        self._jwt_lifetime = jwt_lifetime
        self.clock = clock
        self._authorities: dict[TrustDomain, RotatingAuthority] = {}
        self._federated = Trust.of(())
        self._change = asyncio.Event()
        self._registry = registry
        self._take_authorities(registry)

    @property
    def registry(self) -> Registry:
        """The registrations in force."""
        return self._registry

    @property
    def change(self) -> asyncio.Event:
        """The event of the next change; take it before reading anything else, so that none is missed."""
        return self._change

    @property
    def own(self) -> Trust:
        """The bundles of the own trust domains."""
        return Trust.of(self._authorities[each].bundle for each in self._registry.trust_domains)

    @property
    def trust(self) -> Trust:
        """Every bundle that a workload gets: own ones, and those of the trust domains that the policy set federates."""
        trust = self.own
        for federation in self._registry.federates:
            bundle = self._federated.bundle(federation.trust_domain)
            # INVARIANT (named only); nobody else speaks for an own trust domain
            if bundle is not None and trust.bundle(bundle.trust_domain) is None:
                trust = trust.replace(bundle)
        return trust

    def changed(self) -> None:
        """Wake up all that waits for a change."""
        self._change.set()
        self._change = asyncio.Event()

    def take_registry(self, registry: Registry) -> None:
        """Have other registrations in force from now on; raises AuthzError, and then nothing has changed."""
        self._take_authorities(registry)
        self._registry = registry
        self.changed()

    def take_federated(self, trust: Trust) -> None:
        """Have other foreign bundles from now on."""
        self._federated = trust
        self.changed()

    def issue_x509_svid(self, spiffe_id: SpiffeId) -> IssuedSvid:
        """Issue an X.509-SVID with a new key; raises AuthorityError."""
        return self._authority(spiffe_id).issue_x509_svid(spiffe_id, self.clock(), self._svid_lifetime)

    def issue_jwt_svid(self, spiffe_id: SpiffeId, audience: Sequence[str]) -> IssuedJwtSvid:
        """Issue a JWT-SVID; raises AuthorityError."""
        return self._authority(spiffe_id).issue_jwt_svid(spiffe_id, audience, self.clock(), self._jwt_lifetime)

    async def run(self) -> None:
        """Replace the authorities in time, until cancelled."""
        while True:
            change = self._change
            wait_s = self._advance()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(change.wait(), wait_s)

    def _authority(self, spiffe_id: SpiffeId) -> Authority:
        rotating = self._authorities.get(spiffe_id.trust_domain)
        if rotating is None or spiffe_id.trust_domain not in self._registry.trust_domains:
            raise AuthorityError(f"`{spiffe_id.trust_domain}` is no trust domain of ours")
        return rotating.current

    def _advance(self) -> float:
        """Replace what it is time to replace, and give how many seconds to wait until the next look."""
        now = self.clock()
        try:
            moved = [self._advanced(each, now) for each in self._registry.trust_domains]
        except AuthzError as error:
            _log.error("an authority is not replaced in time: %s; trying again in %d s", error, _RETRY_S)
            return _RETRY_S
        if any(moved):
            self.changed()
            return 0.0
        soonest = min(self._authorities[each].next_change() for each in self._registry.trust_domains)
        return max(0.0, min((soonest - now).total_seconds(), LONGEST_WAIT_S))

    def _advanced(self, trust_domain: TrustDomain, now: datetime) -> bool:
        before = self._authorities[trust_domain]
        after = before.advanced(now, lambda at: self._generate(trust_domain, at))
        if after is before:
            return False
        self._put(after)
        _log.info("the authorities of `%s` have changed: sequence %d", trust_domain, after.sequence)
        return True

    def _put(self, authority: RotatingAuthority) -> None:
        self._keys.keep(authority)  # INVARIANT (kept before it counts)
        self._authorities[authority.trust_domain] = authority

    def _take_authorities(self, registry: Registry) -> None:
        """Have an authority for every trust domain of a registry."""
        now = self.clock()
        for trust_domain in registry.trust_domains:
            if trust_domain in self._authorities:
                continue

            def generate(at: datetime, trust_domain: TrustDomain = trust_domain) -> Authority:
                return self._generate(trust_domain, at)

            kept = self._keys.kept(trust_domain, self._plan)
            if kept is None:
                self._put(RotatingAuthority.begin(self._plan, now, generate))
                continue
            authority = kept.advanced(now, generate)
            if not self._is_below_our_root(authority):
                # Another root than it was kept with: the next authority is one below it, as soon as everybody knows it.
                authority = authority.prepare(now, generate)
            if authority is not kept:
                self._keys.keep(authority)
            self._authorities[trust_domain] = authority

    def _is_below_our_root(self, authority: RotatingAuthority) -> bool:
        newest = authority.current if authority.prepared is None else authority.prepared
        return newest.is_its_own_root if self._upstream is None else newest.root == self._upstream.certificate

    def _generate(self, trust_domain: TrustDomain, now: datetime) -> Authority:
        return Authority.generate(trust_domain, now, self._plan.lifetime, upstream=self._upstream)
