"""Whether a bundle that was fetched supersedes the one that is known.

Ordered by `spiffe_sequence`, which rises with every change of a bundle's contents; without it the one that was fetched
last is the latest (SPIFFE Federation 4.2). Judged after the server was authenticated, and of one trust domain only.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md (4.1.1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authz.federation.errors import FederationError

if TYPE_CHECKING:
    from authz.identity.bundle import Bundle


class SupersededBundleError(FederationError):
    """A bundle that was fetched is older than the one that is known, or contradicts it."""


def require_successor(known: Bundle, fetched: Bundle) -> None:
    """Raise SupersededBundleError unless `fetched` is `known` again, or a later one.

    The same number with other contents says that one of the two is not the trust domain's: the number MUST change with
    the contents (Trust Domain and Bundle 4.1.1). The one that is known stays.
    """
    if known.trust_domain != fetched.trust_domain:
        raise SupersededBundleError(f"a bundle of `{fetched.trust_domain}` is none of `{known.trust_domain}`")
    if known.sequence is None or fetched.sequence is None:
        return
    if fetched.sequence < known.sequence:
        raise SupersededBundleError(
            f"the bundle of `{fetched.trust_domain}` has sequence {fetched.sequence}, and {known.sequence} is known"
        )
    if fetched.sequence == known.sequence and not has_same_keys(known, fetched):
        raise SupersededBundleError(
            f"the bundle of `{fetched.trust_domain}` has other keys under the same sequence {known.sequence}"
        )


def has_same_keys(one: Bundle, other: Bundle) -> bool:
    """Whether two bundles vouch for the same SVIDs; the order of keys, the sequence and the hint count for nothing."""
    return _keys(one) == _keys(other)


def _keys(bundle: Bundle) -> tuple[frozenset[bytes], dict[str, bytes]]:
    authorities = frozenset(each.public_bytes(Encoding.DER) for each in bundle.x509_authorities)
    jwt = {
        key_id: key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for key_id, key in bundle.jwt_authorities.items()
    }
    return authorities, jwt
