"""What `authz identity serve` was told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from authz.identity.authority_rotation import LIVES_OF_WHAT_IT_ISSUES
from authz.issuer.errors import IssuerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from authz.issuer.bundle_endpoint import BundleEndpointSettings

SVID_LIFETIME: Final = timedelta(hours=1)
JWT_LIFETIME: Final = timedelta(minutes=5)
AUTHORITY_LIFETIME: Final = timedelta(days=7)
#: renewal is at half of it, and X.509 counts in seconds
SHORTEST_LIFETIME: Final = timedelta(seconds=2)
#: who may connect is everybody: who gets something is decided by who it is
SOCKET_MODE: Final = 0o666
#: whoever can connect is the workload
WORKLOAD_SOCKET_MODE: Final = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """Where it reads, listens and keeps, and how long what it issues lives; `state` is None for keys in memory only."""

    policies: str
    socket: str
    state: Path | None
    workload_sockets: Mapping[str, str] = field(default_factory=dict)
    workload_socket_mode: int = WORKLOAD_SOCKET_MODE
    orchestrator_socket: str | None = None
    orchestrator_is_parent: bool = False
    container_socket: str | None = None
    decision_log: str | None = None
    federated_bundles: Mapping[str, str] = field(default_factory=dict)
    upstream_authority: Path | None = None
    bundle_endpoint: BundleEndpointSettings | None = None
    svid_lifetime: timedelta = SVID_LIFETIME
    jwt_lifetime: timedelta = JWT_LIFETIME
    authority_lifetime: timedelta = AUTHORITY_LIFETIME

    def __post_init__(self) -> None:
        for name, lifetime in (("--svid-lifetime", self.svid_lifetime), ("--jwt-lifetime", self.jwt_lifetime)):
            if lifetime < SHORTEST_LIFETIME:
                raise IssuerError(f"{name}: {SHORTEST_LIFETIME.seconds} s at least")
            if lifetime * LIVES_OF_WHAT_IT_ISSUES > self.authority_lifetime:
                raise IssuerError(
                    f"{name}: an authority lives {LIVES_OF_WHAT_IT_ISSUES} times as long as what it issues;"
                    " give a shorter life, or a longer --authority-lifetime"
                )
        paths = [self.socket, *self.workload_sockets.values()]
        paths += [] if self.orchestrator_socket is None else [self.orchestrator_socket]
        if len(set(paths)) != len(paths):
            raise IssuerError("two sockets have the same path; each needs its own")
