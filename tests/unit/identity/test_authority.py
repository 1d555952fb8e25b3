from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from jwt.algorithms import ECAlgorithm

from authz.identity.authority import MAX_AUTHORITY_BYTES, Authority, AuthorityError
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from tests.support.certificates import URI, key_usage, leaf, with_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from authz.identity.authority import IssuedSvid

SHOP = TrustDomain.parse("shop.example")
ORDERS = SpiffeId.parse("spiffe://shop.example/ns/shop/sa/orders")
NOW = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.generate(SHOP, NOW, DAY)


def test_the_authoritys_certificate_is_a_signing_certificate_of_its_trust_domain(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.certificate_pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://shop.example")]
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_a_chain_that_it_issues_is_verified_by_rfc_5280(authority: Authority) -> None:
    issued = authority.issue_x509_svid(ORDERS, NOW, HOUR)
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    store = Store(x509.load_pem_x509_certificates(authority.certificate_pem))
    verifier = PolicyBuilder().store(store).time(NOW).build_client_verifier()
    subjects = verifier.verify(leaf, []).subjects
    assert subjects == [x509.UniformResourceIdentifier(str(ORDERS))]
    stranger = Store(x509.load_pem_x509_certificates(Authority.generate(SHOP, NOW, DAY).certificate_pem))
    with pytest.raises(VerificationError):
        PolicyBuilder().store(stranger).time(NOW).build_client_verifier().verify(leaf, [])


def test_a_strict_mutual_tls_handshake_succeeds_with_two_svids(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.generate(SHOP, now, DAY)
    server = _context(tmp_path / "server", authority, authority.issue_x509_svid(ORDERS, now, HOUR), server=True)
    client = _context(tmp_path / "client", authority, authority.issue_x509_svid(ORDERS, now, HOUR), server=False)
    client.check_hostname = False
    assert _handshake(client, server, "orders")["subjectAltName"] == (("URI", str(ORDERS)),)


@pytest.mark.parametrize("host", ["api.acme.example", "any.acme.example"])
def test_a_strict_tls_client_takes_a_server_certificate_for_its_names(tmp_path: Path, host: str) -> None:
    now = datetime.now(UTC)
    authority = Authority.generate(SHOP, now, DAY)
    issued = authority.issue_server_certificate(["api.acme.example", "*.acme.example"], now, HOUR)
    server = _context(tmp_path / "server", authority, issued, server=True)
    client = _context(tmp_path / "client", authority, authority.issue_x509_svid(ORDERS, now, HOUR), server=False)
    _handshake(client, server, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(client, server, "acme.example")


def test_a_server_certificate_is_no_client_certificate(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.generate(SHOP, now, DAY)
    issued = authority.issue_server_certificate(["api.acme.example"], now, HOUR)
    server = _context(tmp_path / "server", authority, issued, server=True)
    client = _context(tmp_path / "client", authority, issued, server=False)
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        _handshake(client, server, "api.acme.example")


def _context(directory: Path, authority: Authority, issued: IssuedSvid, *, server: bool) -> ssl.SSLContext:
    directory.mkdir()
    (directory / "svid.pem").write_bytes(issued.certificate_pem)
    (directory / "key.pem").write_bytes(issued.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(directory / "svid.pem", directory / "key.pem")
    context.load_verify_locations(cadata=authority.certificate_pem.decode("ascii"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> Mapping[str, object]:
    """Shake hands in memory, and give what the server saw of the client's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(to_client, to_server, server_hostname=host)
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):  # TLS 1.3 needs three flights
        for end in (client_end, server_end):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return server_end.getpeercert() or {}


def test_an_svid_is_valid_from_a_minute_ago_for_its_lifetime(authority: Authority) -> None:
    later = NOW + HOUR
    issued = authority.issue_x509_svid(ORDERS, later, HOUR)
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem)
    assert certificate.not_valid_before_utc == later.replace(microsecond=0) - timedelta(minutes=1)
    assert certificate.not_valid_after_utc == issued.not_after == later.replace(microsecond=0) + HOUR


def test_no_svid_outlives_its_authority_or_begins_before_it(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.certificate_pem)
    issued = authority.issue_x509_svid(ORDERS, NOW, timedelta(days=999_999))
    svid = x509.load_pem_x509_certificate(issued.certificate_pem)
    assert svid.not_valid_after_utc == authority.not_after == certificate.not_valid_after_utc
    early = authority.issue_x509_svid(ORDERS, NOW - timedelta(seconds=30), HOUR)
    svid = x509.load_pem_x509_certificate(early.certificate_pem)
    assert svid.not_valid_before_utc == certificate.not_valid_before_utc


@pytest.mark.parametrize("late", [DAY, DAY - SECOND / 2, DAY * 400])
def test_an_authority_that_is_over_issues_nothing(authority: Authority, late: timedelta) -> None:
    with pytest.raises(AuthorityError, match=r"`shop\.example` is over: it was valid until 2026-06-02T12:00:00"):
        authority.issue_x509_svid(ORDERS, NOW + late, HOUR)


def test_an_authority_that_is_not_valid_yet_issues_nothing(authority: Authority) -> None:
    with pytest.raises(AuthorityError, match="not valid yet"):
        authority.issue_x509_svid(ORDERS, NOW - DAY, HOUR)


@pytest.mark.parametrize("lifetime", [timedelta(0), -HOUR, timedelta(milliseconds=999)])
def test_no_lifetime_is_shorter_than_a_second(authority: Authority, lifetime: timedelta) -> None:
    with pytest.raises(AuthorityError, match="one second"):
        authority.issue_x509_svid(ORDERS, NOW, lifetime)
    with pytest.raises(AuthorityError, match="one second"):
        Authority.generate(SHOP, NOW, lifetime)


def test_no_authority_lives_for_more_than_ten_years() -> None:
    with pytest.raises(AuthorityError, match="ten years"):
        Authority.generate(SHOP, NOW, timedelta(days=3651))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("spiffe://acme.example/orders", "does not issue `spiffe://acme.example/orders`"),
        ("spiffe://sub.shop.example/orders", "does not issue"),
        ("spiffe://shop.example", "has no path"),
    ],
)
def test_an_authority_speaks_only_for_workloads_of_its_own_trust_domain(
    authority: Authority, text: str, why: str
) -> None:
    with pytest.raises(AuthorityError, match=why):
        authority.issue_x509_svid(SpiffeId.parse(text), NOW, HOUR)


def test_serials_and_keys_never_repeat(authority: Authority) -> None:
    issued = [authority.issue_x509_svid(ORDERS, NOW, HOUR) for _ in range(20)]
    certificates = [x509.load_pem_x509_certificate(one.certificate_pem) for one in issued]
    assert len({certificate.serial_number for certificate in certificates}) == 20
    assert max(certificate.serial_number for certificate in certificates).bit_length() > 128
    assert len({one.key_pem for one in issued}) == 20


def test_two_authorities_of_one_trust_domain_have_different_names(authority: Authority) -> None:
    other = x509.load_pem_x509_certificate(Authority.generate(SHOP, NOW, DAY).certificate_pem)
    assert other.subject != x509.load_pem_x509_certificate(authority.certificate_pem).subject


def test_the_longest_trust_domain_has_an_authority() -> None:
    longest = TrustDomain.parse("a" * 255)
    assert Authority.from_pem(Authority.generate(longest, NOW, DAY).to_pem()).trust_domain == longest


def test_a_server_certificate_has_the_names_and_serves_only(authority: Authority) -> None:
    issued = authority.issue_server_certificate(["api.acme.example", "*.acme.example"], NOW, HOUR)
    extensions = x509.load_pem_x509_certificate(issued.certificate_pem).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["api.acme.example", "*.acme.example"]
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize(
    "name",
    [
        *("", "*", "*.", "a.*", "*.*.a", "a*.b", "A.example", "a..b", ".a", "a.", "-a.b", "a-.b", "a b", "a\n"),
        *("é.b", "a" * 64, "a." * 127, "a:1", "spiffe://a/b", "a\0b"),
    ],
)
def test_what_is_no_lower_case_dns_name_gets_no_server_certificate(authority: Authority, name: str) -> None:
    with pytest.raises(AuthorityError, match="no lower-case DNS name"):
        authority.issue_server_certificate([name], NOW, HOUR)


@pytest.mark.parametrize("count", [0, 257])
def test_a_server_certificate_has_at_least_one_name_and_not_too_many(authority: Authority, count: int) -> None:
    with pytest.raises(AuthorityError, match=f"1 to 256 names, not {count}"):
        authority.issue_server_certificate(["a.example"] * count, NOW, HOUR)


def test_an_authority_that_was_kept_is_the_same_authority(authority: Authority) -> None:
    again = Authority.from_pem(authority.to_pem())
    assert (again.trust_domain, again.certificate_pem, again.to_pem(), again.not_after) == (
        authority.trust_domain,
        authority.certificate_pem,
        authority.to_pem(),
        authority.not_after,
    )
    issued = again.issue_x509_svid(ORDERS, NOW, HOUR)
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate_pem))


def _with_other_key(kept: bytes) -> bytes:
    return (
        kept[: kept.index(b"-----BEGIN PRIVATE KEY")]
        + Authority.generate(SHOP, NOW, DAY).to_pem().partition(b"-----END CERTIFICATE-----\n")[2]
    )


def _encrypted(kept: bytes) -> bytes:
    key = load_pem_private_key(kept, None)
    return kept[: kept.index(b"-----BEGIN PRIVATE KEY")] + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


def _with_edwards_key(kept: bytes) -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return kept[: kept.index(b"-----BEGIN PRIVATE KEY")] + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def _forged(kept: bytes) -> bytes:
    end = kept.index(b"=\n-----END CERTIFICATE") if b"=\n-----END C" in kept else kept.index(b"\n-----END CERTIFICATE")
    last = kept[end - 12 : end - 11]  # in the signature
    return kept[: end - 12] + (b"A" if last != b"A" else b"B") + kept[end - 11 :]


def _leaf_with_key(_: bytes) -> bytes:
    issued = Authority.generate(SHOP, NOW, DAY).issue_x509_svid(ORDERS, NOW, HOUR)
    return issued.certificate_pem + issued.key_pem


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda _: b"", "not an authority"),
        (lambda _: b"garbage", "not an authority"),
        (lambda kept: kept[: len(kept) // 2], "not an authority"),
        (lambda kept: kept[: kept.index(b"-----BEGIN PRIVATE")], "not an authority"),
        (lambda kept: kept[kept.index(b"-----BEGIN PRIVATE") :], "not an authority"),
        (lambda kept: kept.replace(b"CERTIFICATE", b"CERTIFICATES"), "not an authority"),
        (lambda kept: Authority.generate(SHOP, NOW, DAY).certificate_pem + kept, "one certificate, not 2"),
        (lambda kept: kept + b"x" * MAX_AUTHORITY_BYTES, f"at most {MAX_AUTHORITY_BYTES} bytes"),
        (_with_other_key, "does not belong to its certificate"),
        (_encrypted, "unencrypted"),
        (_with_edwards_key, "P-256"),
        (_forged, "not an authority"),
        (_leaf_with_key, "not a CA's"),
    ],
)
def test_what_is_no_authority_is_not_taken_for_one(
    authority: Authority, damage: Callable[[bytes], bytes], why: str
) -> None:
    with pytest.raises(AuthorityError, match=why):
        Authority.from_pem(damage(authority.to_pem()))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["spiffe://shop.example", "spiffe://parts.example"], "has one SPIFFE ID, not 2"),
        ([], "has one SPIFFE ID, not 0"),
        (["spiffe://shop.example/orders"], "`spiffe://shop.example/orders` has a path"),
        (["https://shop.example"], "not an authority"),
    ],
)
def test_a_signing_certificate_stands_for_exactly_one_trust_domain(names: list[str], why: str) -> None:
    certificate = leaf(
        [URI(name) for name in names],
        subject="ca",
        issuer="ca",
        constraints=x509.BasicConstraints(ca=True, path_length=0),
        usage=key_usage("key_cert_sign"),
    )
    with pytest.raises(AuthorityError, match=why):
        Authority.from_pem(with_key(certificate))


def test_no_representation_shows_a_private_key(authority: Authority) -> None:
    issued = authority.issue_x509_svid(ORDERS, NOW, HOUR)
    secret_lines = set(itertools.chain(authority.to_pem().split(b"\n"), issued.key_pem.split(b"\n")))
    secret_lines -= set(authority.certificate_pem.split(b"\n"))
    for shown in (repr(authority), str(authority), repr(issued), str(issued)):
        assert not any(line.decode() in shown for line in secret_lines if line)


def test_a_jwt_svid_has_the_claims_and_the_header_that_the_standard_asks_for_and_no_more(authority: Authority) -> None:
    issued = authority.issue_jwt_svid(ORDERS, ["spiffe://shop.example/catalog", "b"], NOW, 300 * SECOND)
    assert authority.jwt is not None
    assert jwt.get_unverified_header(issued.token) == {"alg": "ES256", "kid": authority.jwt.key_id, "typ": "JWT"}
    claims = jwt.decode(
        issued.token, authority.jwt.public_key, algorithms=["ES256"], audience="b", options={"verify_exp": False}
    )
    began_s = int(NOW.timestamp())
    assert claims == {
        "sub": str(ORDERS),
        "aud": ["spiffe://shop.example/catalog", "b"],
        "exp": began_s + 300,
        "iat": began_s,
    }
    assert issued.not_after == NOW.replace(microsecond=0) + 300 * SECOND


def test_no_jwt_svid_outlives_its_authority(authority: Authority) -> None:
    assert authority.issue_jwt_svid(ORDERS, ["a"], NOW, 400 * DAY).not_after == authority.not_after
    with pytest.raises(AuthorityError, match="is over"):
        authority.issue_jwt_svid(ORDERS, ["a"], NOW + DAY, HOUR)


@pytest.mark.parametrize("audience", [[], [""], ["a"] * 65, ["x" * 2049], "a"])
def test_a_jwt_svid_is_for_somebody(authority: Authority, audience: list[str]) -> None:
    with pytest.raises(AuthorityError, match="audience"):
        authority.issue_jwt_svid(ORDERS, audience, NOW, HOUR)


@pytest.mark.parametrize("text", ["spiffe://acme.example/orders", "spiffe://shop.example"])
def test_tokens_too_are_only_for_workloads_of_the_own_trust_domain(authority: Authority, text: str) -> None:
    with pytest.raises(AuthorityError, match=r"does not issue|has no path"):
        authority.issue_jwt_svid(SpiffeId.parse(text), ["a"], NOW, HOUR)


def test_the_key_of_tokens_is_not_that_of_certificates_and_is_kept_with_it(authority: Authority) -> None:
    assert authority.jwt is not None
    again = Authority.from_pem(authority.to_pem())
    assert again.jwt is not None
    assert again.jwt.key_id == authority.jwt.key_id
    assert again.jwt.not_after == authority.jwt.not_after == authority.not_after
    certificate = x509.load_pem_x509_certificate(authority.certificate_pem)
    assert authority.jwt.public_key != certificate.public_key()


def test_an_authority_that_was_kept_without_a_key_for_tokens_issues_certificates_only(authority: Authority) -> None:
    head, end, _ = authority.to_pem().partition(b"-----END PRIVATE KEY-----\n")
    earlier = Authority.from_pem(head + end)
    assert earlier.issue_x509_svid(ORDERS, NOW, HOUR).not_after > NOW
    with pytest.raises(AuthorityError, match="without a key for JWT-SVIDs"):
        earlier.issue_jwt_svid(ORDERS, ["a"], NOW, HOUR)


def test_a_kid_is_the_thumbprint_of_the_key_as_another_implementation_writes_it(authority: Authority) -> None:
    assert authority.jwt is not None
    jwk = ECAlgorithm.to_jwk(authority.jwt.public_key, as_dict=True)
    text = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"), sort_keys=True)
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
    assert authority.jwt.key_id == digest.rstrip(b"=").decode()
