"""Callers without SPIFFE IDs: which authorities vouch for whom, and until when."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import given, strategies as st

from authz.identity.named_authority import (
    MAX_AUTHORITY_BYTES,
    MAX_SIGNERS,
    NamedAuthorityError,
    named_authority,
    nanoseconds,
)
from authz.identity.named_certificate import (
    MAX_NAMES,
    NamedCertificateError,
    named_certificate,
    require_vouched_for,
)
from tests.support.named_callers import HOUR, CallersAuthority, dns, uri

if TYPE_CHECKING:
    from collections.abc import Sequence

ACME = CallersAuthority("acme")
NOW = datetime.now(UTC)
A_NAME = dns("feed.acme.example")


def proves(pem: bytes, authority: bytes, at_ns: int | None = None) -> int:
    """Give until when a certificate is proven, now if nothing is said; raises NamedCertificateError."""
    now_ns = nanoseconds(datetime.now(UTC)) if at_ns is None else at_ns
    leaf = named_certificate(pem)
    signer = named_authority(authority).issuer_of(leaf.certificate)
    if signer is None:
        raise NamedCertificateError("nobody has signed it")
    return require_vouched_for(leaf, signer, now_ns)


def test_a_certificate_is_proven_until_it_or_its_authority_ends_whichever_is_sooner() -> None:
    caller = ACME.issue(A_NAME)
    end_ns = nanoseconds(caller.certificate.not_valid_after_utc)
    assert proves(caller.pem, ACME.pem) == end_ns
    assert proves(caller.pem, ACME.pem, end_ns) == end_ns  # RFC 5280 4.1.2.5: both ends belong to the validity
    begin_ns = nanoseconds(caller.certificate.not_valid_before_utc)
    assert proves(caller.pem, ACME.pem, begin_ns) == end_ns
    for outside in (begin_ns - 1, end_ns + 1):
        with pytest.raises(NamedCertificateError, match="is valid from"):
            proves(caller.pem, ACME.pem, outside)
    brief = CallersAuthority("brief", lifetime=timedelta(minutes=5))
    ends_ns = nanoseconds(brief.certificate.not_valid_after_utc)
    assert proves(brief.issue(A_NAME).pem, brief.pem) == ends_ns
    with pytest.raises(NamedCertificateError, match="of its authority is not valid"):
        proves(brief.issue(A_NAME).pem, brief.pem, ends_ns + 1)


def test_names_are_read_as_they_are_compared() -> None:
    leaf = named_certificate(ACME.issue([*dns("Feed.ACME.example"), *uri("urn:Acme")], serial=0xAB).pem)
    assert leaf.names == {("dns", "feed.acme.example"), ("uri", "urn:Acme")}
    assert leaf.serial == "ab"


@pytest.mark.parametrize(
    ("names", "how", "why"),
    [
        (A_NAME, {"ca": True}, "a CA's"),
        (A_NAME, {"purpose": ExtendedKeyUsageOID.SERVER_AUTH}, "lacks clientAuth"),
        ([], {}, "no subject alternative name"),
        ([*A_NAME, *uri("spiffe://shop.example/orders")], {}, "has a SPIFFE ID"),
        (uri("SPIFFE:anything"), {}, "has a SPIFFE ID"),
        (dns(*(f"n{number}.example" for number in range(MAX_NAMES + 1))), {}, "at most"),
        (
            A_NAME,
            {"extensions": [x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")]},
            "critical extension `1.2.3.4`",
        ),
    ],
)
def test_what_is_no_callers_certificate_proves_nobody(
    names: Sequence[x509.GeneralName], how: dict[str, object], why: str
) -> None:
    with pytest.raises(NamedCertificateError, match=why):
        named_certificate(ACME.issue(names, **how).pem)  # type: ignore[arg-type]


def test_nobody_is_vouched_for_by_an_authority_of_the_same_name_or_one_above() -> None:
    caller = ACME.issue(A_NAME)
    between = CallersAuthority("between", above=ACME)
    for other in (CallersAuthority("acme"), between):
        assert named_authority(other.pem).issuer_of(caller.certificate) is None
    below = between.issue(A_NAME)
    assert named_authority(ACME.pem).issuer_of(below.certificate) is None
    signer = named_authority(ACME.pem + between.pem).issuer_of(below.certificate)
    assert signer is not None
    assert signer.certificate == between.certificate


def test_what_is_revoked_is_refused_and_so_is_everybody_when_nobody_knows_any_more_what_is() -> None:
    caller, other = ACME.issue(A_NAME), ACME.issue(A_NAME)
    file = ACME.pem + ACME.revoke(caller, lifetime=timedelta(minutes=10))
    with pytest.raises(NamedCertificateError, match="has revoked the certificate"):
        proves(caller.pem, file)
    ends_ns = proves(other.pem, file)
    assert ends_ns < nanoseconds(other.certificate.not_valid_after_utc)
    with pytest.raises(NamedCertificateError, match="list of revoked certificates is over"):
        proves(other.pem, file, ends_ns + 1)


def no_list(authority: CallersAuthority, extension: x509.ExtensionType) -> bytes:
    """Give a list that is only a part of one."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(NOW)
        .next_update(NOW + HOUR)
        .add_extension(extension, critical=True)
    )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (b"", "no certificate"),
        (b"# ours\n" + ACME.pem, "not a PEM certificate"),
        (ACME.pem + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "a private key"),
        (ACME.pem * (MAX_SIGNERS + 1), "at most"),
        (b" " * (MAX_AUTHORITY_BYTES + 1), "at most"),
        (ACME.issue(A_NAME).pem, "no CA's"),
        (ACME.pem + CallersAuthority("acme").revoke(), "signed by none"),
        (ACME.pem + ACME.revoke() + ACME.revoke(), "more than one list"),
        (ACME.pem + CallersAuthority("b").pem + ACME.revoke() + ACME.revoke(), "two lists"),
        (ACME.pem + no_list(ACME, x509.DeltaCRLIndicator(1)), "critical extension"),
        (ACME.pem + ACME.revoke()[:200] + b"\n-----END X509 CRL-----\n", "cannot be read"),
        (
            CallersAuthority(
                "c", extensions=[x509.NameConstraints(permitted_subtrees=dns("acme.example"), excluded_subtrees=None)]
            ).pem,
            "name constraints",
        ),
        (
            CallersAuthority("d", extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])]).pem,
            "lacks clientAuth",
        ),
    ],
)
def test_a_file_with_anything_that_cannot_be_used_is_no_authority(file: bytes, why: str) -> None:
    with pytest.raises(NamedAuthorityError, match=why):
        named_authority(file)


@given(st.binary(max_size=300), st.integers(0, 2000), st.binary(max_size=8))
def test_any_bytes_are_an_authority_or_its_error_and_a_certificate_or_its_error(
    noise: bytes, at: int, put: bytes
) -> None:
    whole = ACME.pem + LIST
    for file in (noise, whole[:at] + put + whole[at + len(put) :]):
        with contextlib.suppress(NamedAuthorityError):
            assert named_authority(file).signers
    for leaf in (noise, CALLER.pem[:at] + put + CALLER.pem[at + len(put) :]):
        try:
            read = named_certificate(leaf)
        except NamedCertificateError:
            continue
        # What was changed is not what was signed.
        signed = read.certificate == CALLER.certificate
        assert (named_authority(ACME.pem).issuer_of(read.certificate) is not None) == signed


CALLER, LIST = ACME.issue(A_NAME), ACME.revoke(ACME.issue(A_NAME))
