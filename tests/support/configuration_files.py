"""An Envoy configuration that was written for a container, moved to where a test has its files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import write_svid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class ContainerFiles:
    """The files that the shop's Envoys read, as an issuer and a partner would have put them there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        now, hour = datetime.now(UTC), timedelta(hours=1)
        shop = Authority.generate(TrustDomain.parse("shop.example"), now, hour)
        acme = Authority.generate(TrustDomain.parse("acme.example"), now, hour)
        write_svid(
            folder / "svid",
            shop.issue_x509_svid(SpiffeId.parse("spiffe://shop.example/a"), now, hour),
            shop.certificate_pem,
        )
        (folder / "partners").mkdir()
        for name in ("acme.example.pem", "api.acme.example.pem"):
            (folder / "partners" / name).write_bytes(acme.certificate_pem)
        (folder / "etc").mkdir()

    def moved(self, configuration: Path, mounts: Mapping[str, str]) -> Path:
        """Copy a configuration to `etc`, with every path below a mount's target moved below its source."""
        text = configuration.read_text()
        for target, source in mounts.items():
            text = text.replace(f'"{target}/', f'"{source}/').replace(f'"{target}"', f'"{source}"')
        moved = self.folder / "etc" / configuration.name
        moved.write_text(text)
        return moved

    @property
    def mounts(self) -> dict[str, str]:
        """Where a container's folders are here."""
        here = str(self.folder)
        return {
            "/run/svid": f"{here}/svid",
            "/run/partners": f"{here}/partners",
            "/etc/envoy": f"{here}/etc",
            "/run/envoy": here,
            "/run/authz": here,
            "/run/outbound": here,
        }
