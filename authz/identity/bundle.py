"""Trust bundles: which keys speak for a trust domain, read from each form that they come in, and written again.

Decides what a bundle holds. Whose bundle it is is never taken from the bundle: who reads it says so (Trust Domain and
Bundle 3). Keys are read once, here; who verifies gets them ready to use. Entries that the standard tells to ignore are
left out, and so are those that cannot be used; `ignored` says which and why. A bundle with nothing left is a value:
nothing of its trust domain is proven any more (4.1.3).

# INVARIANT (apart): an entry is an authority for the one kind of SVID that its `use` says. No key of an X.509
authority ever verifies a JWT-SVID.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import Encoding

from authz.identity.certificate_blocks import CertificateBlockError, all_from_der, all_from_pem, certificate_of
from authz.identity.errors import IdentityError, quoted
from authz.identity.json_document import JsonError, json_object
from authz.identity.public_key import PublicKey, PublicKeyError, key_from_members, key_members, usable_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography import x509

    from authz.identity.spiffe_id import TrustDomain

#: What gRPC takes as one message by default is 4 MiB; a bundle of 100 RSA-4096 authorities has 300 KiB.
MAX_BUNDLE_BYTES: Final = 1024 * 1024
#: A trust domain in the midst of a rotation has two or three of each kind; SPIRE's regional setups have tens.
MAX_AUTHORITIES: Final = 256
#: SPIRE's key ids have 32 characters, RFC 7638's 43; what names a key in a token is no place for more.
MAX_KEY_ID_CHARACTERS: Final = 256
#: A hint of more is as good as none, and timedelta ends somewhere.
MAX_REFRESH_HINT: Final = timedelta(days=366)

# Trust Domain and Bundle 4.1.1: at least 64 bits of precision.
_SEQUENCE_END: Final = 1 << 64
_X509, _JWT = "x509-svid", "jwt-svid"
_KEY_TYPES: Final = ("RSA", "EC")
# RFC 7518 6: the members that carry a public key.
_KEY_MEMBERS: Final = frozenset({"n", "e", "crv", "x", "y"})
#: Members that only a private or a shared key has (RFC 7518 6.2.2, 6.3.2, 6.4).
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class BundleError(IdentityError):
    """A document is no trust bundle, or not one that can be taken as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What speaks for one trust domain: certificates that sign X.509-SVIDs, and keys, by id, that sign JWT-SVIDs.

    `ignored` names the entries of the document that were left out, with the reason, for people.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[x509.Certificate, ...] = ()
    jwt_authorities: Mapping[str, PublicKey] = field(default_factory=dict, hash=False)
    sequence: int | None = None
    refresh_hint: timedelta | None = None
    ignored: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        # The same certificate twice is one authority; the first one's place counts.
        object.__setattr__(self, "x509_authorities", tuple(dict.fromkeys(self.x509_authorities)))
        object.__setattr__(self, "jwt_authorities", MappingProxyType(dict(self.jwt_authorities)))

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be proven by this bundle (Trust Domain and Bundle 4.1.3)."""
        return not self.x509_authorities and not self.jwt_authorities

    @property
    def x509_pem(self) -> bytes:
        """The X.509 authorities in PEM; empty where there are none."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.x509_authorities)

    @property
    def x509_der(self) -> bytes:
        """The X.509 authorities in DER, one behind the other (Workload API 5.2.1)."""
        return b"".join(each.public_bytes(Encoding.DER) for each in self.x509_authorities)

    def to_json(self) -> bytes:
        """Write the SPIFFE bundle document."""
        document: dict[str, Any] = {}
        if self.sequence is not None:
            document["spiffe_sequence"] = self.sequence
        if self.refresh_hint is not None:
            document["spiffe_refresh_hint"] = self.refresh_hint // timedelta(seconds=1)
        document["keys"] = [*map(_x509_entry, self.x509_authorities), *self._jwt_entries()]
        return json.dumps(document, indent=1).encode("ascii") + b"\n"

    def to_jwks(self) -> bytes:
        """Write the JWK Set of the JWT-SVID keys alone (Workload API 6.2.2)."""
        return json.dumps({"keys": self._jwt_entries()}).encode("ascii")

    def _jwt_entries(self) -> list[dict[str, str]]:
        return [{**key_members(key), "use": _JWT, "kid": key_id} for key_id, key in self.jwt_authorities.items()]


