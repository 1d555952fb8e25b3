"""What came from a source, held against the policies: whose it is, whom it believes, and what is revoked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from authz.doctor.identity_source import Fetched
from authz.doctor.observation import Level
from authz.doctor.service_identity import policies_observations
from authz.identity.trust import Trust
from authz.workload_api.received import received_x509
from tests.support.issuer_process import service
from tests.support.workload_api_messages import ORDERS, authority, der, response, svid

if TYPE_CHECKING:
    from pathlib import Path

    from authz.doctor.observation import Observation

SHOP = authority()
ACME = authority("acme.example")


def mesh(spec: str = "{trustDomains: [shop.example]}") -> str:
    return f"apiVersion: authz/v1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec: {spec}\n"


def fetched(whose: str = ORDERS, *, acme: bool = False) -> Fetched:
    federated = {"spiffe://acme.example": der(ACME.certificate_pem)} if acme else {}
    return Fetched(
        x509=received_x509(response(svid(SHOP, whose), federated=federated), datetime.now(UTC)), jwt=Trust.of(())
    )


def seen(
    folder: Path, *documents: str, whose: Fetched | None = None, name: str | None = "orders"
) -> dict[str, Observation]:
    (folder / "set.yaml").write_text("---\n".join(documents))
    return {one.about: one for one in policies_observations(str(folder), name, whose)}


def test_an_svid_of_the_service_that_nobody_has_revoked_is_well(tmp_path: Path) -> None:
    told = seen(tmp_path, mesh(), service("orders"), whose=fetched())
    assert {one.level for one in told.values()} == {Level.OK}
    assert set(told) == {"policies", "service orders", "revocation"}


def test_an_svid_of_somebody_else_is_missing(tmp_path: Path) -> None:
    told = seen(tmp_path, mesh(), service("orders"), whose=fetched("spiffe://shop.example/catalog"))
    assert told["service orders"].level is Level.MISSING
    assert "spiffe://shop.example/catalog" in told["service orders"].says


def test_a_service_that_is_not_in_the_set_is_missing_with_the_one_that_is_meant(tmp_path: Path) -> None:
    told = seen(tmp_path, mesh(), service("orders"), name="order")
    assert "did you mean `orders`" in told["service order"].says


def test_a_set_that_cannot_be_used_is_missing_with_its_first_fault(tmp_path: Path) -> None:
    told = seen(tmp_path, mesh("{trustDomains: []}"), service("orders"))
    assert (told["policies"].level, "set.yaml:" in told["policies"].says) == (Level.MISSING, True)
    assert "authz lint" in told["policies"].remedy


@pytest.mark.parametrize("by_serial", [False, True])
def test_what_is_revoked_is_said_by_id_and_by_serial(tmp_path: Path, *, by_serial: bool) -> None:
    whose = fetched()
    serial = whose.x509.svids[0].svid.serial
    entry = f"serial:shop.example/{serial.upper()}" if by_serial else ORDERS
    told = seen(
        tmp_path, mesh(f'{{trustDomains: [shop.example], revoked: ["{entry}"]}}'), service("orders"), whose=whose
    )
    assert (told["revocation"].level, "every call with it is denied" in told["revocation"].says) == (
        Level.MISSING,
        True,
    )


def test_a_trust_domain_of_the_mesh_without_a_bundle_is_missing(tmp_path: Path) -> None:
    told = seen(tmp_path, mesh("{trustDomains: [shop.example, stock.example]}"), service("orders"), whose=fetched())
    assert told["trust domain stock.example"].level is Level.MISSING
    assert "trust domain shop.example" not in told


FEDERATES = "{trustDomains: [shop.example], federates: [{trustDomain: acme.example, %s}]}"
FILE = "bundle: acme.pem"
WEB = 'endpoint: {url: "https://acme.example/bundle", profile: https_web}'


def test_a_federated_bundle_is_the_sources_else_the_files_else_the_endpoints(tmp_path: Path) -> None:
    about = "federates acme.example"
    documents = mesh(FEDERATES % FILE), service("orders")
    told = seen(tmp_path, *documents, whose=fetched(acme=True))[about]
    assert (told.level, told.says.startswith("delivered by the source")) == (Level.OK, True)
    told = seen(tmp_path, *documents, whose=fetched())[about]
    assert (told.level, "acme.pem" in told.says) == (Level.MISSING, True)
    (tmp_path / "acme.pem").write_bytes(ACME.certificate_pem)
    told = seen(tmp_path, *documents)[about]
    assert (told.level, "acme.pem: 1 X.509 authorities" in told.says) == (Level.OK, True)
    told = seen(tmp_path, mesh(FEDERATES % WEB), service("orders"), whose=fetched())[about]
    assert (told.level, "https://acme.example/bundle" in told.says) == (Level.WARNING, True)
    (tmp_path / "acme.pem").unlink()
    told = seen(tmp_path, mesh(FEDERATES % f"{FILE}, {WEB}"), service("orders"))[about]
    assert (told.level, "it is fetched from" in told.says) == (Level.WARNING, True)
