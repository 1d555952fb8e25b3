"""Whether a token proves a SPIFFE ID to us, now: JWT-SVID, read strictly, and verified with the subject's own bundle.

Decides by the bytes of the token, a bundle, an audience and an instant. Not decided here: whether the bearer is the
subject or may speak for it (the policy), and whether the token has been used before: it can be replayed until it
expires (JWT-SVID 7.1).

What a token says is read by the strict readers of this package; of the library only signatures are asked for.

# INVARIANT (the bundle's keys alone): no key and no address of a key is taken from a token, and of algorithms nothing
but one of nine names.
# INVARIANT (own bundle): only JWT keys of the bundle of the subject's trust domain verify.
# INVARIANT (bounded): at most MAX_TOKEN_BYTES are read and at most MAX_KEYS_TRIED signatures are checked.

https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from authz.identity.base64url import bytes_from_base64url
from authz.identity.errors import IdentityError, quoted
from authz.identity.json_document import JsonError, json_object
from authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from authz.instant import LAST_S, NS_PER_S, rfc3339_from_ns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from authz.identity.bundle import Bundle
    from authz.identity.public_key import PublicKey
    from authz.identity.trust import Trust

#: A token is one header; with the longest SPIFFE ID and an RSA-4096 signature it has less than 5 KiB.
MAX_TOKEN_BYTES: Final = 16 * 1024
#: JWT-SVID, appendix A: a small amount of leeway is acceptable. Clocks that are kept differ by less.
LEEWAY_NS: Final = 5 * NS_PER_S
#: Without `kid` each key that fits is tried: those of two rotations at once, and no more of them at a peer's will.
MAX_KEYS_TRIED: Final = 8

_HEADERS: Final = frozenset({"alg", "kid", "typ"})
_TYPES: Final = ("JWT", "JOSE")


class JwtSvidError(IdentityError):
    """A token is no JWT-SVID, or proves nothing here and now; the text names the rule that it breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtClaims:
    """What a token says, proven by nothing: good for looking, and for knowing whose bundle to ask. Times are ns."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    expires_ns: int
    issued_ns: int | None
    not_before_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvid:
    """What a verified token says: an identity, for whom it was issued, and until when. Times are ns since the epoch.

    `key_id` is the id of the key that verified it, in the bundle of its trust domain.
    """

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    expires_ns: int
    issued_ns: int | None
    not_before_ns: int | None
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Algorithm:
    """One of the nine of JWT-SVID 2.1; `curve` is None for RSA; `octets` are those of one of ECDSA's two numbers."""

    hash: hashes.HashAlgorithm
    curve: str | None = None
    octets: int = 0
    pss: bool = False

    def fits(self, key: PublicKey) -> bool:
        """Whether this algorithm works with this key: RFC 7518 3.3-3.5."""
        if self.curve is None:
            return isinstance(key, rsa.RSAPublicKey)
        return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == self.curve

    def verify(self, key: PublicKey, signature: bytes, signed: bytes) -> None:
        """Raise InvalidSignature, or ValueError, unless the key has signed this."""
        if isinstance(key, ec.EllipticCurvePublicKey):
            # RFC 7518 3.4: R and S one behind the other, each of the full length.
            if len(signature) != 2 * self.octets:
                raise InvalidSignature
            r, s = (int.from_bytes(each, "big") for each in (signature[: self.octets], signature[self.octets :]))
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(self.hash))
        elif self.pss:
            # RFC 7518 3.5: the salt has the length of the hash.
            salted = padding.PSS(mgf=padding.MGF1(self.hash), salt_length=self.hash.digest_size)
            key.verify(signature, signed, salted, self.hash)
        else:
            key.verify(signature, signed, padding.PKCS1v15(), self.hash)


_SHA256, _SHA384, _SHA512 = hashes.SHA256(), hashes.SHA384(), hashes.SHA512()
# JWT-SVID 2.1
_ALGORITHMS: Final[Mapping[str, _Algorithm]] = {
    "RS256": _Algorithm(hash=_SHA256),
    "RS384": _Algorithm(hash=_SHA384),
    "RS512": _Algorithm(hash=_SHA512),
    "ES256": _Algorithm(hash=_SHA256, curve="secp256r1", octets=32),
    "ES384": _Algorithm(hash=_SHA384, curve="secp384r1", octets=48),
    "ES512": _Algorithm(hash=_SHA512, curve="secp521r1", octets=66),
    "PS256": _Algorithm(hash=_SHA256, pss=True),
    "PS384": _Algorithm(hash=_SHA384, pss=True),
    "PS512": _Algorithm(hash=_SHA512, pss=True),
}


