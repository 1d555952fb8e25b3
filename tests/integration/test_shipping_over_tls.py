"""Shipping over mTLS: both ends prove themselves by SVIDs of the own trust domain, also after those have changed."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import write_svid
from tests.support.check_request import check_request
from tests.support.conditions import eventually
from tests.support.intake import Intake
from tests.support.policy_sets import ORDERS_AND_CATALOG, ORDERS_READ_CATALOG, write
from tests.support.sidecar_process import SidecarProcess, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 150
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
OWN = Authority.generate(TrustDomain.parse("shop.example"), NOW - 2 * HOUR, 5 * HOUR)
OTHER = Authority.generate(TrustDomain.parse("acme.example"), NOW - 2 * HOUR, 5 * HOUR)
#: signed by somebody else under our name
FORGED = Authority.generate(TrustDomain.parse("shop.example"), NOW - 2 * HOUR, 5 * HOUR)
DENIED = check_request(direction="outbound", method="DELETE")


def svid(folder: Path, of: Authority, spiffe_id: str) -> Path:
    write_svid(folder, of.issue_x509_svid(SpiffeId.parse(spiffe_id), NOW, HOUR), of.certificate_pem)
    return folder


def hub_tls(folder: Path, *, clients: Authority = OWN) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "svid.pem", folder / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=clients.certificate_pem.decode())
    return context


@contextmanager
def sidecar(folder: Path, url: str) -> Iterator[SidecarProcess]:
    policies = folder / "policies"
    write(policies, *ORDERS_AND_CATALOG, ORDERS_READ_CATALOG)
    flags = ("--state", str(folder / "state"), "--identity", f"files:{folder / 'svids'}", "--hub", url)
    with SidecarProcess(*flags, service="orders", policies=policies, folder=folder) as started:
        started.wait_for("READY=1")
        yield started


def test_batches_reach_a_hub_of_the_own_trust_domain_before_and_after_a_rotation(tmp_path: Path) -> None:
    svid(tmp_path / "svids", OWN, "spiffe://shop.example/orders")
    with (
        Intake(tls=hub_tls(svid(tmp_path / "hub", OWN, "spiffe://shop.example/hub"))) as hub,
        sidecar(tmp_path, hub.url) as started,
    ):
        for many in (1, 2, 3):
            assert reason(started.check(DENIED)) == "no_policy"
            assert eventually(lambda many=many: len(hub.taken.records) == many, PATIENCE_S), started.errors.read_text()
            svid(tmp_path / "svids", OWN, "spiffe://shop.example/orders")
        assert hub.taken.in_order[-1].status.svid_expires_ns is not None
        assert started.stop() == 0


@pytest.mark.parametrize(
    ("authority", "spiffe_id", "words"),
    [
        (OTHER, "spiffe://acme.example/hub", "certificate"),
        (FORGED, "spiffe://shop.example/hub", "certificate"),
    ],
    ids=["of another trust domain", "of another authority under our name"],
)
def test_nothing_is_told_to_a_hub(tmp_path: Path, authority: Authority, spiffe_id: str, words: str) -> None:
    svid(tmp_path / "svids", OWN, "spiffe://shop.example/orders")
    with (
        Intake(tls=hub_tls(svid(tmp_path / "hub", authority, spiffe_id))) as hub,
        sidecar(tmp_path, hub.url) as started,
    ):
        assert reason(started.check(DENIED)) == "no_policy"
        assert eventually(lambda: words in started.errors.read_text().lower(), PATIENCE_S)
        # What failed first may be a batch without a denial; the denial's own waits on disk as soon as it is made.
        spool = tmp_path / "state" / "spool"
        assert eventually(lambda: any(spool.glob("*-deny.json.gz")), PATIENCE_S), started.errors.read_text()
        assert not hub.headers
        assert started.stop() == 0


def test_nothing_is_told_to_who_has_a_certificate_of_the_own_authority_without_a_spiffe_id(tmp_path: Path) -> None:
    from tests.support import certificates  # noqa: PLC0415 its leaves are of an authority of its own

    named = certificates.leaf((certificates.DNS("localhost"),), not_before=NOW - HOUR, not_after=NOW + HOUR)
    folder = tmp_path / "hub"
    folder.mkdir()
    both = certificates.with_key(named)
    (folder / "svid.pem").write_bytes(both)
    (folder / "key.pem").write_bytes(both)
    svid(tmp_path / "svids", OWN, "spiffe://shop.example/orders")
    with Intake(tls=hub_tls(folder)) as hub, sidecar(tmp_path, hub.url) as started:
        assert reason(started.check(DENIED)) == "no_policy"
        assert eventually(lambda: "batches wait" in started.errors.read_text(), PATIENCE_S)
        assert not hub.headers
        assert started.stop() == 0
