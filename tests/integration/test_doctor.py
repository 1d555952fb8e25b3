"""`authz doctor` on what really runs: an issuer, a sidecar with SDS, and what is left of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tests.support.issuer_process import MESH, PATIENCE_S, Issuer, service
from tests.support.partner import bundle_of, new_authority, replace_file
from tests.support.sidecar_process import SidecarProcess
from tests.support.spire import Spire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Seen: TypeAlias = dict[str, dict[str, str]]
ORDERS = "spiffe://shop.example/ns/shop/sa/orders"
ME = f"[{{unix: {{uid: {os.getuid()}}}}}]"
SOMEBODY_ELSE = "[{unix: {uid: 4242}}]"


def doctor(*flags: str | Path, output: str = "json") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "authz", "doctor", "-o", output, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)


def told(*flags: str | Path) -> tuple[int, Seen]:
    """Give the exit status and what was seen, by what it is about."""
    ended = doctor(*flags)
    assert ended.stderr == ""
    answer: dict[str, Any] = json.loads(ended.stdout)
    seen = {one["about"]: one for one in answer["observations"]}
    assert len(seen) == len(answer["observations"])
    assert answer["ok"] is (ended.returncode == 0)
    return ended.returncode, seen


def until(look: Callable[[], Seen], holds: Callable[[Seen], bool]) -> Seen:
    """Look until something holds that nobody tells of."""
    end_s = time.monotonic() + PATIENCE_S
    while not holds(seen := look()):
        assert time.monotonic() < end_s, seen
    return seen


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder whose path leaves room for those of sockets."""
    made = Path(tempfile.mkdtemp(prefix="dr-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_this_machine_has_what_is_required() -> None:
    status, seen = told()
    assert status == 0, seen
    assert {"python", "envoy", "clock", "sockets"} <= set(seen)


def test_a_workload_that_the_issuer_knows_is_well_and_another_one_is_told_what_to_do() -> None:
    with Issuer(MESH, service("orders", attest=ME)) as issuer:
        flags = ("--identity", f"spire:unix://{issuer.socket}", "--policies", issuer.policies, "--service", "orders")
        status, seen = told(*flags)
        assert status == 0, seen
        assert seen["workload api"]["says"].endswith("with 1 X.509-SVIDs")
        assert "left" in seen[ORDERS]["says"]
        assert seen["bundle of shop.example"]["says"].startswith("own: 1 X.509 authorities, 1 JWT keys")
        assert seen["revocation"]["level"] == "ok"

        shown = doctor(*flags, output="pretty")
        assert shown.returncode == 0
        assert any(line.startswith("ok") and ORDERS in line for line in shown.stdout.splitlines())
        assert "PRIVATE" not in shown.stdout

        issuer.write(MESH, service("orders", attest=SOMEBODY_ELSE))
        seen = until(lambda: told(*flags)[1], lambda seen: seen["workload api"]["level"] == "missing")
        assert "PERMISSION_DENIED" in seen["workload api"]["says"]
        assert f"uid {os.geteuid()}" in seen["workload api"]["says"]
        assert "attest" in seen["workload api"]["remedy"]
    status, seen = told("--identity", f"spire:{issuer.socket}")
    assert (status, "is not there" in seen["workload api"]["says"]) == (1, True)


def test_a_sidecar_is_known_by_its_state_and_its_sds_socket_and_so_is_its_end(folder: Path) -> None:
    with Issuer(MESH, service("orders", attest=ME)) as issuer:
        state, sds = folder / "state", folder / "sds"
        with SidecarProcess(
            *("--state", str(state), "--identity", f"spire:{issuer.socket}", "--sds-socket", str(sds)),
            service="orders",
            policies=issuer.policies,
            folder=folder,
        ) as sidecar:
            sidecar.wait_for("READY=1")
            status, seen = told("--state", state, "--sds-socket", sds)
            assert status == 0, seen
            assert seen["sds"]["says"].endswith("keys are not asked for here")
            assert "is ready" in seen["sidecar orders"]["says"]
            assert seen["identity of orders"]["says"].startswith(f"{ORDERS}, from spire:")
            # another server's socket is none of SDS
            status, seen = told("--sds-socket", issuer.socket)
            assert (status, "UNIMPLEMENTED" in seen["sds"]["says"]) == (1, True)

            issuer.kill()
            seen = until(lambda: told("--state", state)[1], lambda seen: seen["identity of orders"]["level"] != "ok")
            assert seen["identity of orders"]["level"] == "warning"
            assert "nothing new for" in seen["identity of orders"]["says"]
            issuer.start()
    status, seen = told("--state", state)
    assert (status, "has gone" in seen["sidecar orders"]["says"]) == (1, True)


def test_federation_of_a_running_sidecar_is_told_and_a_bundle_that_is_damaged_is_a_warning(folder: Path) -> None:
    federating = MESH.replace(
        "[shop.example]", "[shop.example], federates: [{trustDomain: acme.example, bundle: acme.json}]"
    )
    orders, about = service("orders", attest=ME), "federation acme.example"
    with Issuer(MESH, orders) as issuer:
        (issuer.policies / "acme.json").write_bytes(bundle_of(new_authority(), sequence=7).to_json())
        issuer.write(federating, orders)
        state = folder / "state"
        with SidecarProcess(
            *("--state", str(state), "--identity", f"spire:{issuer.socket}"),
            service="orders",
            policies=issuer.policies,
            folder=folder,
        ) as sidecar:
            sidecar.wait_for("READY=1")
            flags = ("--state", state, "--policies", issuer.policies, "--identity", f"spire:{issuer.socket}")
            seen = until(lambda: told(*flags)[1], lambda seen: about in seen)
            assert seen[about]["says"].startswith("bundle from file, sequence 7, last success 2")
            seen = until(lambda: told(*flags)[1], lambda seen: "delivered" in seen["federates acme.example"]["says"])
            assert seen["bundle of acme.example"]["says"].startswith("federated: 1 X.509 authorities")

            replace_file(issuer.policies / "acme.json", b"damaged")
            seen = until(lambda: told("--state", state)[1], lambda seen: seen[about]["level"] == "warning")
            assert "bundle from file, sequence 7" in seen[about]["says"]
            assert "acme.json" in seen[about]["says"]


@pytest.mark.peers
def test_spires_agent_is_asked_and_what_it_refuses_is_explained(folder: Path) -> None:
    with Spire(folder / "spire", ttl="1h") as spire:
        flags = ("--identity", f"spire:{spire.socket}")
        status, seen = told(*flags)
        assert (status, "PERMISSION_DENIED" in seen["workload api"]["says"]) == (1, True)
        assert "spire-server entry show" in seen["workload api"]["remedy"]
        spire.enter(ORDERS)
        seen = until(lambda: told(*flags)[1], lambda seen: ORDERS in seen)
        assert seen[ORDERS]["level"] == "ok"
        assert seen["bundle of shop.example"]["says"].startswith("own: 1 X.509 authorities, 1 JWT keys")
        spire.kill_agent()
        status, seen = told(*flags)
        assert (status, seen["workload api"]["level"]) == (1, "missing")


def test_a_folder_in_which_nothing_runs_is_missing(folder: Path) -> None:
    status, seen = told("--state", folder)
    assert (status, seen["state"]["level"]) == (1, "missing")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--identity", "spire:"), "give spire:SOCKET or files:DIR"),
        (("--identity", "vault:x"), "give spire:SOCKET or files:DIR"),
        (("--identity", "spire:http://x"), "is no Workload API socket"),
        (("--service", "orders"), "say with --policies"),
    ],
)
def test_what_cannot_be_understood_ends_with_2(flags: tuple[str, ...], why: str) -> None:
    ended = doctor(*flags)
    assert (ended.returncode, ended.stdout, why in ended.stderr) == (2, "", True)


def test_what_others_have_written_is_escaped(folder: Path) -> None:
    status = {"pid": os.getpid(), "service": "a\x1b[2J\nok  forged", "ready": True, "revision": None, "stale": True}
    (folder / "status.json").write_text(json.dumps({**status, "faults": ["\u202egnihton"]}))
    shown = doctor("--state", folder, output="pretty")
    assert r"sidecar a\x1b[2J\nok  forged" in shown.stdout
    assert r"\u202egnihton" in shown.stdout
    assert not {"\x1b", "\u202e"} & set(shown.stdout)
