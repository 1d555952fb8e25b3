"""What a Workload API has sent, judged: messages become SVIDs with keys and bundles, or the reason why not.

A message is the whole truth of its instant (Workload API 4.3): what it does not hold is withdrawn. One with an SVID
that proves nothing, or without a mandatory field, is discarded as a whole (4.5), and what was known before stays. A
bundle of a foreign trust domain that cannot be read takes nothing else with it: that domain is not trusted, and
`faults` says so.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.identity.bundle import BundleError, bundle_from_der, jwt_bundle_from_json
from authz.identity.certificate_blocks import CertificateBlockError, all_from_der
from authz.identity.errors import IdentityError, quoted
from authz.identity.held_svid import HeldSvid
from authz.identity.spiffe_id import SpiffeId, SpiffeIdError, TrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_chain import MAX_CHAIN_CERTIFICATES
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES
from authz.workload_api.errors import WorkloadApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from authz.identity.bundle import Bundle
    from authz.workload_api.messages import X509SVID, JWTBundlesResponse, X509SVIDResponse

#: What gRPC takes as one message by default.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
#: A workload has one identity, and a few where it changes its name.
MAX_SVIDS: Final = 64
#: As many foreign trust domains as anyone federates with, and more.
MAX_BUNDLES: Final = 256


class InvalidMessageError(WorkloadApiError):
    """A message of a Workload API is not to be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedX509:
    """The X.509-SVIDs of a workload in the order in which they came, the bundles, and what was left out.

    `own` are the trust domains of the SVIDs; the bundles of the others are the federated ones.
    """

    svids: tuple[HeldSvid, ...]
    trust: Trust
    faults: tuple[str, ...] = ()

    @property
    def own(self) -> frozenset[TrustDomain]:
        """The trust domains that the workload has an SVID of."""
        return frozenset(held.spiffe_id.trust_domain for held in self.svids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedJwtBundles:
    """The keys of JWT-SVIDs, by trust domain, and what was left out."""

    trust: Trust
    faults: tuple[str, ...] = ()


def received_x509(message: X509SVIDResponse, now: datetime) -> ReceivedX509:
    """Judge what came at `now`; raises InvalidMessageError."""
    if not message.svids:
        raise InvalidMessageError("the Workload API sent a message without an X.509-SVID")
    if len(message.svids) > MAX_SVIDS:
        raise InvalidMessageError(f"the Workload API sent {len(message.svids)} X.509-SVIDs; {MAX_SVIDS} are read")
    trust = Trust.of(())
    held: list[HeldSvid] = []
    hints: set[str] = set()
    for number, sent in enumerate(message.svids, start=1):
        try:
            one, bundle = _held(sent, now)
        except (IdentityError, InvalidMessageError) as error:
            raise InvalidMessageError(f"X.509-SVID {number}, {quoted(sent.spiffe_id)}: {error}") from error
        before = trust.bundle(bundle.trust_domain)
        # INVARIANT (never merged): of two bundles for one trust domain nobody knows which one is meant.
        if before is not None and before.x509_authorities != bundle.x509_authorities:
            raise InvalidMessageError(f"the Workload API sent two bundles of `{bundle.trust_domain}`")
        trust = trust.replace(bundle)
        # Workload API 5.2.1: of several SVIDs with the same hint the first one counts.
        if one.hint and one.hint in hints:
            continue
        hints.add(one.hint)
        held.append(one)
    foreign, faults = _bundles(message.federated_bundles, bundle_from_der)
    for bundle in foreign:
        if bundle.trust_domain in trust.bundles:
            faults.append(f"`{bundle.trust_domain}` is sent as a foreign trust domain too; its SVIDs' bundle counts")
        else:
            trust = trust.replace(bundle)
    return ReceivedX509(svids=tuple(held), trust=trust, faults=tuple(faults))


def received_jwt_bundles(message: JWTBundlesResponse) -> ReceivedJwtBundles:
    """Judge the bundles of the JWT profile; raises InvalidMessageError."""
    if not message.bundles:
        raise InvalidMessageError("the Workload API sent a message without a JWT bundle")
    bundles, faults = _bundles(message.bundles, jwt_bundle_from_json)
    return ReceivedJwtBundles(trust=Trust.of(bundles), faults=tuple(faults))


def _held(sent: X509SVID, now: datetime) -> tuple[HeldSvid, Bundle]:
    # Workload API 5.2.1: all but the hint are mandatory.
    for name in ("spiffe_id", "x509_svid", "x509_svid_key", "bundle"):
        if not getattr(sent, name):
            raise InvalidMessageError(f"`{name}` is empty")
    spiffe_id = SpiffeId.parse(sent.spiffe_id)
    bundle = bundle_from_der(sent.bundle, spiffe_id.trust_domain)
    if len(sent.x509_svid) > MAX_CERTIFICATE_BYTES:
        raise InvalidMessageError(f"the chain has more than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        chain = all_from_der(sent.x509_svid, at_most=MAX_CHAIN_CERTIFICATES)
    except CertificateBlockError as error:
        raise InvalidMessageError(f"the chain: {error}") from error
    held = HeldSvid.of(chain, sent.x509_svid_key, Trust.of([bundle]), now, hint=sent.hint)
    if held.spiffe_id != spiffe_id:
        raise InvalidMessageError(f"the certificate is that of `{held.spiffe_id}`")
    return held, bundle


def _bundles(
    sent: Mapping[str, bytes], read: Callable[[bytes, TrustDomain], Bundle]
) -> tuple[Iterable[Bundle], list[str]]:
    """Read bundles by the SPIFFE IDs of their trust domains; gives those that can be, and what is wrong with others."""
    if len(sent) > MAX_BUNDLES:
        raise InvalidMessageError(f"the Workload API sent {len(sent)} bundles; {MAX_BUNDLES} are read")
    bundles: list[Bundle] = []
    faults: list[str] = []
    for name, content in sorted(sent.items()):
        try:
            bundles.append(read(content, _trust_domain(name)))
        except (SpiffeIdError, BundleError, InvalidMessageError) as error:
            faults.append(f"the bundle of {quoted(name)} is not used: {error}")
    return bundles, faults


def _trust_domain(name: str) -> TrustDomain:
    spiffe_id = SpiffeId.parse(name)
    if spiffe_id.path:
        raise InvalidMessageError("not the SPIFFE ID of a trust domain")
    return spiffe_id.trust_domain
