"""The issuer's log says once which federated bundle is in force, and that there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.federation.followed_bundle import FederationStatus, Origin
from authz.identity.spiffe_id import TrustDomain
from authz.issuer.federation_log import FederationLog

if TYPE_CHECKING:
    import pytest


def status(origin: Origin | None, sequence: int | None) -> FederationStatus:
    return FederationStatus(
        trust_domain=TrustDomain.parse("acme.example"),
        origin=origin,
        sequence=sequence,
        last_success=None,
        endpoint_error=None,
        file_error=None,
        next_poll=None,
    )


def test_each_bundle_is_said_once_and_its_absence_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    log = FederationLog()
    for each in (
        [status(None, None)],
        [status(None, None)],
        [status(Origin.FILE, 7)],
        [status(Origin.FILE, 7)],
        [status(Origin.ENDPOINT, 8)],
        [],
        [status(Origin.ENDPOINT, 8)],
    ):
        log.report(each)
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "there is no bundle of `acme.example`: workloads are given none, and believe nobody"),
        ("INFO", "the bundle of `acme.example` is that of the file, sequence 7"),
        ("INFO", "the bundle of `acme.example` is that of the endpoint, sequence 8"),
        ("INFO", "the bundle of `acme.example` is that of the endpoint, sequence 8"),
    ]