def verify_jwt_svid(token: str | bytes, trust: Trust, audience: str, now_ns: int) -> JwtSvid:
    """Give whom a token proves to `audience` at `now_ns`; raises JwtSvidError with the rule that it breaks.

    Costs one signature check, or up to MAX_KEYS_TRIED where the token names no key; nothing is fetched.
    """
    read = _read(token)
    claims = read.claims
    # JWT-SVID 3.2, 3.3: for us, and not over.
    if not audience or audience not in claims.audience:  # nobody is the empty text, whatever a token says
        raise JwtSvidError(f"the audience of the token is not {quoted(audience)}")
    _require_time(claims, now_ns)
    # INVARIANT (own bundle)
    bundle = trust.bundle(claims.spiffe_id.trust_domain)
    if bundle is None:
        raise JwtSvidError(f"there is no bundle of the trust domain `{claims.spiffe_id.trust_domain}`")
    # JWT-SVID 4: the signature.
    for key_id, key in _candidates(bundle, read.algorithm, read.key_id):
        try:
            read.algorithm.verify(key, read.signature, read.signed)
        except (InvalidSignature, ValueError, UnsupportedAlgorithm):
            continue
        return JwtSvid(
            spiffe_id=claims.spiffe_id,
            audience=claims.audience,
            expires_ns=claims.expires_ns,
            issued_ns=claims.issued_ns,
            not_before_ns=claims.not_before_ns,
            key_id=key_id,
        )
    raise JwtSvidError(f"the signature is not that of a key in the bundle of `{bundle.trust_domain}`")


def claims_of(token: str | bytes) -> JwtClaims:
    """Give what a token says, by all the rules for its form, and proven by nothing; raises JwtSvidError."""
    return _read(token).claims


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """A token as it is read: `signature` is said to be one of `signed`."""

    algorithm: _Algorithm
    key_id: str | None
    claims: JwtClaims
    signed: bytes
    signature: bytes


def _read(token: str | bytes) -> _Token:
    # 1. JWT-SVID 1, 5.1: three parts of the compact serialisation.
    content = _bounded(token)
    header, claims, signature = _parts(content)
    # 2. JWT-SVID 2: the header, before anything is processed by what it says.
    algorithm, key_id = _read_header(_object(header, "header"))
    # 3. JWT-SVID 3: the claims.
    return _Token(
        algorithm=algorithm,
        key_id=key_id,
        claims=_read_claims(_object(claims, "claims")),
        signed=content[: len(header) + 1 + len(claims)],
        signature=_decoded(signature, "signature"),
    )


def _bounded(token: str | bytes) -> bytes:
    if len(token) > MAX_TOKEN_BYTES:
        raise JwtSvidError(f"a token has at most {MAX_TOKEN_BYTES} bytes, not {len(token)}")
    try:
        return token.encode("ascii") if isinstance(token, str) else token
    except UnicodeEncodeError as exc:
        raise JwtSvidError("the token has characters that none has") from exc


def _parts(token: bytes) -> tuple[bytes, bytes, bytes]:
    parts = token.split(b".")
    match parts:
        case [header, claims, signature] if header and claims and signature:
            return header, claims, signature
        case [b""]:
            raise JwtSvidError("no token")
        case [_, _, b""]:
            raise JwtSvidError("the token has no signature")
        case [_, _, _, _, _]:
            raise JwtSvidError("the token is encrypted (JWE), and only signed ones are read")
        case _:
            raise JwtSvidError("the token is not three parts in the compact serialisation")


def _decoded(part: bytes, name: str) -> bytes:
    try:
        return bytes_from_base64url(part)
    except ValueError as exc:
        raise JwtSvidError(f"the {name} of the token is not encoded in base64url: {exc}") from exc


def _object(part: bytes, name: str) -> dict[str, Any]:
    try:
        return json_object(_decoded(part, name))
    except JsonError as exc:
        raise JwtSvidError(f"the {name} of the token: {exc}") from exc


