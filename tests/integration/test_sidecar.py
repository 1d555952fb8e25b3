"""The real sidecar process, asked as Envoy asks it, without an Envoy."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.zone_data import zone_data_version
from tests.support.certificates import with_serial_octet
from tests.support.check_request import check_request
from tests.support.policy_sets import ORDERS_AND_CATALOG, ORDERS_READ_CATALOG, write
from tests.support.sidecar_process import SidecarProcess, ask, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BROKEN = ORDERS_READ_CATALOG.replace("operations", "operation")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.generate(TrustDomain.parse("shop.example"), datetime.now(UTC), timedelta(hours=1))


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = Path(write(tmp_path / "policies", *ORDERS_AND_CATALOG))
    (folder / "orders.yaml").write_text(ORDERS_READ_CATALOG)
    return folder


@pytest.fixture(params=["native", "grpcio"])
def start(tmp_path: Path, policies: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., SidecarProcess]]:
    """Both transports have to behave alike: grpcio is the fallback, and what the other one is compared with."""
    started: list[SidecarProcess] = []

    def starter(*arguments: str, service: str = "catalog") -> SidecarProcess:
        words = ("--check-transport", request.param, *arguments)
        started.append(SidecarProcess(*words, service=service, policies=policies, folder=tmp_path))
        return started[-1]

    yield starter
    for process in started:
        process.__exit__()


def certificate(authority: Authority, identity: str, lifetime: timedelta = timedelta(hours=1)) -> bytes:
    return authority.issue_x509_svid(SpiffeId.parse(identity), datetime.now(UTC), lifetime).certificate_pem


def replace(path: Path, text: str) -> None:
    draft = path.with_name(".draft")
    draft.write_text(text)
    draft.replace(path)


def test_a_call_is_decided_by_caller_method_and_path(
    start: Callable[..., SidecarProcess], authority: Authority
) -> None:
    sidecar = start()
    sidecar.wait_for("READY=1")
    orders = certificate(authority, "spiffe://shop.example/orders")
    assert reason(sidecar.check(check_request(certificate_pem=orders))) == "allowed"
    assert reason(sidecar.check(check_request(certificate_pem=orders, method="POST"))) == "no_policy"
    assert reason(sidecar.check(check_request(certificate_pem=orders, path="/a/../items/42"))) == "malformed"
    assert reason(sidecar.check(check_request())) == "unidentified"
    other = certificate(authority, "spiffe://shop.example/other")
    assert reason(sidecar.check(check_request(certificate_pem=other))) == "no_policy"
    elsewhere = Authority.generate(TrustDomain.parse("elsewhere.example"), datetime.now(UTC), timedelta(hours=1))
    outside = certificate(elsewhere, "spiffe://elsewhere.example/orders")
    assert reason(sidecar.check(check_request(certificate_pem=outside))) == "untrusted"


def test_a_certificate_whose_serial_is_not_positive_is_nobodys_and_nothing_is_printed(
    start: Callable[..., SidecarProcess],
) -> None:
    now = datetime.now(UTC)
    valid = {"not_before": now - timedelta(minutes=1), "not_after": now + timedelta(hours=1)}
    sidecar = start()
    sidecar.wait_for("READY=1")
    answers = [
        reason(sidecar.check(check_request(certificate_pem=with_serial_octet(octet, **valid))))
        for octet in (b"\x01", b"\x00", b"\xff")
    ]
    assert answers == ["no_policy", "unidentified", "unidentified"]
    assert sidecar.stop() == 0
    assert all(" INFO " in line for line in sidecar.errors.read_text().splitlines())


def test_a_sidecar_says_by_which_time_zones_it_decides(start: Callable[..., SidecarProcess]) -> None:
    sidecar = start()
    sidecar.wait_for("READY=1")
    assert sidecar.stop() == 0
    assert f"time zones of tzdata {zone_data_version()}" in sidecar.errors.read_text()


def test_an_outbound_call_is_the_workloads_own(start: Callable[..., SidecarProcess]) -> None:
    sidecar = start(service="orders")
    sidecar.wait_for("READY=1")
    assert reason(sidecar.check(check_request(direction="outbound"))) == "allowed"
    assert reason(sidecar.check(check_request(direction="outbound", host="nowhere"))) == "unknown_destination"


@pytest.mark.parametrize(
    "extensions",
    [{"service": "orders"}, {"workload": "spiffe://shop.example/orders"}, {"service": "catalog", "workload": "x"}],
)
def test_a_context_that_is_not_the_sidecars_own_is_denied(
    start: Callable[..., SidecarProcess], authority: Authority, extensions: dict[str, str]
) -> None:
    sidecar = start()
    sidecar.wait_for("READY=1")
    orders = certificate(authority, "spiffe://shop.example/orders")
    own = {"service": "catalog", "workload": "spiffe://shop.example/catalog"}
    assert reason(sidecar.check(check_request(certificate_pem=orders, extensions=own))) == "allowed"
    assert reason(sidecar.check(check_request(certificate_pem=orders, extensions=extensions))) == "internal_error"
    assert reason(sidecar.check(check_request(certificate_pem=orders, direction=None))) == "internal_error"


def test_an_allowed_call_that_envoy_would_route_elsewhere_is_denied(start: Callable[..., SidecarProcess]) -> None:
    sidecar = start(service="orders")
    sidecar.wait_for("READY=1")
    for routed_to, expected in (("catalog", "allowed"), ("orders", "internal_error"), ("", "internal_error")):
        asked = check_request(direction="outbound", extensions={"destination": routed_to})
        assert reason(sidecar.check(asked)) == expected
    nowhere = check_request(direction="outbound", host="nowhere", extensions={"destination": ""})
    assert reason(sidecar.check(nowhere)) == "unknown_destination"


def test_an_edit_comes_into_force_and_a_broken_edit_does_not(
    start: Callable[..., SidecarProcess], authority: Authority, policies: Path, tmp_path: Path
) -> None:
    sidecar = start("--state", str(tmp_path / "state"))
    sidecar.wait_for("READY=1")
    orders = certificate(authority, "spiffe://shop.example/orders")
    asked = check_request(certificate_pem=orders)
    assert reason(sidecar.check(asked)) == "allowed"
    before = json.loads((tmp_path / "state" / "status.json").read_text())

    replace(policies / "orders.yaml", BROKEN)
    sidecar.wait_for("newer files cannot be used")
    assert reason(sidecar.check(asked)) == "allowed"
    status = json.loads((tmp_path / "state" / "status.json").read_text())
    assert (status["revision"], status["stale"], status["ready"]) == (before["revision"], True, True)
    assert any("orders.yaml:4:" in fault for fault in status["faults"])
    assert sidecar.errors.read_text().count("orders.yaml:4:") == len(status["faults"])

    replace(policies / "orders.yaml", ORDERS_READ_CATALOG.replace("GET", "POST"))
    sidecar.wait_for("is in force")
    assert reason(sidecar.check(asked)) == "no_policy"
    status = json.loads((tmp_path / "state" / "status.json").read_text())
    assert status["revision"] != before["revision"]
    assert (status["stale"], status["faults"]) == (False, [])


def test_no_call_fails_while_policies_are_edited(
    start: Callable[..., SidecarProcess], authority: Authority, policies: Path
) -> None:
    sidecar = start()
    sidecar.wait_for("READY=1")
    asked = check_request(certificate_pem=certificate(authority, "spiffe://shop.example/orders"))
    with sidecar.channel() as channel:
        for number in range(5):
            replace(policies / "orders.yaml", ORDERS_READ_CATALOG.replace("orders-read-catalog", f"policy-{number}"))
            named = ""
            while named != f"policy-{number}":  # ends when the edit is in force; each answer until then is asserted
                response = ask(channel, asked)
                assert reason(response) == "allowed"
                named = str(response.dynamic_metadata["policy"])


def test_without_a_usable_set_every_call_is_denied(
    start: Callable[..., SidecarProcess], authority: Authority, policies: Path
) -> None:
    (policies / "orders.yaml").write_text(BROKEN)
    sidecar = start()
    sidecar.wait_for("no usable policy set")
    asked = check_request(certificate_pem=certificate(authority, "spiffe://shop.example/orders"))
    response = sidecar.check(asked)
    assert (reason(response), response.denied_response.status.code) == ("internal_error", 503)
    replace(policies / "orders.yaml", ORDERS_READ_CATALOG)
    sidecar.wait_for("READY=1")
    assert reason(sidecar.check(asked)) == "allowed"


def test_a_killed_sidecar_comes_back_with_the_last_good_set(
    start: Callable[..., SidecarProcess], authority: Authority, policies: Path, tmp_path: Path
) -> None:
    first = start("--state", str(tmp_path / "state"))
    first.wait_for("READY=1")
    first.kill()
    (policies / "orders.yaml").write_text(BROKEN)
    second = start("--state", str(tmp_path / "state"))
    assert "newer files cannot be used" in second.wait_for("READY=1")
    asked = check_request(certificate_pem=certificate(authority, "spiffe://shop.example/orders"))
    assert reason(second.check(asked)) == "allowed"


def test_a_permission_that_was_taken_away_does_not_come_back_with_a_restart(
    start: Callable[..., SidecarProcess], authority: Authority, policies: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    asked = check_request(certificate_pem=certificate(authority, "spiffe://shop.example/orders"))
    first = start("--state", str(state))
    first.wait_for("READY=1")
    assert reason(first.check(asked)) == "allowed"
    # From here on the set that is in force cannot be kept: a folder stands where its draft would.
    (state / "last-good.json.draft").mkdir()
    replace(policies / "orders.yaml", ORDERS_READ_CATALOG.replace("GET", "POST"))
    first.wait_for("is in force")
    assert reason(first.check(asked)) == "no_policy"
    first.kill()
    (policies / "orders.yaml").write_text(BROKEN)
    second = start("--state", str(state))
    second.wait_for("no usable policy set")
    assert reason(second.check(asked)) == "internal_error"


def test_a_restart_without_the_folder_decides_by_the_set_that_was_kept(
    start: Callable[..., SidecarProcess], authority: Authority, policies: Path, tmp_path: Path
) -> None:
    first = start("--state", str(tmp_path / "state"))
    first.wait_for("READY=1")
    first.kill()
    policies.rename(tmp_path / "away")
    second = start("--state", str(tmp_path / "state"))
    assert "newer files cannot be used" in second.wait_for("READY=1")
    asked = check_request(certificate_pem=certificate(authority, "spiffe://shop.example/orders"))
    assert reason(second.check(asked)) == "allowed"
    (tmp_path / "away").rename(policies)
    while "cannot be used" in second.wait_for("READY=1"):
        pass


def test_what_blocks_a_reader_does_not_block_the_follower(
    start: Callable[..., SidecarProcess], authority: Authority, policies: Path
) -> None:
    asked = check_request(certificate_pem=certificate(authority, "spiffe://shop.example/orders"))
    sidecar = start()
    sidecar.wait_for("READY=1")
    os.mkfifo(policies / "pipe.yaml")
    sidecar.wait_for("newer files cannot be used")
    assert reason(sidecar.check(asked)) == "allowed"
    (policies / "pipe.yaml").unlink()
    replace(policies / "orders.yaml", ORDERS_READ_CATALOG.replace("GET", "POST"))
    while "cannot be used" in sidecar.wait_for("READY=1"):
        pass
    assert reason(sidecar.check(asked)) == "no_policy"
    assert sidecar.stop() == 0


def test_a_sidecar_whose_socket_is_taken_away_ends_and_says_so(start: Callable[..., SidecarProcess]) -> None:
    sidecar = start()
    sidecar.wait_for("READY=1")
    sidecar.socket.unlink()
    assert sidecar.process.wait(30) == 2
    assert "the socket was taken away" in sidecar.errors.read_text()


def test_a_log_that_was_moved_away_is_followed(start: Callable[..., SidecarProcess], tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    sidecar = start("--decision-log", str(log))
    sidecar.wait_for("READY=1")
    sidecar.check(check_request())
    log.rename(tmp_path / "rotated")
    with sidecar.channel() as channel:
        asked = 0
        while not log.exists():  # ends when the sidecar has looked; no record is lost meanwhile
            ask(channel, check_request())
            asked += 1
        ask(channel, check_request())
    assert sidecar.stop() == 0
    lines = (tmp_path / "rotated").read_text().splitlines() + log.read_text().splitlines()
    assert len(lines) == asked + 2


def test_every_answered_decision_is_in_the_log_after_kill_9(
    start: Callable[..., SidecarProcess], authority: Authority, tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    sidecar = start("--decision-log", str(log))
    sidecar.wait_for("READY=1")
    asked = check_request(certificate_pem=certificate(authority, "spiffe://shop.example/orders"))
    with sidecar.channel() as channel:
        answered = {str(ask(channel, asked).dynamic_metadata["decision_id"]) for _ in range(200)}
        sidecar.kill()
    lines = log.read_text().splitlines()
    assert answered == {json.loads(line)["decision_id"] for line in lines}
    record = json.loads(lines[0])
    assert record["caller"]["service"] == "orders"
    assert record["destination"]["service"] == "catalog"
    assert (record["decision"], record["reason"], record["policy"]) == ("allow", "allowed", "orders-read-catalog")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_the_socket_is_not_for_everyone_and_is_gone_at_the_end(start: Callable[..., SidecarProcess]) -> None:
    sidecar = start()
    sidecar.wait_for("READY=1")
    assert stat.S_IMODE(sidecar.socket.stat().st_mode) == 0o660
    assert sidecar.stop() == 0
    assert not sidecar.socket.exists()


def test_a_second_sidecar_on_the_same_socket_is_refused(start: Callable[..., SidecarProcess]) -> None:
    first = start()
    first.wait_for("READY=1")
    second = start()
    assert second.process.wait(30) == 2
    assert "another server answers on this socket" in second.errors.read_text()
    assert reason(first.check(check_request())) == "unidentified"


def test_hostile_messages_are_answered_with_a_deny_or_a_grpc_error(
    start: Callable[..., SidecarProcess], authority: Authority, tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    sidecar = start("--decision-log", str(log))
    sidecar.wait_for("READY=1")
    good = check_request(certificate_pem=certificate(authority, "spiffe://shop.example/other")).SerializeToString()
    chance = random.Random(7)  # noqa: S311 the same hostile messages every time
    with sidecar.channel() as channel:
        for _ in range(500):
            message = bytearray(good)
            for _ in range(chance.randint(1, 8)):
                message[chance.randrange(len(message))] = chance.randrange(256)
            assert ask(channel, bytes(message[: chance.randint(0, len(message))])).status.code != 0
        with pytest.raises(grpc.RpcError):
            ask(channel, bytes(2 * 1024 * 1024))
        assert reason(ask(channel, check_request())) == "unidentified"
    assert sidecar.stop() == 0
    assert "Traceback" not in sidecar.errors.read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 501, "every answer has its record, also to what was no check"
    assert {line["decision"] for line in lines} == {"deny"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--service", "a", "--policies", "/nowhere", "--socket", "s"], "no such policy folder"),
        (["--service", "a", "--policies", "POLICIES", "--socket", "/nowhere/s"], "no folder `/nowhere`"),
        (["--service", "a", "--policies", "POLICIES", "--socket", "/" + "s" * 120], "at most 107 bytes"),
        (["--service", "a", "--policies", "https://x/y.git", "--socket", "s"], "not supported yet"),
        (
            ["--service", "a", "--policies", "POLICIES", "--socket", "s", "--identity", "spire:https://x"],
            "tcp://IP:port",
        ),
        (["--service", "a", "--policies", "POLICIES", "--socket", "s", "--identity", "files:/nowhere"], "svid.pem"),
        (["--service", "a", "--policies", "POLICIES", "--socket", "s", "--decision-log", "/nowhere/x"], "decision log"),
        (["--service", "a", "--policies", "POLICIES", "--socket", "s", "--workers", "17"], "give 1 to 16"),
        (["--service", "a", "--policies", "POLICIES", "--socket", "s", "--audit", "strict"], "where records go"),
        (
            [
                "--service",
                "a",
                "--policies",
                "POLICIES",
                "--socket",
                "s",
                "--check-transport",
                "grpcio",
                "--workers",
                "2",
            ],
            "there is one",
        ),
        (["--service", "a"], "required: --policies, --socket"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(arguments: list[str], words: str, policies: Path) -> None:
    given = [str(policies) if word == "POLICIES" else word for word in arguments]
    ended = subprocess.run(
        [sys.executable, "-m", "authz", "sidecar", *given], capture_output=True, text=True, timeout=30, check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("AUTHZ_")}, cwd=policies,
    )  # fmt: skip
    assert ended.returncode == 2
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