def bundle_from_json(document: bytes, trust_domain: TrustDomain) -> Bundle:
    """Read a SPIFFE bundle document; raises BundleError where it cannot be taken as a whole."""
    return _bundle_of(_members(document), trust_domain, _use_of)


def jwt_bundle_from_json(document: bytes, trust_domain: TrustDomain) -> Bundle:
    """Read the JWK Set of the Workload API's JWT profile (6.2.2); raises BundleError.

    It is a standard one: SPIRE leaves `use` out there, and what has none is a JWT-SVID's key.
    """
    return _bundle_of(_members(document), trust_domain, _use_of_jwt_key)


def bundle_from_pem(pem: bytes, trust_domain: TrustDomain) -> Bundle:
    """Read X.509 authorities in PEM, and nothing else between them; raises BundleError."""
    _require_size(pem)
    try:
        blocks = all_from_pem(pem, at_most=MAX_AUTHORITIES)
    except CertificateBlockError as exc:
        raise BundleError(f"not a bundle in PEM: {exc}") from exc
    return _x509_bundle(blocks, trust_domain)


def bundle_from_der(der: bytes, trust_domain: TrustDomain) -> Bundle:
    """Read X.509 authorities in DER, one behind the other; no bytes are an empty bundle. Raises BundleError."""
    _require_size(der)
    try:
        blocks = all_from_der(der, at_most=MAX_AUTHORITIES)
    except CertificateBlockError as exc:
        raise BundleError(f"not a bundle in DER: {exc}") from exc
    return _x509_bundle(blocks, trust_domain)


def _require_size(content: bytes) -> None:
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleError(f"a bundle has at most {MAX_BUNDLE_BYTES} bytes, not {len(content)}")


def _x509_bundle(blocks: Sequence[bytes], trust_domain: TrustDomain) -> Bundle:
    authorities, ignored = [], []
    for number, der in enumerate(blocks, start=1):
        try:
            certificate = certificate_of(der)
        except CertificateBlockError as exc:
            raise BundleError(f"certificate {number}: {exc}") from exc
        try:
            _require_usable(certificate)
        except PublicKeyError as exc:
            ignored.append(f"certificate {number}: {exc}")
            continue
        authorities.append(certificate)
    return Bundle(trust_domain=trust_domain, x509_authorities=tuple(authorities), ignored=tuple(ignored))


def _members(document: bytes) -> dict[str, Any]:
    _require_size(document)
    try:
        return json_object(document)
    except JsonError as exc:
        raise BundleError(f"not a bundle: {exc}") from exc


def _bundle_of(
    members: Mapping[str, Any], trust_domain: TrustDomain, use_of: Callable[[Mapping[str, Any]], str]
) -> Bundle:
    # 4.1.3: `keys` MUST be present, and is an array; an empty one is valid and revokes everything.
    entries = members.get("keys")
    if not isinstance(entries, list):
        raise BundleError("not a bundle: `keys` is no array" if "keys" in members else "not a bundle: no `keys`")
    if len(entries) > MAX_AUTHORITIES:
        raise BundleError(f"a bundle has at most {MAX_AUTHORITIES} keys, not {len(entries)}")
    authorities: list[x509.Certificate] = []
    keys: dict[str, PublicKey] = {}
    ignored: list[str] = []
    for number, entry in enumerate(entries, start=1):
        try:
            if use_of(_known(entry)) == _X509:
                authorities.append(_authority(entry))
                continue
            key_id, key = _jwt_authority(entry)
        except _Ignored as exc:
            ignored.append(f"key {number}: {exc}")
            continue
        # RFC 7517 4.5: which of two keys an id means is nobody's to guess.
        if keys.setdefault(key_id, key) != key:
            raise BundleError(f"not a bundle: two keys have the id {quoted(key_id)}")
    return Bundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(authorities),
        jwt_authorities=keys,
        sequence=_sequence_of(members),
        refresh_hint=_refresh_hint_of(members),
        ignored=tuple(ignored),
    )


class _Ignored(Exception):  # noqa: N818 no error: the standard tells to go on without the entry
    """An entry counts for nothing; the text says why."""


