"""Which identity a workload has and whom it trusts, by what its source, the policies and federations say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from authz.federation.relationship import Relationship
from authz.identity.bundle import bundle_from_pem, jwt_bundle_from_json
from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from authz.policy.identity_pattern import IdentityPattern
from authz.sidecar.control.workload_identity import IdentityNow, Standing, WorkloadIdentity
from authz.sidecar.own_policy import OwnPolicy
from authz.workload_api.received import ReceivedJwtBundles, ReceivedX509, received_x509
from tests.support.workload_api_messages import ORDERS, authority, der, response, svid

SHOP, ACME = authority(), authority("acme.example")
SHOP_DOMAIN, ACME_DOMAIN = TrustDomain.parse("shop.example"), TrustDomain.parse("acme.example")
FEDERATION = Relationship(trust_domain=ACME_DOMAIN, bundle_file=Path("/x"))
POLICY = OwnPolicy(identities=(IdentityPattern.parse(ORDERS),), trust_domains=(SHOP_DOMAIN,))
FEDERATED = OwnPolicy(identities=POLICY.identities, trust_domains=POLICY.trust_domains, federates=(FEDERATION,))


class Clock:
    def __init__(self) -> None:
        self.ns = int(datetime.now(UTC).timestamp()) * 1_000_000_000

    def __call__(self) -> int:
        return self.ns


def received(*names: str, acme: bytes | None = None) -> ReceivedX509:
    federated = {} if acme is None else {"spiffe://acme.example": acme}
    return received_x509(response(*(svid(SHOP, name) for name in names), federated=federated), datetime.now(UTC))


def made(policy: OwnPolicy | None = POLICY) -> tuple[WorkloadIdentity, list[IdentityNow], Clock]:
    told: list[IdentityNow] = []
    clock = Clock()
    identity = WorkloadIdentity(changed=told.append, clock=clock)
    if policy is not None:
        identity.policy(policy)
    return identity, told, clock


def domains(now: IdentityNow) -> set[str]:
    return {one.trust_domain.name for one in now.trust}


def test_of_several_svids_the_first_of_the_service_is_its_identity() -> None:
    wide = OwnPolicy(identities=(IdentityPattern.parse("spiffe://shop.example/**"),), trust_domains=(SHOP_DOMAIN,))
    for policy, expected in ((POLICY, ORDERS), (wide, ORDERS + "-b")):
        identity, told, _ = made(policy)
        identity.received_x509(received(ORDERS + "-b", ORDERS, ORDERS + "-c"))
        held = told[-1].held
        assert held is not None
        assert str(held.spiffe_id) == expected


def test_where_none_is_the_services_there_is_none_and_the_fault_says_which_there_are() -> None:
    identity, told, _ = made()
    identity.received_x509(received(ORDERS + "-b"))
    assert told[-1].standing is Standing.NONE
    assert f"`{ORDERS}-b`" in (told[-1].fault or "")


def test_nothing_is_held_before_a_set_says_whose_it_is() -> None:
    identity, _, _ = made(None)
    identity.received_x509(received(ORDERS))
    assert identity.now.standing is Standing.WAITING
    identity.policy(POLICY)
    assert identity.now.standing is Standing.HELD


def test_a_source_that_is_gone_leaves_svid_and_bundles_until_the_end_of_the_svid_and_not_beyond() -> None:
    identity, told, clock = made()
    identity.received_x509(received(ORDERS))
    identity.faulty("agent is gone")
    now = told[-1]
    assert (now.standing, now.stale, now.fault) == (Standing.HELD, True, "agent is gone")
    assert domains(now) == {"shop.example"}
    assert now.held is not None
    clock.ns = now.held.svid.not_after_ns
    identity.look()
    assert identity.now.standing is Standing.HELD
    clock.ns += 1
    identity.look()
    assert identity.now.standing is Standing.EXPIRED
    assert identity.now.held is None
    assert domains(identity.now) == set()
    assert "expired" in (identity.now.fault or "")
    assert "agent is gone" in (identity.now.fault or "")


def test_what_a_source_withdraws_is_gone_at_once() -> None:
    identity, told, _ = made()
    identity.received_x509(received(ORDERS))
    identity.withdrawn("no identity issued")
    assert told[-1].standing is Standing.NONE
    assert told[-1].held is None
    assert domains(told[-1]) == set()


def test_a_source_that_is_back_is_no_longer_stale() -> None:
    identity, told, _ = made()
    identity.received_x509(received(ORDERS))
    identity.faulty("agent is gone")
    identity.received_x509(received(ORDERS))
    assert (told[-1].stale, told[-1].fault, identity.lag_s) == (False, None, 0.0)


def test_a_federated_domain_is_trusted_where_the_set_names_it_and_no_longer_than_that() -> None:
    identity, told, _ = made()
    identity.received_x509(received(ORDERS, acme=der(ACME.certificate_pem)))
    assert domains(told[-1]) == {"shop.example"}
    identity.policy(FEDERATED)
    assert domains(told[-1]) == {"shop.example", "acme.example"}
    identity.policy(POLICY)
    assert domains(told[-1]) == {"shop.example"}


def test_the_sources_bundle_of_a_federated_domain_stands_alone_and_the_endpoints_where_there_is_none() -> None:
    other = authority("acme.example")
    of_endpoint = bundle_from_pem(other.certificate_pem, ACME_DOMAIN)
    identity, told, _ = made(FEDERATED)
    identity.federated(Trust.of([of_endpoint]))
    identity.received_x509(received(ORDERS, acme=der(ACME.certificate_pem)))
    bundle = told[-1].trust.bundle(ACME_DOMAIN)
    assert bundle is not None
    assert bundle.x509_der == der(ACME.certificate_pem)
    identity.received_x509(received(ORDERS))
    assert told[-1].trust.bundle(ACME_DOMAIN) == of_endpoint
    identity.federated(Trust.of(()))
    assert told[-1].trust.bundle(ACME_DOMAIN) is None


def test_a_federation_never_speaks_for_an_own_domain() -> None:
    identity, told, _ = made(FEDERATED)
    identity.received_x509(received(ORDERS))
    identity.federated(Trust.of([bundle_from_pem(authority().certificate_pem, SHOP_DOMAIN)]))
    bundle = identity.now.trust.bundle(SHOP_DOMAIN)
    assert bundle is not None
    assert bundle.x509_der == der(SHOP.certificate_pem)
    assert told[-1] == identity.now


def test_the_keys_of_both_profiles_stand_in_one_bundle() -> None:
    key = b'{"keys": [{"kty": "EC", "crv": "P-256", "kid": "a", "use": "jwt-svid", %s}]}' % (
        b'"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"'
    )
    identity, told, _ = made()
    identity.received_x509(received(ORDERS))
    identity.received_jwt_bundles(ReceivedJwtBundles(trust=Trust.of([jwt_bundle_from_json(key, SHOP_DOMAIN)])))
    bundle = told[-1].trust.bundle(SHOP_DOMAIN)
    assert bundle is not None
    assert len(bundle.x509_authorities) == len(bundle.jwt_authorities) == 1
    identity.jwt_withdrawn(None)
    bundle = told[-1].trust.bundle(SHOP_DOMAIN)
    assert bundle is not None
    assert not bundle.jwt_authorities


def test_who_is_told_is_told_of_changes_only() -> None:
    identity, told, _ = made()
    message = received(ORDERS)
    identity.received_x509(message)
    before = len(told)
    identity.received_x509(message)
    identity.look()
    assert len(told) == before


def test_a_rotated_svid_takes_the_place_of_the_one_before() -> None:
    identity, told, _ = made()
    identity.received_x509(received(ORDERS))
    first = told[-1].held
    identity.received_x509(received(ORDERS))
    assert first is not None
    assert told[-1].held is not None
    assert told[-1].held.svid.serial != first.svid.serial


def test_what_a_message_carries_of_the_policy_is_read_again() -> None:
    assert OwnPolicy.from_fields(FEDERATED.as_fields()) == FEDERATED
    many = OwnPolicy(identities=tuple(IdentityPattern.parse(f"{ORDERS}-{'x' * 1000}-{n}") for n in range(100)))
    assert 10 < len(OwnPolicy.from_fields(many.as_fields()).identities) < 100


def test_an_svid_of_short_life_is_taken_while_it_lasts() -> None:
    identity, told, clock = made()
    message = response(svid(SHOP, lifetime=timedelta(seconds=5)))
    identity.received_x509(received_x509(message, datetime.now(UTC)))
    assert told[-1].standing is Standing.HELD
    clock.ns += 10 * 1_000_000_000
    identity.look()
    assert told[-1].standing is Standing.EXPIRED
