"""go-spiffe against our Workload API: it fetches and validates, and is told of renewals. Run by `make test-peers`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.issuer_process import MESH, Issuer, service
from tests.support.upstream_root import root_pem

PEERS = Path(__file__).parents[2] / ".cache/peers"
ORDERS = "spiffe://shop.example/ns/shop/sa/orders"
ME = f"[{{unix: {{uid: {os.getuid()}}}}}]"

pytestmark = pytest.mark.peers


def told(issuer: Issuer, *arguments: str) -> dict[str, Any]:
    program = shutil.which("gospiffe", path=str(PEERS))
    if program is None:
        pytest.skip("no gospiffe: make test-peers builds it, with Go")
    ran = subprocess.run(
        [program, f"unix://{issuer.socket}", "catalog", *arguments], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def test_go_spiffe_fetches_and_validates_x509_and_jwt_svids() -> None:
    with Issuer(MESH, service("orders", attest=ME)) as issuer:
        assert told(issuer) == {
            "x509": ORDERS,
            "hint": "orders",
            "chain": 1,
            "x509_bundles": 1,
            "jwt": ORDERS,
            "validated": ORDERS,
            "another_audience": True,
        }


def test_go_spiffe_validates_a_chain_with_an_intermediate(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    file = tmp_path / "root.pem"
    file.touch(0o600)
    file.write_bytes(root_pem(not_before=now - timedelta(days=1), not_after=now + timedelta(days=1)))
    with Issuer(MESH, service("orders", attest=ME), arguments=[f"--upstream-authority={file}"]) as issuer:
        answer = told(issuer)
        assert (answer["x509"], answer["chain"]) == (ORDERS, 2)


def test_go_spiffe_is_told_of_renewals() -> None:
    flags = ["--svid-lifetime=2s", "--authority-lifetime=31m"]
    with Issuer(MESH, service("orders", attest=ME), arguments=flags) as issuer:
        serials = told(issuer, "3")["serials"]
        assert len(set(serials)) == 3


def test_go_spiffe_is_refused_where_it_is_nobody() -> None:
    with Issuer(MESH, service("orders", attest="[{unix: {uid: 4242}}]")) as issuer:
        program = shutil.which("gospiffe", path=str(PEERS))
        if program is None:
            pytest.skip("no gospiffe: make test-peers builds it, with Go")
        ran = subprocess.run(
            [program, f"unix://{issuer.socket}", "catalog"], check=False, capture_output=True, text=True
        )
        assert ran.returncode == 1
        assert "PermissionDenied" in ran.stderr
        assert issuer.refused()[-1]["path"] == program
