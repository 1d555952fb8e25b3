"""What a Workload API sends is judged as a whole: SPIFFE Workload API 4.4, 4.5 and 5.2.1."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, strategies as st

from authz.identity.spiffe_id import TrustDomain
from authz.workload_api.messages import JWTBundlesResponse, X509SVIDResponse
from authz.workload_api.received import MAX_SVIDS, InvalidMessageError, received_jwt_bundles, received_x509
from tests.support.workload_api_messages import ORDERS, authority, der, response, svid, texts_of_key

SHOP = authority()
ACME = authority("acme.example")
OTHER = authority()
GOOD = svid(SHOP)
JWKS = b'{"keys": []}'


def now() -> datetime:
    return datetime.now(UTC)


def test_svids_and_bundles_are_given_in_the_order_in_which_they_came() -> None:
    received = received_x509(
        response(svid(SHOP, ORDERS + "-b"), GOOD, federated={"spiffe://acme.example": der(ACME.certificate_pem)}), now()
    )
    assert [str(held.spiffe_id) for held in received.svids] == [ORDERS + "-b", ORDERS]
    assert {one.trust_domain.name for one in received.trust} == {"shop.example", "acme.example"}
    assert received.own == {TrustDomain.parse("shop.example")}
    assert received.faults == ()


def test_of_svids_with_one_hint_the_first_counts() -> None:
    received = received_x509(
        response(svid(SHOP, ORDERS, hint="a"), svid(SHOP, ORDERS + "-b", hint="a"), svid(SHOP, ORDERS + "-c")), now()
    )
    assert [str(held.spiffe_id) for held in received.svids] == [ORDERS, ORDERS + "-c"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (response(), "without an X.509-SVID"),
        (response(*[GOOD] * (MAX_SVIDS + 1)), "are read"),
        (response(svid(SHOP, spiffe_id="")), "`spiffe_id` is empty"),
        (response(svid(SHOP, x509_svid=b"")), "`x509_svid` is empty"),
        (response(svid(SHOP, x509_svid_key=b"")), "`x509_svid_key` is empty"),
        (response(svid(SHOP, bundle=b"")), "`bundle` is empty"),
        (response(svid(SHOP, bundle=der(OTHER.certificate_pem))), "no authority in the bundle"),
        (response(svid(SHOP, x509_svid_key=svid(SHOP).x509_svid_key)), "not that of the certificate"),
        (response(svid(SHOP, x509_svid_key=b"nonsense")), "no unencrypted RSA or EC key"),
        (response(svid(SHOP, x509_svid_key=b"\x30" * 20_000)), "at most 16384 bytes"),
        (response(svid(SHOP, x509_svid=b"\x30\x03abc")), "cannot be read"),
        (response(svid(SHOP, x509_svid=b"\x30" * 70_000)), "65536 bytes"),
        (response(svid(SHOP, x509_svid=GOOD.x509_svid + b"rest")), "not a certificate in DER"),
        (response(svid(SHOP, spiffe_id=ORDERS + "-b", x509_svid=GOOD.x509_svid)), "the key|that of"),
        (response(svid(SHOP, spiffe_id="spiffe://SHOP.example/x")), "characters"),
        (response(GOOD, svid(OTHER, ORDERS + "-b")), "two bundles of `shop.example`"),
    ],
)
def test_a_message_with_something_that_proves_nothing_is_discarded_as_a_whole(
    message: X509SVIDResponse, words: str
) -> None:
    with pytest.raises(InvalidMessageError, match=words) as raised:
        received_x509(message, now())
    for one in message.svids:
        if len(one.x509_svid_key) > 100:
            assert not any(text in f"{raised.value!r}" for text in texts_of_key(one.x509_svid_key))


def test_an_expired_svid_is_not_taken() -> None:
    with pytest.raises(InvalidMessageError, match="expired"):
        received_x509(response(GOOD), now() + timedelta(hours=2))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("spiffe://acme.example", b"nonsense"),
        ("acme.example", der(ACME.certificate_pem)),
        ("spiffe://acme.example/path", der(ACME.certificate_pem)),
        ("spiffe://ACME.example", der(ACME.certificate_pem)),
    ],
)
def test_a_foreign_bundle_that_cannot_be_used_takes_nothing_else_with_it(name: str, content: bytes) -> None:
    received = received_x509(response(GOOD, federated={name: content}), now())
    assert [one.trust_domain.name for one in received.trust] == ["shop.example"]
    assert len(received.faults) == 1


def test_a_foreign_bundle_for_an_own_trust_domain_is_not_used() -> None:
    received = received_x509(response(GOOD, federated={"spiffe://shop.example": der(OTHER.certificate_pem)}), now())
    bundle = received.trust.bundle(TrustDomain.parse("shop.example"))
    assert bundle is not None
    assert bundle.x509_der == der(SHOP.certificate_pem)
    assert "shop.example" in received.faults[0]


def test_jwt_bundles_are_taken_by_trust_domain_and_a_broken_one_is_left_out() -> None:
    received = received_jwt_bundles(
        JWTBundlesResponse(bundles={"spiffe://shop.example": JWKS, "spiffe://acme.example": b"{"})
    )
    assert [one.trust_domain.name for one in received.trust] == ["shop.example"]
    assert "acme.example" in received.faults[0]


def test_a_jwt_message_without_bundles_is_discarded() -> None:
    with pytest.raises(InvalidMessageError):
        received_jwt_bundles(JWTBundlesResponse())


@given(data=st.binary(max_size=400))
def test_any_bytes_in_any_field_are_a_value_or_an_invalid_message(data: bytes) -> None:
    with contextlib.suppress(InvalidMessageError):
        received_x509(response(svid(SHOP, x509_svid=data or b"x")), now())
    with contextlib.suppress(InvalidMessageError):
        received_x509(response(svid(SHOP, x509_svid_key=data or b"x")), now())
    with contextlib.suppress(InvalidMessageError):
        received_x509(response(svid(SHOP, bundle=data or b"x")), now())
    with contextlib.suppress(InvalidMessageError, DecodeError):
        received_x509(X509SVIDResponse.FromString(data), now())
    received_jwt_bundles(JWTBundlesResponse(bundles={"spiffe://shop.example": data}))
