"""The operator's file with the bundle of a trust domain: a SPIFFE bundle document, or authorities in PEM.

SPIFFE Federation 5.2.2.2: clients MUST take the SPIFFE bundle format and MAY take others. Which of the two it is, its
first character says: a document is a JSON object.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.federation.errors import FederationError
from authz.identity.bundle import MAX_BUNDLE_BYTES, Bundle, bundle_from_json, bundle_from_pem
from authz.svid_files import read_public_file

if TYPE_CHECKING:
    from pathlib import Path

    from authz.identity.spiffe_id import TrustDomain

_BLANK: Final = b" \t\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """What a file held; `digest` is the SHA-256 of its bytes, by which a change of it is known."""

    bundle: Bundle
    digest: str


def read_bundle_file(path: Path, trust_domain: TrustDomain) -> BundleFile:
    """Read the operator's file; raises FederationError, which shows nothing of what is in it."""
    try:
        content = read_public_file(path, max_bytes=MAX_BUNDLE_BYTES)
    except AuthzError as exc:
        raise FederationError(str(exc)) from exc
    try:
        bundle = bundle_from_document(content, trust_domain)
    except AuthzError as exc:
        raise FederationError(f"{path}: {exc}") from exc
    return BundleFile(bundle=bundle, digest=hashlib.sha256(content).hexdigest())


def bundle_from_document(content: bytes, trust_domain: TrustDomain) -> Bundle:
    """Read a bundle in either form; raises AuthzError."""
    if content.lstrip(_BLANK).startswith(b"{"):
        return bundle_from_json(content, trust_domain)
    return bundle_from_pem(content, trust_domain)
