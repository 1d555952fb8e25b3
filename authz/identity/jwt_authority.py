"""A key that signs JWT-SVIDs: issues tokens for the workloads of one trust domain.

Decides what stands in a token, never who may have it. The key signs tokens and nothing else: no certificate is made for
it, and a certificate's key signs no token.

# INVARIANT (own trust domain): no token for an ID of another trust domain is ever issued.
# INVARIANT (nested validity): no token ends after its authority.

https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from authz.identity.base64url import base64url
from authz.identity.errors import AuthorityError, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from authz.identity.spiffe_id import SpiffeId, TrustDomain

#: `exp` counts in seconds: anything shorter may be over before it begins
MIN_JWT_LIFETIME: Final = timedelta(seconds=1)
#: a token is presented to one audience at a time; the Workload API's request is small for that reason
MAX_AUDIENCES: Final = 64
#: as long as the longest SPIFFE ID, which an audience usually is
MAX_AUDIENCE_CHARACTERS: Final = 2048
#: JWT-SVID 2.2: one of the algorithms that every verifier has
_ALGORITHM: Final = "ES256"
_COORDINATE_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedJwtSvid:
    """A fresh JWT-SVID: a secret, for whoever has it is its subject; `not_after` is its `exp`."""

    token: str = field(repr=False)
    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JwtAuthority:
    """A P-256 key that signs tokens for a trust domain until `not_after`."""

    trust_domain: TrustDomain
    not_after: datetime
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def generate(cls, trust_domain: TrustDomain, not_after: datetime) -> JwtAuthority:
        """Make a new key."""
        return cls(trust_domain=trust_domain, not_after=not_after, _key=ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_key(cls, trust_domain: TrustDomain, not_after: datetime, key: PrivateKeyTypes) -> JwtAuthority:
        """Take a key that was kept; raises AuthorityError if it is another kind of key."""
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise AuthorityError("an authority's key is an ECDSA key on P-256")
        return cls(trust_domain=trust_domain, not_after=not_after, _key=key)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """What its tokens are verified with: an entry of the trust domain's bundle."""
        return self._key.public_key()

    @property
    def key_id(self) -> str:
        """The key's `kid`: made of the key itself (RFC 7638), so no two keys have the same."""
        return key_id_of(self.public_key)

    def key_pem(self) -> bytes:
        """Give the private key, for keeping: a secret."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def issue_jwt_svid(
        self, spiffe_id: SpiffeId, audience: Sequence[str], now: datetime, lifetime: timedelta
    ) -> IssuedJwtSvid:
        """Issue a JWT-SVID; it ends with the authority if that is sooner than `lifetime`."""
        # INVARIANT (own trust domain)
        if spiffe_id.trust_domain != self.trust_domain:
            raise AuthorityError(f"the authority of `{self.trust_domain}` does not issue {quoted(str(spiffe_id))}")
        if not spiffe_id.path:
            raise AuthorityError(f"{quoted(str(spiffe_id))} has no path, so no workload can have it")
        _require_audience(audience)
        if lifetime < MIN_JWT_LIFETIME:
            raise AuthorityError("a token lives for one second at least")
        # INVARIANT (nested validity); the difference is taken first, so that no sum runs past the last year.
        remaining = self.not_after - now
        if remaining < MIN_JWT_LIFETIME:
            raise AuthorityError(
                f"the authority of `{self.trust_domain}` is over: it was valid until {self.not_after.isoformat()}"
            )
        expires_s = int((now + min(lifetime, remaining)).timestamp())
        # JWT-SVID 3: `sub`, `aud` and `exp` are required; `iat` says to everybody how old it is.
        claims = {"sub": str(spiffe_id), "aud": list(audience), "exp": expires_s, "iat": int(now.timestamp())}
        # JWT-SVID 2: the header has alg, kid and typ, and nothing else.
        token = jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self.key_id, "typ": "JWT"})
        return IssuedJwtSvid(
            token=token,
            spiffe_id=spiffe_id,
            audience=tuple(audience),
            not_after=datetime.fromtimestamp(expires_s, UTC),
        )


def key_id_of(key: ec.EllipticCurvePublicKey) -> str:
    """Give the thumbprint of a P-256 key as RFC 7638 3 says: the hash of its required members, in order."""
    numbers = key.public_numbers()
    x, y = (base64url(number.to_bytes(_COORDINATE_BYTES, "big")) for number in (numbers.x, numbers.y))
    text = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    return base64url(hashlib.sha256(text.encode("ascii")).digest())


def _require_audience(audience: Sequence[str]) -> None:
    if isinstance(audience, str) or not 1 <= len(audience) <= MAX_AUDIENCES:
        raise AuthorityError(f"a token is for 1 to {MAX_AUDIENCES} audiences")
    for one in audience:
        if not one or len(one) > MAX_AUDIENCE_CHARACTERS:
            raise AuthorityError(f"an audience has 1 to {MAX_AUDIENCE_CHARACTERS} characters")
