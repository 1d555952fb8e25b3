"""Which URLs are those of a bundle endpoint: the configured one, and each that a redirect leads to.

# INVARIANT (one reader): the URL that was judged is the value that is connected to. Nothing reads its text again.

SPIFFE Federation 5.2.1.1, 5.2.2.1:
https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

import re
from typing import Final

from yarl import URL

from authz.federation.errors import FederationError
from authz.identity.errors import quoted

#: As `authz.policy.evidence_fields` has it: what servers and proxies take as a URI (RFC 9110 4.1).
MAX_URL_CHARACTERS: Final = 2048

# RFC 3986 2: nothing but the characters of a URI reference, so that no two readers part it in different places.
_REFERENCE: Final = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
# RFC 3986 3.2.2, narrower: a name of DNS or an address, as the policy language has it.
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


def endpoint_url(text: str) -> URL:
    """Read the URL of a bundle endpoint; raises FederationError."""
    return _required(_parsed(text), shown=text)


def redirected_url(url: URL, location: str) -> URL:
    """Give where a redirect from `url` leads, relative or not; raises FederationError."""
    return _required(url.join(_parsed(location)), shown=location)


def _parsed(text: str) -> URL:
    if len(text) > MAX_URL_CHARACTERS:
        raise FederationError(f"the URL of a bundle has at most {MAX_URL_CHARACTERS} characters, not {len(text)}")
    if not _REFERENCE.fullmatch(text):
        raise FederationError(f"{quoted(text)} is no URL")
    try:
        url = URL(text, encoded=True)
        _ = url.port  # what is no number is only found when it is asked for
    except ValueError as exc:
        raise FederationError(f"{quoted(text)} is no URL") from exc
    return url


def _required(url: URL, *, shown: str) -> URL:
    if url.scheme != "https":
        raise FederationError(f"{quoted(shown)}: a bundle is fetched by `https` alone")
    # Empty user names too, which parsers report as none.
    if "@" in url.raw_authority:
        raise FederationError(f"{quoted(shown)}: a bundle is fetched without user and password")
    if not url.raw_host or not url.port or not _AUTHORITY.fullmatch(url.raw_authority):
        raise FederationError(f"{quoted(shown)} has no host, or one that is none, or no port")
    if len(str(url)) > MAX_URL_CHARACTERS:
        raise FederationError(f"the URL of a bundle has at most {MAX_URL_CHARACTERS} characters, not {len(str(url))}")
    return url.with_fragment(None)