def _known(entry: object) -> Mapping[str, Any]:
    """Give an entry of a kind that can be known; raises _Ignored."""
    if not isinstance(entry, dict):
        raise _Ignored("no JSON object")
    # 4.2.1: a client that does not know the `kty` ignores the entire entry; case counts.
    if entry.get("kty") not in _KEY_TYPES:
        raise _Ignored("its `kty` is neither `RSA` nor `EC`")
    if not _PRIVATE_MEMBERS.isdisjoint(entry):
        raise _Ignored("it holds a private key, which is none any more")
    return entry


def _use_of(entry: Mapping[str, Any]) -> str:
    # 4.2.2: a missing or unknown `use` makes the client ignore the entire entry; case counts.
    use = entry.get("use")
    if use not in (_X509, _JWT):
        raise _Ignored("its `use` is neither `x509-svid` nor `jwt-svid`")
    return str(use)


def _use_of_jwt_key(entry: Mapping[str, Any]) -> str:
    if entry.get("use", _JWT) != _JWT or "x5c" in entry:
        raise _Ignored("it is no key of JWT-SVIDs")
    return _JWT


def _authority(entry: Mapping[str, Any]) -> x509.Certificate:
    # X509-SVID 6.2: an entry without `x5c`, or with an empty one, is ignored; the first value counts, alone.
    encoded = entry.get("x5c")
    if not isinstance(encoded, list) or not encoded:
        raise _Ignored("it has no `x5c`")
    if not isinstance(encoded[0], str):
        raise _Ignored("its `x5c` is no text")
    try:
        # RFC 7517 4.7: standard base64, not base64url.
        certificate = certificate_of(base64.b64decode(encoded[0].encode("ascii"), validate=True))
        key = _require_usable(certificate)
    except (CertificateBlockError, PublicKeyError) as exc:
        raise _Ignored(f"its certificate: {exc}") from exc
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise _Ignored("its `x5c` is not encoded in base64") from exc
    # RFC 7517 4.7: the certificate's key is the one that the other members stand for, where there are any.
    if not _KEY_MEMBERS.isdisjoint(entry) and _key_of(entry) != key:
        raise _Ignored("its certificate is for another key than its members say")
    return certificate


def _jwt_authority(entry: Mapping[str, Any]) -> tuple[str, PublicKey]:
    # JWT-SVID 6.1: the `kid` of each entry MUST be set.
    key_id = entry.get("kid")
    if not isinstance(key_id, str) or not key_id:
        raise _Ignored("it has no `kid`")
    if len(key_id) > MAX_KEY_ID_CHARACTERS:
        raise _Ignored(f"its `kid` has more than {MAX_KEY_ID_CHARACTERS} characters")
    return key_id, _key_of(entry)


def _key_of(entry: Mapping[str, Any]) -> PublicKey:
    try:
        return key_from_members(entry)
    except PublicKeyError as exc:
        raise _Ignored(str(exc)) from exc


def _require_usable(certificate: x509.Certificate) -> PublicKey:
    """Give the certificate's key; raises PublicKeyError."""
    try:
        key = certificate.public_key()
    # A foreign parser reads foreign bytes: whatever it raises, the key cannot be used.
    except Exception as exc:
        raise PublicKeyError("the key cannot be read") from exc
    return usable_key(key)


def _sequence_of(members: Mapping[str, Any]) -> int | None:
    return _whole_number(members, "spiffe_sequence", end=_SEQUENCE_END)


def _refresh_hint_of(members: Mapping[str, Any]) -> timedelta | None:
    seconds = _whole_number(members, "spiffe_refresh_hint", end=_SEQUENCE_END)
    return None if seconds is None else timedelta(seconds=min(seconds, MAX_REFRESH_HINT // timedelta(seconds=1)))


def _whole_number(members: Mapping[str, Any], name: str, *, end: int) -> int | None:
    """Give a member that is an integer (4.1.1, 4.1.2) of at most 64 bits, or None where it is absent."""
    if name not in members:
        return None
    value = members[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < end:
        raise BundleError(f"not a bundle: `{name}` is no whole number of 64 bits, zero or more")
    return value


def _x509_entry(certificate: x509.Certificate) -> dict[str, Any]:
    """Write an authority (X509-SVID 6.1): no `kid`, and exactly one certificate."""
    encoded = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode("ascii")
    return {**key_members(_require_usable(certificate)), "use": _X509, "x5c": [encoded]}
