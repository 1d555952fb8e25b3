"""The partner of the compose file: api.acme.example with keys of its own, which no part of the shop ever sees.

It has two authorities, kept in its own volume: one for TLS (its host) and one for its SPIFFE trust domain (its
calls to us). It shows the shop what a partner shows: their certificates, in a volume that the Envoys read. Then it
becomes an echo app behind TLS.
"""  # noqa: INP001 a program of the compose file, no part of the package

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import kept_authority, write_svid

HOST = "api.acme.example"
CALLER = SpiffeId.parse("spiffe://acme.example/analytics")
LIFETIME = timedelta(days=30)
AUTHORITY_LIFETIME = timedelta(days=365)


def prepare(own: Path, shown: Path) -> list[str]:
    """Issue into `own`, show the authorities' certificates in `shown`, and give the echo app's arguments."""
    now = datetime.now(UTC)
    tls = _authority(own, TrustDomain.parse(HOST), now)
    identity = _authority(own, CALLER.trust_domain, now)
    write_svid(own / "tls", tls.issue_server_certificate([HOST], now, LIFETIME), tls.certificate_pem)
    write_svid(own / "svid", identity.issue_x509_svid(CALLER, now, LIFETIME), identity.certificate_pem)
    _show(shown / f"{HOST}.pem", tls.certificate_pem)
    _show(shown / f"{CALLER.trust_domain}.pem", identity.certificate_pem)
    served = ["--tls-certificate", str(own / "tls/svid.pem"), "--tls-key", str(own / "tls/key.pem")]
    return ["--service", "acme-analytics", "--listen", "0.0.0.0:443", *served]


def _authority(own: Path, trust_domain: TrustDomain, now: datetime) -> Authority:
    return kept_authority(
        own / "authorities", trust_domain, lambda: Authority.generate(trust_domain, now, AUTHORITY_LIFETIME)
    )


def _show(file: Path, certificate_pem: bytes) -> None:
    draft = file.with_suffix(".new")
    draft.write_bytes(certificate_pem)
    draft.replace(file)


if __name__ == "__main__":
    arguments = prepare(Path("/var/lib/acme"), Path("/run/partners"))
    echo_app = [sys.executable, "-P", "-m", "authz.mesh.echo_app", *arguments]
    os.execv(sys.executable, echo_app)  # noqa: S606 that there is no shell is the point
