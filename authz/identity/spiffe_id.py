"""Which texts are SPIFFE IDs and trust domain names.

Decides the form of an ID and nothing else: whether anyone holds it, or whether its trust domain is ours, is
decided elsewhere. Nothing is normalised: what is not written exactly as the specification demands is refused,
so two IDs are the same if and only if their texts are.

# INVARIANT (valid by construction): a TrustDomain or SpiffeId that exists is valid, however it was made.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from authz.identity.errors import IdentityError, quoted

#: SPIFFE-ID 2.3: an ID of up to 2048 bytes is to be supported, a longer one is not to be generated.
MAX_SPIFFE_ID_BYTES = 2048
#: SPIFFE-ID 2.3: the host component of RFC 3986 holds at most 255 bytes.
MAX_TRUST_DOMAIN_BYTES = 255

_SCHEME = "spiffe://"
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")


class SpiffeIdError(IdentityError):
    """A text is no SPIFFE ID, or no trust domain name."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TrustDomain:
    """The name of a trust domain, such as `shop.example`: the root of trust for every ID below it."""

    name: str

    def __post_init__(self) -> None:
        _require_trust_domain(self.name, shown=self.name)

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """Read a bare name, without scheme or path; raises SpiffeIdError."""
        return cls(name=text)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SpiffeId:
    """A SPIFFE ID, such as `spiffe://shop.example/ns/shop/sa/catalog`; never equal to its text.

    `path` begins with a slash, or is empty: then the ID is the trust domain's own, which no workload has.
    """

    trust_domain: TrustDomain
    path: str

    def __post_init__(self) -> None:
        _require_length(len(_SCHEME) + len(self.trust_domain.name) + len(self.path))
        if self.path:
            _require_path(self.path, shown=str(self))

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read an ID with or without a path; raises SpiffeIdError that names the broken rule."""
        _require_length(len(text))  # first: a longer text is not worth another look
        if not text.startswith(_SCHEME):
            raise SpiffeIdError(f"{quoted(text)} does not begin with `spiffe://`")
        name, slash, rest = text.removeprefix(_SCHEME).partition("/")
        _require_trust_domain(name, shown=text)
        return cls(trust_domain=TrustDomain(name=name), path=slash + rest)

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"


def _require_length(characters: int) -> None:
    """Raise if an ID is too long; every valid character is one byte, so characters count as bytes."""
    if characters > MAX_SPIFFE_ID_BYTES:
        raise SpiffeIdError(f"a SPIFFE ID has at most {MAX_SPIFFE_ID_BYTES} bytes, not {characters}")


def _require_trust_domain(name: str, *, shown: str) -> None:
    """Raise unless `name` is a trust domain name (SPIFFE-ID 2.1); `shown` is the text that the user knows."""
    if not name:
        raise SpiffeIdError(f"{quoted(shown)} has an empty trust domain")
    if len(name) > MAX_TRUST_DOMAIN_BYTES:
        raise SpiffeIdError(
            f"{quoted(shown)}: a trust domain has at most {MAX_TRUST_DOMAIN_BYTES} bytes, not {len(name)}"
        )
    # SPIFFE-ID 2.1: no userinfo, no port, no percent-encoding, and the name is lower case. (The text also
    # says that it compares case-insensitively; refusing upper case keeps comparison by bytes true.)
    if not _TRUST_DOMAIN.fullmatch(name):
        bare = name.lower().removeprefix(_SCHEME)
        hint = f"; write {quoted(bare)}" if _TRUST_DOMAIN.fullmatch(bare) else ""
        raise SpiffeIdError(f"{quoted(shown)}: a trust domain has only the characters `a-z 0-9 . - _`{hint}")


def _require_path(path: str, *, shown: str) -> None:
    """Raise unless `path` is a SPIFFE ID path (SPIFFE-ID 2.2)."""
    if not path.startswith("/"):
        raise SpiffeIdError(f"{quoted(shown)}: a path begins with `/`")
    segments = path[1:].split("/")
    if segments[-1] == "":
        raise SpiffeIdError(f"{quoted(shown)} ends in a slash; leave it out")
    for segment in segments:
        if segment == "":
            raise SpiffeIdError(f"{quoted(shown)} has an empty path segment")
        if segment in {".", ".."}:
            raise SpiffeIdError(f"{quoted(shown)} has the path segment `{segment}`")
        # No percent-encoding, no query, no fragment, no line break: none of their characters is in the set.
        if not _SEGMENT.fullmatch(segment):
            raise SpiffeIdError(f"{quoted(shown)}: a path segment has only the characters `a-z A-Z 0-9 . - _`")
