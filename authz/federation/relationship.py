"""A federation relationship: whose bundle is followed, and where it comes from.

It is what an entry of the Mesh's `federates` says, with its file found and without the schema's weight: whoever
follows bundles need not load what reads policies. Name, URL and profile are each said on their own; none is ever
inferred from another (SPIFFE Federation 7.2).

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from authz.federation.endpoint_url import endpoint_url
from authz.federation.errors import FederationError
from authz.identity.spiffe_id import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from authz.policy.schema import Federation


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a bundle is fetched from; `server` is the SPIFFE ID of who serves it, None with the web's certificates.

    So the profile is `https_spiffe` where `server` is given, and `https_web` otherwise.
    """

    url: str
    server: SpiffeId | None = None

    def __post_init__(self) -> None:
        endpoint_url(self.url)
        if self.server is not None and not self.server.path:
            raise FederationError(f"`{self.server}` is a trust domain; a server has a path in its SPIFFE ID")

    @property
    def profile(self) -> str:
        """The profile's name in the specification."""
        return "https_web" if self.server is None else "https_spiffe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relationship:
    """One trust domain that is not ours; at least one of `bundle_file` and `endpoint` is given.

    With an endpoint the file is only the beginning: what the first connection of `https_spiffe` is verified by. Without
    one it is the truth, and followed.
    """

    trust_domain: TrustDomain
    bundle_file: Path | None = None
    endpoint: Endpoint | None = None

    def __post_init__(self) -> None:
        if self.bundle_file is None and self.endpoint is None:
            raise FederationError(f"nothing says where the bundle of `{self.trust_domain}` is")

    def as_fields(self) -> dict[str, str | None]:
        """Give it as a flat mapping for JSON; :meth:`from_fields` reads it again."""
        endpoint = self.endpoint
        return {
            "trust_domain": self.trust_domain.name,
            "bundle_file": None if self.bundle_file is None else str(self.bundle_file),
            "url": None if endpoint is None else endpoint.url,
            "server": None if endpoint is None or endpoint.server is None else str(endpoint.server),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, str | None]) -> Relationship:
        """Read what :meth:`as_fields` gave; raises AuthzError where a value is none."""
        url, server, bundle_file = fields.get("url"), fields.get("server"), fields.get("bundle_file")
        return cls(
            trust_domain=TrustDomain.parse(fields.get("trust_domain") or ""),
            bundle_file=None if bundle_file is None else Path(bundle_file),
            endpoint=None
            if url is None
            else Endpoint(url=url, server=None if server is None else SpiffeId.parse(server)),
        )


def relationships(federates: Iterable[Federation], folder: str | Path) -> tuple[Relationship, ...]:
    """Give what the Mesh's `federates` says; a relative `bundle` stands in the policy set's own folder."""
    return tuple(_relationship(entry, Path(folder)) for entry in federates)


def _relationship(entry: Federation, folder: Path) -> Relationship:
    endpoint = entry.endpoint
    return Relationship(
        trust_domain=entry.trust_domain,
        bundle_file=None if entry.bundle is None else folder / entry.bundle,
        # The schema: a SPIFFE ID is written with `https_spiffe`, and only there.
        endpoint=None if endpoint is None else Endpoint(url=endpoint.url, server=endpoint.spiffe_id),
    )
