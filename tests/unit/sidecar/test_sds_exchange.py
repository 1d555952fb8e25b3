"""One Envoy's SDS stream: answers, pushes, ACK and NACK, in both variants of the protocol."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_spiffe_validator_config_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from hypothesis import given, strategies as st

from authz.identity.bundle import bundle_from_pem
from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from authz.sidecar.control.sds_exchange import (
    MAX_NAMES,
    DeltaExchange,
    SdsRequestError,
    SotwExchange,
    Verdict,
    fetched,
)
from authz.sidecar.control.sds_resources import SECRET_TYPE, SdsResources
from authz.workload_api.received import received_x509
from tests.support.workload_api_messages import ORDERS, authority, response, svid, texts_of_key

SHOP, ACME = authority(), authority("acme.example")
TRUST = Trust.of(
    [
        bundle_from_pem(SHOP.certificate_pem, TrustDomain.parse("shop.example")),
        bundle_from_pem(ACME.certificate_pem, TrustDomain.parse("acme.example")),
    ]
)
BROKEN = status_pb2.Status(code=3, message="Failed to load private key")


def made(trust: Trust = TRUST) -> SdsResources:
    held = received_x509(response(svid(SHOP)), datetime.now(UTC)).svids[0]
    return SdsResources.of(held, trust)


FIRST, SECOND, NOTHING = made(), made(), SdsResources()


def sotw(*names: str, nonce: str = "", fault: status_pb2.Status | None = None) -> discovery_pb2.DiscoveryRequest:
    return discovery_pb2.DiscoveryRequest(
        type_url=SECRET_TYPE, resource_names=names, response_nonce=nonce, error_detail=fault
    )


def delta(
    *names: str,
    less: tuple[str, ...] = (),
    nonce: str = "",
    fault: status_pb2.Status | None = None,
    known: dict[str, str] | None = None,
) -> discovery_pb2.DeltaDiscoveryRequest:
    return discovery_pb2.DeltaDiscoveryRequest(
        type_url=SECRET_TYPE,
        resource_names_subscribe=names,
        resource_names_unsubscribe=less,
        initial_resource_versions=known or {},
        response_nonce=nonce,
        error_detail=fault,
    )


def secrets(answer: discovery_pb2.DiscoveryResponse | None) -> list[secret_pb2.Secret]:
    assert answer is not None
    return [secret_pb2.Secret.FromString(one.value) for one in answer.resources]


class TestResources:
    def test_the_svid_stands_under_our_name_spires_and_its_own_id(self) -> None:
        for name in ("svid", "default", ORDERS):
            found = FIRST.get(name)
            assert found is not None
            secret = secret_pb2.Secret.FromString(found.secret.value)
            assert secret.name == name
            assert secret.tls_certificate.private_key.inline_bytes.startswith(b"-----BEGIN PRIVATE KEY")

    @pytest.mark.parametrize(
        ("name", "domains"),
        [
            ("trust", ["acme.example", "shop.example"]),
            ("ALL", ["acme.example", "shop.example"]),
            ("ROOTCA", ["shop.example"]),
            ("spiffe://shop.example", ["shop.example"]),
            ("spiffe://acme.example", ["acme.example"]),
        ],
    )
    def test_each_trust_domain_is_judged_by_its_own_bundle(self, name: str, domains: list[str]) -> None:
        found = FIRST.get(name)
        assert found is not None
        context = secret_pb2.Secret.FromString(found.secret.value).validation_context
        config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
        assert context.custom_validator_config.typed_config.Unpack(config)
        bundles = {one.name: one.trust_bundle.inline_bytes for one in config.trust_domains}
        assert list(bundles) == domains
        by_name = {"shop.example": SHOP.certificate_pem, "acme.example": ACME.certificate_pem}
        assert all(bundles[domain] == by_name[domain] for domain in domains)

    def test_a_version_is_another_one_when_the_svid_or_a_bundle_is_and_the_same_otherwise(self) -> None:
        def version(resources: SdsResources, name: str) -> str:
            found = resources.get(name)
            assert found is not None
            return found.version

        assert version(FIRST, "svid") != version(SECOND, "svid")
        assert version(FIRST, "trust") == version(SECOND, "trust")
        less = made(TRUST.without(TrustDomain.parse("acme.example")))
        assert version(less, "trust") != version(FIRST, "trust")

    def test_without_an_authority_no_certificate_passes_where_callers_without_ids_come_in(self) -> None:
        def validation(resources: SdsResources) -> common_pb2.CertificateValidationContext:
            found = resources.get("authorities")
            assert found is not None
            return secret_pb2.Secret.FromString(found.secret.value).validation_context

        nobody = validation(FIRST)
        assert list(nobody.verify_certificate_hash) == ["00" * 32]
        assert not nobody.HasField("trusted_ca")
        held = received_x509(response(svid(SHOP)), datetime.now(UTC)).svids[0]
        somebody = validation(SdsResources.of(held, TRUST, ACME.certificate_pem))
        assert somebody.trusted_ca.inline_bytes == ACME.certificate_pem
        assert not somebody.verify_certificate_hash

    def test_without_an_svid_there_is_nothing_and_no_repr_has_a_key(self) -> None:
        assert SdsResources.of(None, TRUST).by_name == {}
        key = received_x509(response(svid(SHOP)), datetime.now(UTC)).svids[0]
        text = repr(SdsResources.of(key, TRUST))
        assert not any(part in text for part in texts_of_key(key.key))


class TestStateOfTheWorld:
    def setup_method(self) -> None:
        self.said: list[Verdict] = []
        self.exchange = SotwExchange(self.said.append)

    def test_only_what_is_asked_for_is_sent(self) -> None:
        answer = self.exchange.requested(sotw("svid"), FIRST)
        assert [one.name for one in secrets(answer)] == ["svid"]

    def test_an_ack_is_not_answered_and_a_change_is_pushed_once(self) -> None:
        first = self.exchange.requested(sotw("svid"), FIRST)
        assert first is not None
        assert self.exchange.requested(sotw("svid", nonce=first.nonce), FIRST) is None
        second = self.exchange.changed(SECOND)
        assert second is not None
        assert second.nonce != first.nonce
        assert second.version_info != first.version_info
        assert self.exchange.changed(SECOND) is None

    def test_a_change_of_what_is_not_asked_for_is_not_pushed(self) -> None:
        self.exchange.requested(sotw("trust"), FIRST)
        assert self.exchange.changed(SECOND) is None

    def test_a_refusal_is_told_and_the_same_is_not_sent_again(self) -> None:
        first = self.exchange.requested(sotw("svid"), FIRST)
        assert first is not None
        assert self.exchange.requested(sotw("svid", nonce=first.nonce, fault=BROKEN), FIRST) is None
        assert self.said == [Verdict(names=("svid",), fault="Failed to load private key")]
        assert self.exchange.changed(FIRST) is None
        assert self.exchange.changed(SECOND) is not None

    def test_a_request_about_an_older_answer_counts_for_nothing(self) -> None:
        first = self.exchange.requested(sotw("svid"), FIRST)
        self.exchange.changed(SECOND)
        assert first is not None
        assert self.exchange.requested(sotw("svid", nonce=first.nonce, fault=BROKEN), SECOND) is None
        assert self.said == []

    def test_what_is_not_there_yet_is_sent_when_it_is(self) -> None:
        assert self.exchange.requested(sotw("svid"), NOTHING) is None
        assert [one.name for one in secrets(self.exchange.changed(FIRST))] == ["svid"]

    def test_a_name_more_is_answered_with_all_of_them(self) -> None:
        first = self.exchange.requested(sotw("svid"), FIRST)
        assert first is not None
        more = self.exchange.requested(sotw("svid", "trust", nonce=first.nonce), FIRST)
        assert [one.name for one in secrets(more)] == ["svid", "trust"]

    def test_nothing_is_sent_for_what_is_gone(self) -> None:
        self.exchange.requested(sotw("svid"), FIRST)
        assert self.exchange.changed(NOTHING) is None
        assert self.exchange.changed(FIRST) is None, "it has that one"


class TestIncremental:
    def setup_method(self) -> None:
        self.said: list[Verdict] = []
        self.exchange = DeltaExchange(self.said.append)

    def test_what_is_subscribed_to_is_sent_and_pushed_by_itself(self) -> None:
        answer = self.exchange.requested(delta("svid", "trust"), FIRST)
        assert answer is not None
        assert [one.name for one in answer.resources] == ["svid", "trust"]
        assert self.exchange.requested(delta(nonce=answer.nonce), FIRST) is None
        pushed = self.exchange.changed(SECOND)
        assert pushed is not None
        assert [one.name for one in pushed.resources] == ["svid"]

    def test_who_comes_back_with_the_version_that_holds_needs_no_other(self) -> None:
        found = FIRST.get("svid")
        assert found is not None
        assert self.exchange.requested(delta("svid", known={"svid": found.version}), FIRST) is None
        again = DeltaExchange(self.said.append)
        assert again.requested(delta("svid", known={"svid": "older"}), FIRST) is not None

    def test_what_is_unsubscribed_is_pushed_no_more(self) -> None:
        self.exchange.requested(delta("svid", "trust"), FIRST)
        self.exchange.requested(delta(less=("svid",)), FIRST)
        assert self.exchange.changed(SECOND) is None

    def test_a_name_that_never_is_is_said_to_be_removed_and_one_that_will_be_is_waited_for(self) -> None:
        answer = self.exchange.requested(delta("svid", "nonsense"), NOTHING)
        assert answer is not None
        assert list(answer.removed_resources) == ["nonsense"]
        pushed = self.exchange.changed(FIRST)
        assert pushed is not None
        assert [one.name for one in pushed.resources] == ["svid"]

    def test_what_is_gone_is_removed_once(self) -> None:
        self.exchange.requested(delta("svid"), FIRST)
        gone = self.exchange.changed(NOTHING)
        assert gone is not None
        assert list(gone.removed_resources) == ["svid"]
        assert self.exchange.changed(NOTHING) is None

    def test_a_refusal_is_told_and_the_same_is_not_sent_again(self) -> None:
        answer = self.exchange.requested(delta("svid"), FIRST)
        assert answer is not None
        assert self.exchange.requested(delta(nonce=answer.nonce, fault=BROKEN), FIRST) is None
        assert self.said == [Verdict(names=("svid",), fault="Failed to load private key")]
        assert self.exchange.changed(SECOND) is not None


class TestAnyRequest:
    def test_only_secrets_are_served(self) -> None:
        with pytest.raises(SdsRequestError):
            SotwExchange(lambda _: None).requested(discovery_pb2.DiscoveryRequest(type_url="x"), FIRST)

    def test_so_many_names_are_served_and_not_more(self) -> None:
        names = [f"spiffe://{number}" for number in range(MAX_NAMES + 1)]
        exchange = DeltaExchange(lambda _: None)
        exchange.requested(delta(*names[:-1]), FIRST)
        with pytest.raises(SdsRequestError):
            exchange.requested(delta(names[-1]), FIRST)
        with pytest.raises(SdsRequestError):
            SotwExchange(lambda _: None).requested(sotw("x" * 2049), FIRST)

    def test_who_asks_once_gets_what_there_is(self) -> None:
        answer = fetched(sotw("svid", "nonsense"), FIRST)
        assert [one.name for one in secrets(answer)] == ["svid"]
        assert list(fetched(sotw(), FIRST).resources) == []

    @given(requests=st.lists(st.binary(max_size=60), max_size=5))
    def test_any_bytes_are_answered_or_refused(self, requests: list[bytes]) -> None:
        both = (
            (SotwExchange(lambda _: None), discovery_pb2.DiscoveryRequest),
            (DeltaExchange(lambda _: None), discovery_pb2.DeltaDiscoveryRequest),
        )
        for exchange, kind in both:
            for request in requests:
                with contextlib.suppress(SdsRequestError, DecodeError):
                    exchange.requested(kind.FromString(request), FIRST)
