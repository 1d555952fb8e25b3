"""What an attacker would send: refused with an error of ours, within bounds that are counted, not timed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings, strategies as st

from authz.identity.base64url import base64url, bytes_from_base64url
from authz.identity.bundle import (
    MAX_AUTHORITIES,
    MAX_BUNDLE_BYTES,
    Bundle,
    BundleError,
    bundle_from_der,
    bundle_from_json,
    bundle_from_pem,
    jwt_bundle_from_json,
)
from authz.identity.jwt_svid import MAX_KEYS_TRIED, MAX_TOKEN_BYTES, JwtSvidError, claims_of, verify_jwt_svid
from authz.identity.public_key import PublicKeyError, key_from_members, usable_key
from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_chain import (
    MAX_CHAIN_CERTIFICATES,
    MAX_SIGNATURE_CHECKS,
    _PathSearch,
    chain_from_pem,
    verify_x509_svid,
)
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES, X509SvidError
from tests.support.identity_descriptions import NOW, NOW_NS, NOW_S, Certificates, key, signature, token

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOP = TrustDomain(name="shop.example")
ORDERS = "spiffe://shop.example/orders"
PLAIN = Certificates({"root": {"signer": True}, "leaf": {}})
LEAF = PLAIN.der("leaf")
BUNDLE = Bundle(
    trust_domain=SHOP, x509_authorities=(PLAIN["root"],), jwt_authorities={"one": key("p256-one").public_key()}
)
TRUST = Trust.of([BUNDLE])
CLAIMS = {"sub": ORDERS, "aud": "catalog", "exp": NOW_S + 300}
TOKEN = token({"header": {"alg": "ES256", "kid": "one"}, "claims": CLAIMS, "key": "p256-one"})

# DER of object identifiers, with their tags
_SHA256_RSA, _SHA1_RSA, _MD5_RSA = (bytes.fromhex(f"06092a864886f70d0101{each}") for each in ("0b", "05", "04"))
_KEY_ID, _AUTHORITY_KEY_ID, _USAGE = (bytes.fromhex(f"0603551d{each}") for each in ("0e", "23", "0f"))


def refusal(chain: Sequence[bytes], trust: Trust = TRUST) -> str:
    with pytest.raises(X509SvidError) as refused:
        verify_x509_svid(chain, trust, NOW)
    assert str(refused.value).isprintable()
    return str(refused.value)


def one_line(error: Exception) -> None:
    assert str(error)
    assert str(error).isprintable()


def token_refusal(content: bytes | str) -> str:
    with pytest.raises(JwtSvidError) as refused:
        verify_jwt_svid(content, TRUST, "catalog", NOW_NS)
    assert str(refused.value).isprintable()
    return str(refused.value)


# --- certificates


def test_the_right_ones_are_proven() -> None:
    assert str(verify_x509_svid([LEAF], TRUST, NOW).spiffe_id) == ORDERS
    assert str(verify_jwt_svid(TOKEN, TRUST, "catalog", NOW_NS).spiffe_id) == ORDERS


def test_a_certificate_that_is_cut_anywhere_or_goes_on_is_refused() -> None:
    for length in range(len(LEAF)):
        refusal([LEAF[:length]])
    for behind in (b"\0", b"\0\0", LEAF, b"\x30\x00"):
        refusal([LEAF + behind])


@pytest.mark.parametrize("oid", [_KEY_ID, _USAGE])
def test_an_extension_that_stands_twice_is_refused(oid: bytes) -> None:
    assert LEAF.count(_AUTHORITY_KEY_ID) == 1
    refusal([LEAF.replace(_AUTHORITY_KEY_ID, oid)])


def test_a_name_that_is_none_is_refused() -> None:
    # Found by fuzzing: the library reads names when they are first asked for.
    utf8_of_root = b"\x0c\x04root"
    assert LEAF.count(utf8_of_root) == 1
    assert "cannot be read" in refusal([LEAF.replace(utf8_of_root, b"\x4c\x04root")])
    with pytest.raises(BundleError, match="cannot be read"):
        bundle_from_der(PLAIN.der("root").replace(utf8_of_root, b"\x4c\x04root"), SHOP)


def test_sha_1_and_md5_prove_nothing() -> None:
    certificates = Certificates({"root": {"signer": True, "key": "rsa2048-root"}, "leaf": {}})
    trust = Trust.of([Bundle(trust_domain=SHOP, x509_authorities=(certificates["root"],))])
    for weak in (_SHA1_RSA, _MD5_RSA):
        changed = certificates.der("leaf").replace(_SHA256_RSA, weak)
        assert "signature algorithm" in refusal([changed], trust)


def test_two_signature_algorithms_in_one_certificate_are_refused() -> None:
    certificates = Certificates({"root": {"signer": True, "key": "rsa2048-root"}, "leaf": {}})
    trust = Trust.of([Bundle(trust_domain=SHOP, x509_authorities=(certificates["root"],))])
    inner, outer = certificates.der("leaf").split(_SHA256_RSA)[0], certificates.der("leaf").split(_SHA256_RSA, 1)[1]
    refusal([inner + bytes.fromhex("06092a864886f70d01010c") + outer], trust)


@pytest.mark.parametrize("serial", [0, 1 << 159])
def test_serials_that_are_none_are_refused(serial: int) -> None:
    content = Certificates({"root": {"signer": True}, "leaf": {"serial": 0x4A}}).der("leaf")
    written = b"\x02\x01\x00" if serial == 0 else b"\x02\x01\x80"
    assert content.count(b"\x02\x01\x4a") == 1
    assert "not positive" in refusal([content.replace(b"\x02\x01\x4a", written)])


def test_a_list_of_names_of_any_length_is_read_or_refused_by_its_size() -> None:
    names = [f"h{number}.example" for number in range(3000)]
    many = Certificates({"root": {"signer": True}, "leaf": {"dns": names}}).der("leaf")
    assert len(many) < MAX_CERTIFICATE_BYTES
    assert str(verify_x509_svid([many], TRUST, NOW).spiffe_id) == ORDERS
    too_many = Certificates({"root": {"signer": True}, "leaf": {"dns": names * 2}}).der("leaf")
    assert "bytes" in refusal([too_many])
    ids = [f"spiffe://shop.example/{number}" for number in range(1500)]
    assert "has 1500" in refusal([Certificates({"root": {"signer": True}, "leaf": {"uris": ids}}).der("leaf")])


def test_a_chain_of_more_certificates_than_any_is_refused_unread() -> None:
    assert "at most" in refusal([LEAF] * (MAX_CHAIN_CERTIFICATES + 1))
    pem = PLAIN["leaf"].public_bytes(Encoding.PEM)
    with pytest.raises(X509SvidError, match="at most"):
        chain_from_pem(pem * (MAX_CHAIN_CERTIFICATES + 1))
    assert refusal([]) == "no certificate"


def test_intermediates_that_all_sign_each_other_cost_a_bounded_number_of_signatures() -> None:
    # Each of them has signed each other one: 9! paths, and none leads to an authority.
    crowd = {
        f"c{number}": {
            "signer": True,
            "issuer": f"c{number}",
            "subject": "crowd",
            "key": "p256-crowd",
            "serial": number,
        }
        for number in range(1, MAX_CHAIN_CERTIFICATES)
    }
    certificates = Certificates({**crowd, "leaf": {"issuer": "c1"}})
    chain = [certificates.der(name) for name in ("leaf", *crowd)]
    assert f"within {MAX_SIGNATURE_CHECKS} signatures" in refusal(chain)
    search = _PathSearch(trust_domain=SHOP, authorities=BUNDLE.x509_authorities, now=NOW)
    with pytest.raises(X509SvidError):
        search.require_path(certificates["leaf"], tuple(certificates[name] for name in crowd))
    assert search.checks == MAX_SIGNATURE_CHECKS + 1


def test_many_authorities_of_one_name_cost_a_bounded_number_of_signatures() -> None:
    described = {f"c{number}": {"signer": True, "subject": "root", "key": f"p256-c{number}"} for number in range(40)}
    certificates = Certificates(described)
    trust = Trust.of([Bundle(trust_domain=SHOP, x509_authorities=tuple(certificates[name] for name in described))])
    assert f"within {MAX_SIGNATURE_CHECKS} signatures" in refusal([LEAF], trust)


def test_an_extension_that_is_nested_without_end_does_no_harm() -> None:
    nested = b""
    for _ in range(2000):
        nested = b"\x30" + _length(len(nested)) + nested
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.2"), nested)
    builder = x509.CertificateBuilder(
        issuer_name=PLAIN["root"].subject,
        subject_name=x509.Name([]),
        public_key=key("leaf").public_key(),
        serial_number=7,
        not_valid_before=NOW,
        not_valid_after=NOW,
        extensions=[*PLAIN["leaf"].extensions, x509.Extension(unknown.oid, critical=False, value=unknown)],
    )
    certificate = builder.sign(key("root"), PLAIN["leaf"].signature_hash_algorithm)  # type: ignore[arg-type]
    assert str(verify_x509_svid([certificate.public_bytes(Encoding.DER)], TRUST, NOW).spiffe_id) == ORDERS


def _length(octets: int) -> bytes:
    if octets < 0x80:
        return bytes([octets])
    return b"\x82" + octets.to_bytes(2, "big")


def test_a_signer_whose_extensions_cannot_be_read_signs_nothing() -> None:
    certificates = Certificates(
        {"root": {"signer": True}, "middle": {"signer": True, "issuer": "root"}, "leaf": {"issuer": "middle"}}
    )
    twice = certificates.der("middle").replace(_AUTHORITY_KEY_ID, _KEY_ID)
    assert "cannot be read" in refusal([certificates.der("leaf"), twice])


def test_more_certificates_or_bytes_than_any_bundle_has_are_refused() -> None:
    with pytest.raises(BundleError, match="more than 256"):
        bundle_from_der(PLAIN.der("root") * (MAX_AUTHORITIES + 1), SHOP)
    with pytest.raises(BundleError, match="at most 256"):
        bundle_from_pem(BUNDLE.x509_pem * (MAX_AUTHORITIES + 1), SHOP)
    with pytest.raises(X509SvidError, match="bytes"):
        chain_from_pem(b"-" * (MAX_CERTIFICATE_BYTES + 1))


def test_an_authority_whose_key_is_none_is_left_out() -> None:
    # The point of the key is moved off its curve.
    content = PLAIN.der("root")
    point = key("root").public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert content.count(point) == 1
    broken = content.replace(point, point[:-1] + bytes([point[-1] ^ 1]))
    bundle = bundle_from_der(broken + content, SHOP)
    assert bundle.x509_authorities == BUNDLE.x509_authorities
    assert len(bundle.ignored) == 1
    assert verify_x509_svid([LEAF], Trust.of([bundle]), NOW)


# --- keys


@pytest.mark.parametrize(
    ("modulus_bits", "exponent"),
    [(512, 65537), (1024, 65537), (2047, 65537), (16384, 65537), (2048, 1), (2048, 2**33 + 1)],
)
def test_rsa_keys_that_are_weak_or_costly_are_no_keys(modulus_bits: int, exponent: int) -> None:
    modulus = (1 << modulus_bits) - 159
    members = {
        "kty": "RSA",
        "n": base64url(modulus.to_bytes((modulus_bits + 7) // 8, "big")),
        "e": base64url(exponent.to_bytes((exponent.bit_length() + 7) // 8, "big")),
    }
    with pytest.raises(PublicKeyError):
        key_from_members(members)


def test_keys_of_other_kinds_are_no_keys() -> None:
    for kind in (key("ed25519-x").public_key(), ec.generate_private_key(ec.SECP256K1()).public_key(), "key", None):
        with pytest.raises(PublicKeyError):
            usable_key(kind)
    assert usable_key(rsa.generate_private_key(3, 2048).public_key())


# --- tokens


def test_a_token_that_is_cut_anywhere_or_goes_on_is_refused() -> None:
    for length in range(len(TOKEN)):
        token_refusal(TOKEN[:length])
    for behind in (b".", b"A", b"=", b"\n", b"\0", b" ", TOKEN):
        token_refusal(TOKEN + behind)
        token_refusal(behind + TOKEN)


@pytest.mark.parametrize(
    "claims",
    [
        "[" * 6000,
        '{"a":' * 2500,
        '{"sub": ' + "[" * 3000 + "]" * 3000 + "}",
        '{"sub": "\\ud800"}',
        '{"sub": "' + ORDERS + '", "aud": "\\ud800", "exp": 99999999999}',
        '{"exp": ' + "9" * 5000 + "}",
        '{"exp": 1' + "0" * 5000 + ".0}",
        '\ufeff{"sub": 1}',
        '{"\\u0000": 1}',
        "",
        " ",
        "null",
        '"x"',
    ],
    ids=range(13),
)
def test_claims_that_would_hurt_a_reader_are_refused(claims: str) -> None:
    token_refusal(_signed(claims))


def _signed(claims: str | bytes) -> bytes:
    content = claims if isinstance(claims, bytes) else claims.encode()
    signed = f"{base64url(json.dumps({'alg': 'ES256', 'kid': 'one'}).encode())}.{base64url(content)}".encode()
    return signed + b"." + base64url(signature("p256-one", "ES256", signed)).encode()


def test_claims_in_another_encoding_are_refused() -> None:
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        token_refusal(_signed(json.dumps(CLAIMS).encode(encoding)))
    token_refusal(_signed(b'{"sub": "\xff"}'))


def test_a_token_of_any_size_is_refused_unread() -> None:
    assert "at most" in token_refusal(b"." * (MAX_TOKEN_BYTES + 1))
    assert "at most" in token_refusal("ü" * (MAX_TOKEN_BYTES + 1))
    assert "characters" in token_refusal(TOKEN.decode() + "ü")


def test_a_signature_with_the_other_s_proves_the_same_and_nothing_else() -> None:
    # ECDSA is malleable: (r, n - s) is a signature of the same content. A token's bytes are therefore no name for it.
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    signed, _, encoded = TOKEN.rpartition(b".")
    raw = bytes_from_base64url(encoded)
    other = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    twin = signed + b"." + base64url(other).encode()
    assert verify_jwt_svid(twin, TRUST, "catalog", NOW_NS) == verify_jwt_svid(TOKEN, TRUST, "catalog", NOW_NS)


def test_nobody_is_the_empty_audience() -> None:
    for_nobody = token({"header": {"alg": "ES256"}, "claims": {**CLAIMS, "aud": ["", "catalog"]}, "key": "p256-one"})
    assert verify_jwt_svid(for_nobody, TRUST, "catalog", NOW_NS).audience == ("", "catalog")
    with pytest.raises(JwtSvidError, match="audience"):
        verify_jwt_svid(for_nobody, TRUST, "", NOW_NS)


def test_keys_tried_for_a_token_that_names_none_are_bounded() -> None:
    keys = {f"k{number}": key(f"p256-k{number}").public_key() for number in range(MAX_KEYS_TRIED + 1)}
    nameless = token({"header": {"alg": "ES256"}, "claims": CLAIMS, "key": "p256-k0"})
    few = Bundle(trust_domain=SHOP, jwt_authorities={name: keys[name] for name in list(keys)[:MAX_KEYS_TRIED]})
    assert verify_jwt_svid(nameless, Trust.of([few]), "catalog", NOW_NS).key_id == "k0"
    with pytest.raises(JwtSvidError, match="more than"):
        verify_jwt_svid(nameless, Trust.of([Bundle(trust_domain=SHOP, jwt_authorities=keys)]), "catalog", NOW_NS)


# --- bundles


def test_a_bundle_of_any_size_is_refused_unread() -> None:
    for read in (bundle_from_json, bundle_from_pem, bundle_from_der, jwt_bundle_from_json):
        with pytest.raises(BundleError, match="at most"):
            read(b" " * (MAX_BUNDLE_BYTES + 1), SHOP)


@pytest.mark.parametrize("document", [b"[" * 100_000, b'{"keys":' * 100_000, b'{"keys": [' + b"[" * 100_000])
def test_a_bundle_that_is_nested_without_end_is_refused(document: bytes) -> None:
    with pytest.raises(BundleError):
        bundle_from_json(document, SHOP)


def test_no_message_repeats_a_secret() -> None:
    private = key("p256-one").private_numbers().private_value  # type: ignore[union-attr]
    secret = base64url(private.to_bytes(32, "big"))
    entry = {**json.loads(BUNDLE.to_jwks())["keys"][0], "d": secret}
    bundle = bundle_from_json(json.dumps({"keys": [entry]}).encode(), SHOP)
    assert bundle.is_empty
    assert secret not in repr(bundle)


# --- laws


def changed(content: bytes, damages: Sequence[tuple[float, int, bytes]]) -> bytes:
    for where, length, piece in damages:
        start = int(where * len(content))
        content = content[:start] + piece + content[start + length :]
    return content


DAMAGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)


@settings(max_examples=300, deadline=None)
@given(damages=DAMAGES)
def test_a_changed_certificate_never_proves_another_identity(damages: list[tuple[float, int, bytes]]) -> None:
    try:
        svid = verify_x509_svid([changed(LEAF, damages)], TRUST, NOW)
    except X509SvidError as error:
        one_line(error)
    else:
        assert svid == verify_x509_svid([LEAF], TRUST, NOW)


@settings(max_examples=300, deadline=None)
@given(damages=DAMAGES)
def test_a_changed_token_never_proves_anything_else(damages: list[tuple[float, int, bytes]]) -> None:
    try:
        svid = verify_jwt_svid(changed(TOKEN, damages), TRUST, "catalog", NOW_NS)
    except JwtSvidError as error:
        one_line(error)
    else:
        assert svid == verify_jwt_svid(TOKEN, TRUST, "catalog", NOW_NS)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=400) | st.text(alphabet='eyJ.-_A=\n{}"', max_size=100).map(str.encode))
def test_any_bytes_are_refused_as_a_token_and_as_a_certificate(content: bytes) -> None:
    refusal([content])
    token_refusal(content)
    with pytest.raises(JwtSvidError):
        claims_of(content)
    with pytest.raises(X509SvidError):
        chain_from_pem(content)


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_ENTRY = json.loads(BUNDLE.to_json())["keys"]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bundle_document_is_a_bundle_or_refused(data: st.DataObject) -> None:
    entries = []
    for entry in _ENTRY:
        members = data.draw(st.dictionaries(st.sampled_from([*entry, "d", "x"]), _JSON, max_size=2))
        entries.append({**entry, **members})
    top = data.draw(
        st.dictionaries(st.sampled_from(["spiffe_sequence", "spiffe_refresh_hint", "x"]), _JSON, max_size=2)
    )
    try:
        bundle = bundle_from_json(json.dumps({"keys": entries, **top}).encode(), SHOP)
    except BundleError as error:
        one_line(error)
        return
    assert all(each.isprintable() for each in bundle.ignored)
    assert bundle_from_json(bundle.to_json(), SHOP) == bundle
    assert set(bundle.x509_authorities) <= set(BUNDLE.x509_authorities)


@settings(max_examples=200, deadline=None)
@given(damages=DAMAGES)
def test_any_bytes_are_a_bundle_or_refused(damages: list[tuple[float, int, bytes]]) -> None:
    for read, content in (
        (bundle_from_json, BUNDLE.to_json()),
        (bundle_from_pem, BUNDLE.x509_pem),
        (bundle_from_der, BUNDLE.x509_der),
        (jwt_bundle_from_json, BUNDLE.to_jwks()),
    ):
        try:
            bundle = read(changed(content, damages), SHOP)
        except BundleError as error:
            one_line(error)
        else:
            assert bundle_from_json(bundle.to_json(), SHOP) == bundle
