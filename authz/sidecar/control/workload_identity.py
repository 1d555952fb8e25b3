"""Which identity a workload has now, and whom it trusts: from what its source says and what the policies say.

Decides, and does nothing: who is told (`changed`) writes the workers' pages, serves SDS, keeps files and says it. It
belongs to control's main loop and has no thread.

- Of several SVIDs the first one whose ID is an identity of the Service is the workload's; where none is, it has none.
- A source that cannot be reached, or that sends what cannot be used, leaves the last SVID and bundles, `stale`, until
  the SVID ends. A source that says the workload has nothing (PermissionDenied) is believed at once.
- For the Mesh's own trust domains the source's bundles are believed. For a federated one, which only the set's
  `federates` can name, the source's bundle is, and where it has none that of the federation's own endpoint or file.

# INVARIANT (never merged): the bundle of a trust domain has one origin for each kind of SVID.
# INVARIANT (not beyond): after the end of the SVID nothing is presented and nobody is trusted.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from authz.identity.bundle import Bundle
from authz.identity.trust import Trust
from authz.instant import rfc3339_from_ns
from authz.sidecar.own_policy import OwnPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.identity.held_svid import HeldSvid
    from authz.identity.spiffe_id import TrustDomain
    from authz.workload_api.received import ReceivedJwtBundles, ReceivedX509

_log = logging.getLogger(__name__)

_NOBODY = Trust.of(())


class Standing(Enum):
    """How it stands with the identity."""

    #: it is not known yet: the source or the policies have said nothing; what an earlier control has said holds
    WAITING = "waiting"
    HELD = "held"
    EXPIRED = "expired"
    #: the source has no identity for the workload, or none that is the Service's
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityNow:
    """What holds now: `held` is None where there is nothing to present.

    `last` is the SVID that was held last, for people. `stale`: the source says nothing new. `fault` says what is wrong.
    """

    standing: Standing
    held: HeldSvid | None = None
    trust: Trust = _NOBODY
    last: HeldSvid | None = None
    stale: bool = False
    fault: str | None = None


class WorkloadIdentity:
    """Takes what source, policies and federation say, and tells of each change; `look` is called now and then."""

    def __init__(self, *, changed: Callable[[IdentityNow], None], clock: Callable[[], int] = time.time_ns) -> None:
        self._tell = changed
        self._clock = clock
        self._x509: ReceivedX509 | None = None
        self._jwt = _NOBODY
        self._federated = _NOBODY
        self._policy = OwnPolicy()
        self._x509_fault: str | None = "the source of the identity has not answered yet"
        self._stale = True
        self._jwt_fault: str | None = None
        #: since when it says nothing, by the clock that nobody sets
        self._heard_s = time.monotonic()
        self.now = IdentityNow(standing=Standing.WAITING, fault=self._x509_fault, stale=True)

    # --- what is said

    def received_x509(self, received: ReceivedX509) -> None:
        """Take what the source says of X.509 now, in the place of what it said before."""
        self._x509, self._x509_fault, self._stale = received, None, False
        self.look()

    def received_jwt_bundles(self, received: ReceivedJwtBundles) -> None:
        """Take the keys of JWT-SVIDs."""
        self._jwt, self._jwt_fault = received.trust, "; ".join(received.faults) or None
        self.look()

    def withdrawn(self, why: str) -> None:
        """Take in that the source has no identity for the workload."""
        self._x509, self._x509_fault, self._stale = None, why, False
        self.look()

    def jwt_withdrawn(self, why: str | None) -> None:
        """Take in that the source has no keys of JWT-SVIDs for the workload."""
        self._jwt, self._jwt_fault = _NOBODY, why
        self.look()

    def faulty(self, why: str) -> None:
        """Take in that the source says nothing new, or nothing that can be used."""
        if not self._stale:
            self._heard_s = time.monotonic()
        self._x509_fault, self._stale = why, True
        self.look()

    def policy(self, policy: OwnPolicy) -> None:
        """Take what the set in force says."""
        self._policy = policy
        self.look()

    def federated(self, trust: Trust) -> None:
        """Take the bundles that the federations' own endpoints and files have."""
        self._federated = trust
        self.look()

    # --- what follows from it

    @property
    def lag_s(self) -> float:
        """How long the source has said nothing while it should; 0 while it can be heard."""
        return time.monotonic() - self._heard_s if self._stale else 0.0

    def look(self) -> None:
        """Work out what holds now, and tell where it is something else than before."""
        before, now = self.now, self._worked_out()
        if now == before:
            return
        self.now = now
        if now.fault is None:
            if before.stale:
                _log.info("the source of the identity is heard")
        elif now.fault != before.fault and (self._stale or self._policy.identities):  # the first set is to come yet
            _log.error("%s", now.fault)
        if now.held is not None and now.held != before.held:
            end = rfc3339_from_ns(now.held.svid.not_after_ns)
            _log.info("this workload is `%s`, serial %s, until %s", now.held.spiffe_id, now.held.svid.serial, end)
        self._tell(now)

    def _worked_out(self) -> IdentityNow:
        received, last = self._x509, self.now.last
        if received is None:
            standing = Standing.WAITING if self._stale else Standing.NONE
            return IdentityNow(standing=standing, last=last, stale=self._stale, fault=self._x509_fault)
        if not self._policy.identities:
            why = "no set is in force that says which SVID is this Service's"
            return IdentityNow(standing=Standing.WAITING, last=last, stale=self._stale, fault=why)
        held = next((one for one in received.svids if self._policy.owns(one.spiffe_id)), None)
        if held is None:
            names = ", ".join(f"`{one.spiffe_id}`" for one in received.svids)
            why = f"none of the Service's identities is among those of its source: {names}"
            return IdentityNow(standing=Standing.NONE, last=last, stale=self._stale, fault=why)
        fault = "; ".join(filter(None, [self._x509_fault, *received.faults, self._jwt_fault])) or None
        now = IdentityNow(standing=Standing.EXPIRED, last=held, stale=self._stale, fault=fault)
        # Both ends belong to the validity (RFC 5280 4.1.2.5). INVARIANT (not beyond) is this one line.
        if self._clock() > held.svid.not_after_ns:
            ended = f"the SVID has expired at {rfc3339_from_ns(held.svid.not_after_ns)}"
            return replace(now, fault=f"{ended}; {fault}" if fault else ended)
        trust = trusted(self._policy, x509=received.trust, jwt=self._jwt, federated=self._federated)
        return replace(now, standing=Standing.HELD, held=held, trust=trust)


def trusted(policy: OwnPolicy, *, x509: Trust, jwt: Trust = _NOBODY, federated: Trust = _NOBODY) -> Trust:
    """Give whom a workload trusts, of what its source says (`x509`, `jwt`) and what federations say."""
    federates = [one.trust_domain for one in policy.federates]
    bundles = [
        *(_one(domain, x509, jwt) for domain in policy.trust_domains),
        *(_one(domain, x509, jwt) or federated.bundle(domain) for domain in federates),
    ]
    return Trust.of(bundle for bundle in bundles if bundle is not None)


def _one(domain: TrustDomain, x509: Trust, jwt: Trust) -> Bundle | None:
    """Give what a source says of a trust domain, in its two profiles."""
    of_x509, of_jwt = x509.bundle(domain), jwt.bundle(domain)
    if of_x509 is None and of_jwt is None:
        return None
    return Bundle(
        trust_domain=domain,
        x509_authorities=() if of_x509 is None else of_x509.x509_authorities,
        jwt_authorities={} if of_jwt is None else of_jwt.jwt_authorities,
    )
