"""A real SPIRE: our sidecars take their SVIDs from its agent, Envoys serve with them, calls are decided on them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.sds_mesh import IDS, Load, SdsMesh
from tests.support.spire import Spire

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.peers, pytest.mark.envoy]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder whose path leaves room for those of sockets."""
    made = Path(tempfile.mkdtemp(prefix="spire-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_calls_are_decided_on_spires_identities_and_go_on_while_it_rotates(folder: Path) -> None:
    with Spire(folder / "spire", ttl="30s") as spire:
        spire.enter(*IDS.values())
        with SdsMesh(folder, dict.fromkeys(IDS, spire.socket)) as mesh:
            assert mesh.call().status == 200
            with Load(mesh, a_second=50) as load:
                seen = mesh.serials()
                for _ in range(2):
                    seen = mesh.wait_for_other(seen)
                    mesh.wait_for_handshake()
            assert load.failed == []
            for name, direction in (("orders", "outbound"), ("catalog", "inbound")):
                decisions = folder / name / "decisions"
                mesh.wait(lambda decisions=decisions: decisions.read_text())
                record = json.loads(decisions.read_text().splitlines()[0])
                assert (record["direction"], record["decision"]) == (direction, "allow")
                assert record["caller"]["identity"] == IDS["orders"]
            assert mesh.identity("orders")["spiffe_id"] == IDS["orders"], (
                "the agent gives both: each workload is of the user"
            )
            spire.kill_agent()
            mesh.wait(lambda: mesh.identity("orders")["stale"])
            assert mesh.call().status == 200


def test_an_identity_that_spire_does_not_issue_leaves_the_sidecar_without_one(folder: Path) -> None:
    with Spire(folder / "spire", ttl="30s") as spire:
        spire.enter("spiffe://shop.example/somebody-else")
        with SdsMesh(folder, dict.fromkeys(IDS, spire.socket), awaited=False) as mesh:
            status = folder / "orders/state/status.json"
            mesh.wait(lambda: status.exists() and "somebody-else" in str(mesh.status("orders").get("identity")))
            assert mesh.status("orders")["ready"] is False
            assert not (folder / "orders" / "svid").exists()
