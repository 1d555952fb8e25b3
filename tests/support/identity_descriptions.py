"""A test authority: certificates, tokens and bundles from a description, each rule broken as the description says.

Keys are made once for each name, whose beginning says the kind: `rsa2048-...`, `p384-...`, `p521-...`, `ed25519-...`,
else P-256. Times are seconds from NOW.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from authz.identity.base64url import base64url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
NOW_NS = NOW_S * 1_000_000_000

_CURVES = {"p384": ec.SECP384R1(), "p521": ec.SECP521R1(), "k256": ec.SECP256K1()}
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_EXTENDED = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "email": ExtendedKeyUsageOID.EMAIL_PROTECTION,
}
_LEAF: dict[str, Any] = {
    "uris": ["spiffe://shop.example/orders"],
    "ca": False,
    "usage": ["digital_signature"],
    "extended": ["server", "client"],
    "subject": None,
}
_SIGNER: dict[str, Any] = {
    "uris": ["spiffe://shop.example"],
    "ca": True,
    "usage": ["key_cert_sign", "crl_sign"],
    "extended": None,
    "san_critical": False,
}


@cache
def key(name: str) -> CertificateIssuerPrivateKeyTypes:
    """Give the private key of this name."""
    kind = name.partition("-")[0]
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("rsa") or 2048))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(_CURVES.get(kind, ec.SECP256R1()))


class Certificates:
    """The certificates of one case by name, each made when it is asked for, around an instant."""

    def __init__(self, described: Mapping[str, Mapping[str, Any]], now: datetime = NOW) -> None:
        self._described = described
        self._now = now
        self._made: dict[str, x509.Certificate] = {}

    def __getitem__(self, name: str) -> x509.Certificate:
        if name not in self._made:
            self._made[name] = self._certificate(name, self._whole(name))
        return self._made[name]

    def der(self, name: str) -> bytes:
        return self[name].public_bytes(Encoding.DER)

    def key_of(self, name: str) -> CertificateIssuerPrivateKeyTypes:
        return key(str(self._whole(name).get("key", name)))

    def _whole(self, name: str) -> dict[str, Any]:
        given = dict(self._described[name])
        signer = given.pop("signer", given.get("ca", False))
        return {**(_SIGNER if signer else _LEAF), "issuer": name if signer else "root", **given}

    def _subject(self, name: str) -> x509.Name:
        common_name = self._whole(name).get("subject", name)
        attributes = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        return x509.Name(attributes)

    def _certificate(self, name: str, of: dict[str, Any]) -> x509.Certificate:
        issuer = of["issuer"]
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._subject(name))
            .issuer_name(self._subject(of.get("issuer_name", issuer)))
            .public_key(self.key_of(name).public_key())
            .serial_number(of.get("serial", 1 + sum(name.encode())))
            .not_valid_before(self._now + timedelta(seconds=of.get("not_before", -60)))
            .not_valid_after(self._now + timedelta(seconds=of.get("not_after", 3600)))
        )
        for extension, critical in _extensions(of):
            builder = builder.add_extension(extension, critical=critical)
        # RFC 5280 4.2.1.1, 4.2.1.2: by these a verifier tells two authorities of one name apart.
        own, above = self.key_of(name).public_key(), self.key_of(issuer).public_key()
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above), critical=False)
        signing = key(of["signed_with"]) if "signed_with" in of else self.key_of(issuer)
        if isinstance(signing, ed25519.Ed25519PrivateKey):
            return builder.sign(signing, None)
        digest = _HASHES[of.get("hash", "sha256")]
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size) if of.get("pss") else None
        return builder.sign(signing, digest, rsa_padding=pss)


def _extensions(of: Mapping[str, Any]) -> list[tuple[x509.ExtensionType, bool]]:
    found: list[tuple[x509.ExtensionType, bool]] = []
    if of["ca"] is not None:
        constraints = x509.BasicConstraints(ca=of["ca"], path_length=of.get("path_length"))
        found.append((constraints, of.get("ca_critical", True)))
    if of["usage"] is not None:
        found.append((x509.KeyUsage(**{each: each in of["usage"] for each in _USAGES}), of.get("usage_critical", True)))
    if of["extended"] is not None:
        found.append(
            (x509.ExtendedKeyUsage([_EXTENDED[each] for each in of["extended"]]), of.get("extended_critical", False))
        )
    names: list[x509.GeneralName] = [
        *(x509.UniformResourceIdentifier(each) for each in of["uris"] or ()),
        *(x509.DNSName(each) for each in of.get("dns", ())),
        *(x509.RFC822Name(each) for each in of.get("mail", ())),
    ]
    if names:
        found.append((x509.SubjectAlternativeName(names), of.get("san_critical", True)))
    if "permitted" in of or "excluded" in of:
        permitted, excluded = (
            [x509.UniformResourceIdentifier(each) for each in of[name]] if name in of else None
            for name in ("permitted", "excluded")
        )
        found.append((x509.NameConstraints(permitted, excluded), True))
    if "unknown_extension" in of:
        unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
        found.append((unknown, of["unknown_extension"] == "critical"))
    return found


def token(described: Mapping[str, Any], now_s: int = NOW_S) -> bytes:
    """Sign a token: `header` and `claims` as they are, or as text; `key` signs, with `alg` of the header or `with`."""
    header, claims = (
        (described[part] if isinstance(described[part], str) else json.dumps(timed(described[part], now_s))).replace(
            "NOW", str(now_s)
        )
        for part in ("header", "claims")
    )
    signed = f"{base64url(header.encode())}.{base64url(claims.encode())}".encode()
    algorithm = described.get("with") or json.loads(header)["alg"]
    return signed + b"." + base64url(signature(described["key"], algorithm, signed)).encode()


def timed(value: Any, now_s: int = NOW_S) -> Any:
    """Put instants in the place of `{now: SECONDS}`."""
    match value:
        case {"now": seconds}:
            return now_s + seconds
        case dict():
            return {name: timed(each, now_s) for name, each in value.items()}
        case _:
            return value


def signature(key_name: str, algorithm: str, signed: bytes) -> bytes:
    """Sign as JWS does: RFC 7518 3.3 to 3.5."""
    private, digest = key(key_name), _HASHES[f"sha{algorithm[2:]}"]
    if isinstance(private, ec.EllipticCurvePrivateKey):
        octets = (private.curve.key_size + 7) // 8
        r, s = decode_dss_signature(private.sign(signed, ec.ECDSA(digest)))
        return r.to_bytes(octets, "big") + s.to_bytes(octets, "big")
    assert isinstance(private, rsa.RSAPrivateKey)
    if algorithm.startswith("PS"):
        return private.sign(signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return private.sign(signed, padding.PKCS1v15(), digest)
