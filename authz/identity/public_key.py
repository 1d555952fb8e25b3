"""Public keys of authorities: which kinds and sizes prove anything here, and their form as JWK members.

Decides by the key alone. RSA has 2048 to 8192 bits: less is broken (NIST SP 800-131A, RFC 7518 3.3), more costs a
verifier time at a peer's will. Elliptic curves are the three of JWS (RFC 7518 3.4). Other kinds (Ed25519, DSA) are in
no SPIFFE standard and prove nothing.

https://www.rfc-editor.org/rfc/rfc7518 6
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from authz.identity.base64url import base64url, bytes_from_base64url
from authz.identity.errors import IdentityError

if TYPE_CHECKING:
    from collections.abc import Mapping

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

#: RFC 7518 3.3: RSA keys of JWS have 2048 bits or more; NIST SP 800-131A says the same of all signatures.
MIN_RSA_BITS: Final = 2048
#: Four times what anybody uses; verification costs grow with the square.
MAX_RSA_BITS: Final = 8192
#: FIPS 186-5 A.1.1 allows more, nobody uses more than 65537, and the cost of a verification grows with its length.
MAX_RSA_EXPONENT: Final = 1 << 32

# JWK `crv` -> curve, RFC 7518 6.2.1.1
_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_CURVE_NAMES: Final = {curve.name: name for name, curve in _CURVES.items()}


class PublicKeyError(IdentityError):
    """A key cannot be read, or is of a kind or size that proves nothing here."""


def usable_key(key: object) -> PublicKey:
    """Give the key if it is of a kind and size that proves something; raises PublicKeyError."""
    match key:
        case rsa.RSAPublicKey():
            if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
                raise PublicKeyError(f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, not {key.key_size}")
            if key.public_numbers().e > MAX_RSA_EXPONENT:
                raise PublicKeyError("the RSA key's exponent has more than 32 bits")
            return key
        case ec.EllipticCurvePublicKey():
            if key.curve.name not in _CURVE_NAMES:
                raise PublicKeyError("the key's curve is none of P-256, P-384 and P-521")
            return key
        case _:
            raise PublicKeyError("the key is neither RSA nor on an elliptic curve that JWS knows")


def key_members(key: PublicKey) -> dict[str, str]:
    """Write a key as the members of a JWK that stand for it."""
    match key:
        case rsa.RSAPublicKey():
            numbers = key.public_numbers()
            return {"kty": "RSA", "n": _unsigned(numbers.n), "e": _unsigned(numbers.e)}
        case ec.EllipticCurvePublicKey():
            point, octets = key.public_numbers(), _coordinate_octets(key.curve)
            x, y = (base64url(each.to_bytes(octets, "big")) for each in (point.x, point.y))
            return {"kty": "EC", "crv": _CURVE_NAMES[key.curve.name], "x": x, "y": y}


def key_from_members(jwk: Mapping[str, Any]) -> PublicKey:
    """Read the key that the members of a JWK of `kty` RSA or EC stand for; raises PublicKeyError."""
    try:
        if jwk["kty"] == "RSA":
            # Looked at first: the length of a number costs nothing, building a key of it does.
            modulus, exponent = (int.from_bytes(_octets(jwk, name), "big") for name in ("n", "e"))
            if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
                raise PublicKeyError(
                    f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, not {modulus.bit_length()}"
                )
            return usable_key(rsa.RSAPublicNumbers(exponent, modulus).public_key())
        curve = _CURVES.get(jwk["crv"]) if isinstance(jwk["crv"], str) else None
        if curve is None:
            raise PublicKeyError("the key's curve is none of P-256, P-384 and P-521")
        x, y = (_octets(jwk, name) for name in ("x", "y"))
        # RFC 7518 6.2.1.2: a coordinate has the full size of the curve's field.
        if {len(x), len(y)} != {_coordinate_octets(curve)}:
            raise PublicKeyError("a coordinate has not the size of its curve")
        point = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
        return usable_key(point.public_key())
    except KeyError as exc:
        raise PublicKeyError(f"the key's member `{exc.args[0]}` is missing") from exc
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise PublicKeyError("the key's numbers are those of no key") from exc


def _octets(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk[name]
    if not isinstance(value, str):
        raise PublicKeyError(f"the key's member `{name}` is no text")
    try:
        return bytes_from_base64url(value.encode("ascii"))
    except ValueError as exc:
        raise PublicKeyError(f"the key's member `{name}` is not encoded in base64url") from exc


def _unsigned(number: int) -> str:
    """Write a number as RFC 7518 2 has it: base64urlUInt, as few octets as it takes."""
    return base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _coordinate_octets(curve: ec.EllipticCurve) -> int:
    return (curve.key_size + 7) // 8
