"""A mesh from up to down, by the command line: what is shown, what dies and comes back, what is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz.mesh.calls.call import MeshCall
from authz.mesh.errors import NoMeshError
from authz.mesh.running_mesh import Mesh
from tests.support.conditions import eventually
from tests.support.leftovers import Traces
from tests.support.local_mesh import LocalMesh, authz
from tests.support.policy_sets import MIXED, ONE_SERVICE, service, write

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

SHOP = Path(__file__).parents[2] / "policies"
READ_ORDER = ("--from", "storefront", "--to", "orders", "--method", "GET", "--path", "/orders/7")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    folder = tmp_path_factory.mktemp("shop")
    shutil.copytree(SHOP, folder / "policies")
    with LocalMesh(policies=folder / "policies", state=folder / "state").running() as running:
        yield running


def running(mesh: LocalMesh) -> Mesh:
    return Mesh(str(mesh.state))


def part(mesh: LocalMesh, service: str, role: str) -> int:
    pid: int = mesh.service(service)["pids"][role]
    return pid


def get(mesh: LocalMesh, path: str = "/orders/7") -> int | None:
    answer = running(mesh).call(MeshCall(caller="storefront", destination="orders", method=b"GET", path=path.encode()))
    return answer.status


# --- what is shown -------------------------------------------------------------------------------------------------


def test_status_shows_every_part_of_every_service(mesh: LocalMesh) -> None:
    status = mesh.status()
    assert set(status) == {"ready", "revision", "hub", "services", "third_parties", "pids"}
    assert (status["ready"], list(status["pids"])) == (True, ["supervisor", "issuer", "hub"])
    assert status["hub"].startswith("http://127.0.0.1:")
    niceness = {of: os.getpriority(os.PRIO_PROCESS, pid) for of, pid in status["pids"].items()}
    assert niceness["hub"] > niceness["issuer"], "it does not keep those waiting who are called"
    assert [one["name"] for one in status["services"]] == ["catalog", "gateway", "orders", "payments", "storefront"]
    for one in status["services"]:
        assert set(one) == {
            "name", "identity", "app", "inbound", "outbound", "admin", "authz_socket", "decision_log", "certificate",
            "key", "bundle", "pids", "policy", "clock", "drain",
        }  # fmt: skip
        assert one["policy"] == {"revision": status["revision"], "stale": False, "faults": []}
        assert set(one["pids"]) == {"app", "envoy", "sidecar"}
        for address in (one["app"], one["inbound"], one["outbound"]):
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port))).close()
            assert host == "127.0.0.1"
        assert Path(one["authz_socket"]).is_socket()
        assert Path(one["admin"].removeprefix("unix:")).is_socket()
        assert one["identity"].encode() not in Path(one["key"]).read_bytes()
        for file in ("certificate", "bundle", "decision_log"):
            assert Path(one[file]).is_file()


def test_status_shows_the_stand_ins_of_third_parties(mesh: LocalMesh) -> None:
    (acme,) = mesh.status()["third_parties"]
    assert (acme["name"], acme["hosts"]) == ("acme-analytics", ["api.acme.example"])
    assert acme["identity"] == "spiffe://acme.example/analytics"
    assert all(Path(acme[file]).is_file() for file in ("certificate", "key", "bundle", "authority"))


def test_status_is_a_table_for_people(mesh: LocalMesh) -> None:
    shown = authz("mesh", "status", "--state", str(mesh.state), "-o", "pretty")
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"mesh ready, policies `{mesh.policies}`, revision ")
    assert lines[2].split() == ["NAME", "STATE", "IDENTITY", "UNTIL", "INBOUND", "OUTBOUND", "APP", "PIDS"]
    assert [line.split()[0] for line in lines[3:]] == [
        "catalog", "gateway", "orders", "payments", "storefront", "acme-analytics",
    ]  # fmt: skip
    for line in lines[3:8]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line.split()[3])
    assert f"issuer {mesh.status()['pids']['issuer']}" in lines[0]


def test_the_doctor_finds_the_issuer_and_each_identity_of_the_mesh(mesh: LocalMesh) -> None:
    told = authz("doctor", "--state", str(mesh.state), "-o", "json")
    assert told.returncode == 0, told.stdout
    seen = {one["about"]: one for one in json.loads(told.stdout)["observations"]}
    assert seen["issuer"]["says"] == f"process {mesh.status()['pids']['issuer']}"
    for one in mesh.status()["services"]:
        assert seen[f"sidecar {one['name']}"]["level"] == "ok"
        assert seen[f"identity of {one['name']}"]["says"].startswith(f"{one['identity']}, from ")


def test_nothing_secret_can_be_read_by_others(mesh: LocalMesh) -> None:
    record = running(mesh).record()
    for folder in (mesh.state, Path(record.runtime_directory)):
        assert folder.stat().st_mode & 0o777 == 0o700
    private = [Path(one.key) for one in record.services]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in private)
    assert "PRIVATE" not in (mesh.state / "state.json").read_text()


def test_the_mesh_that_runs_here_is_not_started_twice(mesh: LocalMesh) -> None:
    for more in ([], ["--detach"]):
        again = authz("mesh", "up", "--policies", str(mesh.policies), "--state", str(mesh.state), *more)
        assert again.returncode == 2
        assert "a mesh already uses the state directory" in again.stderr
    assert mesh.status()["ready"]


# --- calls ---------------------------------------------------------------------------------------------------------


def test_an_allowed_call_reaches_the_app_and_says_so(mesh: LocalMesh) -> None:
    called = authz("mesh", "call", "--state", str(mesh.state), *READ_ORDER, "-H", "X-Mine: a:b", "-o", "json")
    assert called.returncode == 0
    answer = json.loads(called.stdout)
    assert set(answer) == {"status", "grpc_status", "headers", "body", "reason", "decision_id"}
    assert (answer["status"], answer["grpc_status"], answer["reason"], answer["decision_id"]) == (200, None, None, None)
    echo = json.loads(answer["body"])
    assert (echo["service"], echo["path"], echo["host"], echo["headers"]["x-mine"]) == (
        "orders", "/orders/7", "orders", "a:b",
    )  # fmt: skip
    assert echo["headers"]["x-authz-caller"] == "spiffe://shop.example/ns/shop/sa/storefront"


def test_a_refused_call_says_why_and_is_recorded(mesh: LocalMesh) -> None:
    refused = authz("mesh", "call", "--state", str(mesh.state), *READ_ORDER[:-1], "/other", "-o", "json")
    assert refused.returncode == 1
    answer = json.loads(refused.stdout)
    assert (answer["status"], answer["reason"]) == (403, "no_policy")
    log = Path(mesh.service("storefront")["decision_log"])
    assert eventually(lambda: answer["decision_id"] in log.read_text())


def test_a_third_party_calls_straight_at_the_inbound_listener(mesh: LocalMesh) -> None:
    acme = ("--from", "acme-analytics", "--to", "orders", "--method", "GET", "--path")
    assert mesh.call(*acme, "/reports/daily")["status"] == 200
    assert mesh.call(*acme, "/orders/7")["reason"] == "no_policy"


def test_a_third_party_is_called_at_its_first_host(mesh: LocalMesh) -> None:
    orders = ("--from", "orders", "--to", "acme-analytics", "--method", "POST", "--path", "/v1/events")
    answer = mesh.call(*orders, "--body", "{}")
    assert (answer["status"], answer["reason"]) == (200, None)
    echo = json.loads(answer["body"])
    assert (echo["service"], echo["host"], echo["headers"]["content-length"]) == (
        "acme-analytics", "api.acme.example", "2",
    )  # fmt: skip
    assert mesh.call(*orders, "--host", "evil.example")["reason"] == "unknown_destination"


def test_what_cannot_be_called_is_a_usage_error(mesh: LocalMesh) -> None:
    for wrong in (
        ("--from", "nobody", "--to", "orders", "--method", "GET", "--path", "/"),
        ("--from", "acme-analytics", "--to", "acme-analytics", "--method", "GET", "--path", "/"),
        ("--from", "orders", "--to", "catalog", "--method", "GET"),
        ("--from", "orders", "--to", "catalog", "--method", "GET", "--path", "/", "-H", "no colon"),
    ):
        ended = authz("mesh", "call", "--state", str(mesh.state), *wrong, "-o", "json")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert len(ended.stderr.splitlines()) == 1


# --- what dies comes back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["sidecar", "app", "envoy"])
def test_what_is_killed_is_back_at_the_same_place(mesh: LocalMesh, role: str) -> None:
    before = mesh.service("orders")
    os.kill(before["pids"][role], signal.SIGKILL)

    def is_back() -> bool:
        status = running(mesh).status()
        (orders,) = [one for one in status.services if one.service.name == "orders"]
        return status.ready and orders.pids[role] != before["pids"][role]

    assert eventually(is_back)
    assert eventually(lambda: get(mesh) == 200)
    after = mesh.service("orders")
    assert {key: after[key] for key in before if key != "pids"} == {key: before[key] for key in before if key != "pids"}
    log = (mesh.state / "logs" / "mesh.log").read_text()
    assert f"the {role} of `orders` was ended by signal 9; it is started again" in log


def test_calls_are_refused_while_a_sidecar_is_held_and_status_says_who_is_not_ready(mesh: LocalMesh) -> None:
    envoy = part(mesh, "orders", "envoy")
    os.kill(part(mesh, "orders", "sidecar"), signal.SIGSTOP)
    assert eventually(lambda: get(mesh) == 503)
    os.kill(envoy, signal.SIGSTOP)
    status = authz("mesh", "status", "--state", str(mesh.state), "-o", "json")
    assert (status.returncode, json.loads(status.stdout)["ready"]) == (1, False)
    os.kill(envoy, signal.SIGCONT)
    os.kill(part(mesh, "orders", "sidecar"), signal.SIGCONT)
    assert eventually(lambda: get(mesh) == 200)


def test_a_broken_policy_file_is_shown_with_its_place_while_the_old_set_stays(mesh: LocalMesh) -> None:
    assert eventually(lambda: mesh.status()["revision"])
    revision = mesh.status()["revision"]
    broken = mesh.policies / "broken.yaml"
    broken.write_text(service("x", more=",\n  nonsense: 1"))
    try:
        assert eventually(lambda: all(one.policy.stale for one in running(mesh).status().services))
        status = mesh.status()
        assert (status["ready"], status["revision"]) == (True, revision)
        for one in status["services"]:
            assert one["policy"]["revision"] == revision
            assert [fault.split(":")[:2] for fault in one["policy"]["faults"]] == [[str(broken), "5"]]
        assert get(mesh) == 200
        shown = authz("mesh", "status", "--state", str(mesh.state), "-o", "pretty").stdout
        assert "stale" in shown
        assert shown.count(f"{broken}:5:") == 1
    finally:
        broken.unlink()
    assert eventually(lambda: not any(one.policy.stale for one in running(mesh).status().services))


# --- other meshes --------------------------------------------------------------------------------------------------


def test_two_meshes_run_side_by_side(mesh: LocalMesh, tmp_path: Path) -> None:
    policies = write(tmp_path / "policies", *ONE_SERVICE)
    with Mesh.start(policies, state=str(tmp_path / "state")) as other:
        call = MeshCall(caller="alone", destination="alone", method=b"GET", path=b"/")
        assert other.call(call).reason == "no_policy"
        assert get(mesh) == 200
    assert mesh.status()["ready"]


def test_down_leaves_nothing_and_may_be_said_twice(tmp_path: Path) -> None:
    policies, state = write(tmp_path / "policies", *ONE_SERVICE), tmp_path / "state"
    up = authz("mesh", "up", "--policies", policies, "--state", str(state), "--detach", "--no-hub")
    assert up.returncode == 0, up.stderr
    assert "mesh: ready after " in up.stdout
    traces = Traces.of(Mesh(str(state)).record(), state)
    assert len(traces.marks) == 5  # supervisor, issuer, app, Envoy and sidecar
    assert {mark.pid for mark in traces.marks} <= set(traces.living())
    for said in ("mesh: stopped\n", "mesh: there was none\n"):
        down = authz("mesh", "down", "--state", str(state))
        assert (down.returncode, down.stdout) == (0, said)
        assert traces.left() == []
    status = authz("mesh", "status", "--state", str(state))
    assert (status.returncode, status.stdout) == (2, "")
    with pytest.raises(NoMeshError, match="no mesh runs with"):
        Mesh(str(state)).status()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_mesh_in_the_foreground_stops_by_signal_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    policies, state = write(tmp_path / "policies", *ONE_SERVICE), tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-m", "authz", "mesh", "up", "--policies", policies, "--state", str(state)],
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        while "ready after" not in (line := up.stdout.readline()):
            assert line
        traces = Traces.of(Mesh(str(state)).record(), state)
        up.send_signal(number)
        assert up.stdout.read() == "mesh: stopping\nmesh: stopped\n"
    assert up.returncode == 0
    assert traces.left() == []


def test_a_mesh_that_is_stopped_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    policies, state = write(tmp_path / "policies", *MIXED), tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-m", "authz", "mesh", "up", "--policies", policies, "--state", str(state)],
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        # At the first line of a part that serves, six others have their start before them.
        while "serves (1 of 7)" not in (line := up.stdout.readline()):
            assert line
        traces = Traces.of(Mesh(str(state)).record(), state)
        up.send_signal(signal.SIGINT)
        assert up.stdout.read().endswith("mesh: stopping\nmesh: stopped\n")
    assert up.returncode == 1
    assert traces.left() == []


def test_a_killed_supervisor_takes_its_processes_along_and_down_cleans_up(tmp_path: Path) -> None:
    policies, state = write(tmp_path / "policies", *ONE_SERVICE), tmp_path / "state"
    assert authz("mesh", "up", "--policies", policies, "--state", str(state), "--detach").returncode == 0
    traces = Traces.of(Mesh(str(state)).record(), state)
    os.kill(traces.marks[0].pid, signal.SIGKILL)
    assert eventually(lambda: traces.living() == [])
    status = authz("mesh", "status", "--state", str(state))
    assert status.returncode == 2
    assert "has ended without cleaning up" in status.stderr
    assert authz("mesh", "down", "--state", str(state)).returncode == 0
    assert traces.left() == []


def test_a_mesh_ends_with_the_process_that_holds_its_leash(tmp_path: Path) -> None:
    policies, state = write(tmp_path / "policies", *ONE_SERVICE), tmp_path / "state"
    start = f"Mesh.start({policies!r}, state={str(state)!r})"
    holder = f"from authz.mesh.running_mesh import Mesh; mesh = {start}; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        traces = Traces.of(Mesh(str(state)).record(), state)
        process.kill()
    assert eventually(lambda: traces.left() == [])


# --- what cannot come up -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--detach",)])
def test_a_set_with_faults_is_refused_with_all_of_them(tmp_path: Path, more: tuple[str, ...]) -> None:
    write(tmp_path / "policies", *ONE_SERVICE)
    (tmp_path / "policies" / "wrong.yaml").write_text("apiVersion: authz/v1\nkind: Nothing\nmetadata: {nam: x}\n")
    up = authz("mesh", "up", "--policies", str(tmp_path / "policies"), "--state", str(tmp_path / "state"), *more)
    assert up.returncode == 2
    assert all(line.startswith(f"{tmp_path}/policies/wrong.yaml:") for line in up.stderr.splitlines())
    assert len(up.stderr.splitlines()) > 1
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("more", [(), ("--detach",)])
def test_a_process_that_cannot_start_is_named_with_its_last_words(tmp_path: Path, more: tuple[str, ...]) -> None:
    policies, state = write(tmp_path / "policies", *ONE_SERVICE), tmp_path / "state"
    assert authz("mesh", "up", "--policies", policies, "--state", str(state), "--detach").returncode == 0
    traces = Traces.of(Mesh(str(state)).record(), state)
    assert authz("mesh", "down", "--state", str(state)).returncode == 0
    # A folder stands where the sidecar of the next mesh wants to write its decisions.
    log = state / "decisions" / "alone.jsonl"
    log.unlink(missing_ok=True)
    log.mkdir()
    up = authz("mesh", "up", "--policies", policies, "--state", str(state), *more)
    assert up.returncode == 2
    first, *words = up.stderr.splitlines()
    assert first.startswith("the sidecar of `alone` ended with status ")
    assert str(state / "logs" / "alone.sidecar.log") in first
    assert any("alone.jsonl" in line for line in words)
    assert traces.left() == []


def test_folders_relative_to_the_current_one_and_flags_from_the_environment_are_understood(tmp_path: Path) -> None:
    write(tmp_path / "policies", *ONE_SERVICE)
    # The supervisor's own flags are no flags of its children, and the folder's modules are not ours.
    (tmp_path / "grpc.py").write_text("raise SystemExit('not this one')")
    flags = {"AUTHZ_POLICIES": "policies", "AUTHZ_STATE": "state", "AUTHZ_IDENTITY": "nonsense", "AUTHZ_DETACH": "1"}
    command = [sys.executable, "-P", "-m", "authz", "mesh"]
    for name in ("up", "down"):
        ended = subprocess.run(
            [*command, name], cwd=tmp_path, env={**os.environ, **flags}, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "state" / "logs" / "mesh.log").exists()


def test_only_those_that_are_named_are_started(tmp_path: Path) -> None:
    policies, state = write(tmp_path / "policies", *MIXED), str(tmp_path / "state")
    with Mesh.start(policies, state=state, only=["orders", "psp", "certified"]) as mesh:
        status = mesh.status().to_json()
        assert status["ready"]
        assert [one["name"] for one in status["services"]] == ["orders"]
        # Nothing stands in for a caller whose certificate an authority outside the mesh signs.
        assert [one["name"] for one in status["third_parties"]] == ["certified", "psp"]
    wrong = authz("mesh", "up", "--policies", policies, "--state", state, "--only", "orders,nobody")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "--only: there is no Service or ThirdParty `nobody` in the policy set\n",
    )


def test_the_folder_of_another_thing_is_not_used(tmp_path: Path) -> None:
    policies = write(tmp_path / "policies", *ONE_SERVICE)
    up = authz("mesh", "up", "--policies", policies, "--state", policies)
    assert up.returncode == 2
    assert "holds other things" in up.stderr
    assert [path.name for path in Path(policies).iterdir()] == ["set.yaml"]


def test_help_of_every_command_has_an_example() -> None:
    for command in ([], ["up"], ["status"], ["down"], ["call"], ["demo"]):
        shown = authz("mesh", *command, "--help")
        assert shown.returncode == 0
        assert "example:\n  authz mesh " in shown.stdout
