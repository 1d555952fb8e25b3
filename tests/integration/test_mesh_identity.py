"""Where the workloads of a local mesh have their identities from: the issuer, which knows them by the mesh."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from spiffe import WorkloadApiClient
from spiffe.errors import PySpiffeError

from authz.identity.bundle import bundle_from_pem
from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_chain import chain_from_pem, verify_x509_svid
from tests.support.conditions import eventually
from tests.support.local_mesh import LocalMesh, mesh_of, request

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

SET = """
apiVersion: authz/v1
kind: Mesh
metadata: {name: shop}
spec: {trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: orders}
spec: {identities: ["spiffe://shop.example/orders"]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: catalog}
spec: {identities: ["spiffe://shop.example/catalog"]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: batch}
spec: {identities: ["spiffe://shop.example/batch/*"]}
---
apiVersion: authz/v1
kind: ThirdParty
metadata: {name: acme}
spec:
  identities: ["spiffe://acme.example/pull"]
  window: {opens: 2026-01-01T00:00:00Z, closes: 2099-01-01T00:00:00Z}
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: all}
spec:
  from: [{services: [orders, batch]}, {thirdParties: [acme]}]
  to: [{services: [catalog], operations: all}]
"""
SHOP = TrustDomain(name="shop.example")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with mesh_of(tmp_path_factory.mktemp("mesh"), SET) as running:
        yield running


def runtime_directory(mesh: LocalMesh) -> Path:
    return Path(json.loads((mesh.state / "state.json").read_text())["runtime_directory"])


@pytest.mark.parametrize("name", ["orders", "catalog", "batch"])
def test_every_service_has_an_svid_of_the_one_root_and_nobody_else_reads_its_key(mesh: LocalMesh, name: str) -> None:
    service = mesh.service(name)
    trust = Trust.of([bundle_from_pem(Path(service["bundle"]).read_bytes(), SHOP)])
    svid = verify_x509_svid(chain_from_pem(Path(service["certificate"]).read_bytes()), trust, datetime.now(UTC))
    assert str(svid.spiffe_id) == service["identity"]
    assert stat.S_IMODE(Path(service["key"]).stat().st_mode) == 0o600


@pytest.mark.parametrize("caller", ["orders", "batch", "acme"])
def test_attested_services_those_with_patterns_alone_and_third_parties_call_alike(mesh: LocalMesh, caller: str) -> None:
    assert mesh.call("--from", caller, "--to", "catalog", "--method", "GET", "--path", "/x")["status"] == 200


def test_a_process_that_the_mesh_has_not_started_gets_nothing_and_is_on_record(mesh: LocalMesh) -> None:
    with pytest.raises(PySpiffeError), WorkloadApiClient(f"unix://{runtime_directory(mesh)}/issuer") as client:
        client.fetch_x509_svid()
    lines = (mesh.state / "refused-workloads.jsonl").read_text().splitlines()
    assert os.getpid() in {json.loads(line).get("pid") for line in lines}


def test_an_issuer_that_dies_costs_no_call_and_the_next_one_knows_every_workload(mesh: LocalMesh) -> None:
    outbound, failed, over = mesh.service("orders")["outbound"], list[int](), threading.Event()
    calls = 0

    def call() -> None:
        nonlocal calls
        while not over.is_set():
            status = request(outbound, "GET", "/x", "catalog").status
            calls += 1
            if status != 200:
                failed.append(status)

    def issuer() -> int | None:
        found: int | None = mesh.status()["pids"].get("issuer")
        return found

    caller = threading.Thread(target=call)
    caller.start()
    try:
        before = issuer()
        assert before is not None
        os.kill(before, signal.SIGKILL)
        assert eventually(lambda: issuer() not in {None, before}, patience_s=30)
    finally:
        over.set()
        caller.join()
    assert calls > 0
    assert not failed

    # Whoever starts now gets an identity of the issuer that came after.
    sidecar: dict[str, Any] = mesh.service("catalog")
    written = Path(sidecar["certificate"]).read_bytes()
    os.kill(sidecar["pids"]["sidecar"], signal.SIGKILL)
    assert eventually(lambda: Path(sidecar["certificate"]).read_bytes() != written, patience_s=30)
    assert eventually(lambda: mesh.status()["ready"], patience_s=30)
    assert request(outbound, "GET", "/x", "catalog").status == 200