def _read_header(header: Mapping[str, Any]) -> tuple[_Algorithm, str | None]:
    """Give the algorithm and the key id, if there is one."""
    # JWT-SVID 2: any header that is not described there MUST NOT be included; so jwk, jku, x5u, x5c, crit.
    for header_name in header:
        if header_name not in _HEADERS:
            raise JwtSvidError(f"the token's header has {quoted(header_name)}; only alg, kid and typ may be there")
    # JWT-SVID 2.1, 4: one of nine, before anything is processed.
    name = header.get("alg")
    algorithm = _ALGORITHMS.get(name) if isinstance(name, str) else None
    if algorithm is None:
        shown = quoted(name) if isinstance(name, str) else "missing or no text"
        raise JwtSvidError(f"the token's `alg` is {shown}; RS, ES and PS with 256, 384 or 512 are known")
    # JWT-SVID 2.3: optional, and one of two.
    if "typ" in header and header["typ"] not in _TYPES:
        raise JwtSvidError("the token's `typ` is neither `JWT` nor `JOSE`")
    # JWT-SVID 2.2: optional.
    key_id = header.get("kid")
    if "kid" in header and not isinstance(key_id, str):
        raise JwtSvidError("the token's `kid` is no text")
    return algorithm, key_id


def _read_claims(claims: Mapping[str, Any]) -> JwtClaims:
    # JWT-SVID 3.1: the SPIFFE ID of a workload, which has a path.
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise JwtSvidError("the token has no `sub` that is a text")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except SpiffeIdError as exc:
        raise JwtSvidError(f"the token's `sub` is no SPIFFE ID: {exc}") from exc
    if not spiffe_id.path:
        raise JwtSvidError(f"the token's `sub` `{spiffe_id}` has no path, so no workload has it")
    # JWT-SVID 3.3: required.
    expires_ns = _instant_of(claims, "exp")
    if expires_ns is None:
        raise JwtSvidError("the token has no `exp`")
    return JwtClaims(
        spiffe_id=spiffe_id,
        audience=_audience_of(claims),
        expires_ns=expires_ns,
        issued_ns=_instant_of(claims, "iat"),
        not_before_ns=_instant_of(claims, "nbf"),
    )


def _audience_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    # JWT-SVID 3.2, RFC 7519 4.1.3: one text, or an array of texts; one value at least.
    match claims.get("aud"):
        case str(one):
            return (one,)
        case [_, *_] as several if all(isinstance(each, str) for each in several):
            return tuple(several)
        case _:
            raise JwtSvidError("the token has no `aud` that is a text or a list of texts")


def _instant_of(claims: Mapping[str, Any], name: str) -> int | None:
    """Give a NumericDate (RFC 7519 2: seconds, with or without a fraction) in ns, or None where it is absent."""
    if name not in claims:
        return None
    match claims[name]:
        case bool():
            pass
        case int(seconds) if 0 <= seconds <= LAST_S:
            return seconds * NS_PER_S
        case float(seconds) if math.isfinite(seconds) and 0 <= seconds <= LAST_S:
            return int(seconds * NS_PER_S)
    raise JwtSvidError(f"the token's `{name}` is no time in seconds since 1970")


def _require_time(claims: JwtClaims, now_ns: int) -> None:
    # RFC 7519 4.1.4: not accepted on or after `exp`.
    if now_ns >= claims.expires_ns + LEEWAY_NS:
        raise JwtSvidError(f"the token has expired at {rfc3339_from_ns(claims.expires_ns)}")
    # RFC 7519 4.1.5; and a token that says it was issued later than now was issued by a clock, or somebody, that errs.
    for name, begins_ns in (("nbf", claims.not_before_ns), ("iat", claims.issued_ns)):
        if begins_ns is not None and now_ns < begins_ns - LEEWAY_NS:
            raise JwtSvidError(f"the token is not valid before {rfc3339_from_ns(begins_ns)} (`{name}`)")


def _candidates(bundle: Bundle, algorithm: _Algorithm, key_id: str | None) -> Sequence[tuple[str, PublicKey]]:
    """Give the keys that may have signed the token, by id: JWT-SVID 6.2, those of JWT-SVIDs alone."""
    if not bundle.jwt_authorities:
        raise JwtSvidError(f"the bundle of `{bundle.trust_domain}` has no key for JWT-SVIDs")
    if key_id is not None:
        key = bundle.jwt_authorities.get(key_id)
        if key is None:
            raise JwtSvidError(f"the bundle of `{bundle.trust_domain}` has no key {quoted(key_id)}")
        if not algorithm.fits(key):
            raise JwtSvidError(f"the key {quoted(key_id)} is of another kind than the token's `alg`")
        return ((key_id, key),)
    fitting = [(name, key) for name, key in bundle.jwt_authorities.items() if algorithm.fits(key)]
    if not fitting:
        raise JwtSvidError(f"the bundle of `{bundle.trust_domain}` has no key that fits the token's `alg`")
    if len(fitting) > MAX_KEYS_TRIED:  # INVARIANT (bounded)
        raise JwtSvidError(f"the token has no `kid`, and more than {MAX_KEYS_TRIED} keys could have signed it")
    return fitting
