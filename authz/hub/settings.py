"""What a hub is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from authz.hub.store.store import Retention

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Where it keeps what it is sent, where it listens, what policies it follows, and who may read.

    Its SVID is in `identity_directory`, or comes from the socket `workload_api`; without either it serves no TLS.
    `store` is a URL of ClickHouse, None for SQLite in `data`. Without `access` it listens on loopback only.
    """

    data: Path
    host: str
    port: int
    reuse_port: bool = False
    store: str | None = None
    policies: str | None = None
    access: Path | None = None
    identity_directory: str | None = None
    workload_api: str | None = None
    retention: Retention = field(default_factory=Retention)

    def url(self, scheme: str, port: int) -> str:
        """Give where the page is; RFC 3986 3.2.2: an IPv6 address stands in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{port}/"
