"""The processes of one sidecar: each may be killed, stopped or restarted, and what the others do goes on."""

from __future__ import annotations

import collections
import json
import os
import signal
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from tests.support.check_request import check_request
from tests.support.conditions import eventually
from tests.support.sidecar_process import PATIENCE_S, SidecarProcess, ask, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SET = """
apiVersion: authz/v1
kind: Mesh
metadata: {name: shop}
spec: {trustDomains: [shop.example]}
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
"""
POLICY = """
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: orders-read-catalog}
spec:
  from: [{services: [orders]}]
  to: [{services: [catalog], operations: [{methods: [GET], paths: ["/items/{id}"]}]}]
"""
BROKEN = POLICY.replace("operations", "operation")
HOURS = '  window: {during: [{days: [mon], from: "08:00", until: "18:00", timezone: UTC}]}'
WITH_HOURS = f"{POLICY}---{POLICY.replace('orders-read-catalog', 'on-mondays')}{HOURS}\n"
ASKED = check_request(direction="outbound")
WORKERS = {"authz-worker-1", "authz-worker-2"}


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "mesh.yaml").write_text(SET)
    (folder / "orders.yaml").write_text(POLICY)
    return folder


@pytest.fixture
def start(tmp_path: Path, policies: Path) -> Iterator[Callable[..., SidecarProcess]]:
    started: list[SidecarProcess] = []

    def starter(*arguments: str, **settings: object) -> SidecarProcess:
        state = str(tmp_path / "state")
        words = ("--workers", "2", "--state", state, *arguments)
        given = {"workers": 2, "state": state, **settings} if settings else None
        sidecar = SidecarProcess(*words, service="orders", policies=policies, folder=tmp_path, settings=given)
        started.append(sidecar)
        sidecar.wait_for("READY=1")
        return sidecar

    yield starter
    for process in started:
        process.__exit__()


def replace(path: Path, text: str) -> None:
    draft = path.with_name(".draft")
    draft.write_text(text)
    draft.replace(path)


def only(sidecar: SidecarProcess, name: str) -> int:
    """Give the process of this name, once there is one."""
    assert eventually(lambda: len(sidecar.forked().get(name, [])) == 1), sidecar.forked()
    return sidecar.forked()[name][0]


def workers(sidecar: SidecarProcess) -> dict[str, int]:
    return {name: only(sidecar, name) for name in sorted(WORKERS)}


def another(sidecar: SidecarProcess, name: str, than: int) -> bool:
    return eventually(lambda: sidecar.forked().get(name, [than]) not in ([than], []))


@contextmanager
def held(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Caller:
    """Asks one worker without pause, on one channel, and keeps what came of it."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self.reasons: collections.Counter[str] = collections.Counter()
        self.errors: list[grpc.RpcError] = []
        self.decision_ids: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        message = ASKED.SerializeToString()
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            check = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
            while not self._stop.is_set():
                try:
                    answer = external_auth_pb2.CheckResponse.FromString(check(message, timeout=PATIENCE_S))
                except grpc.RpcError as error:
                    self.errors.append(error)
                    continue
                self.reasons[reason(answer)] += 1
                self.decision_ids.append(str(answer.dynamic_metadata["decision_id"]))

    def answered(self, more: int) -> bool:
        until = len(self.decision_ids) + more
        return eventually(lambda: len(self.decision_ids) >= until)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def calling(sidecar: SidecarProcess) -> Iterator[tuple[Caller, Caller]]:
    with Caller(str(sidecar.socket)) as first, Caller(f"{sidecar.socket}.2") as second:
        yield first, second


def logged(*paths: Path) -> list[str]:
    return [json.loads(line)["decision_id"] for path in paths for line in path.read_text().splitlines()]


# --- workers


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_followed_by_another_and_the_other_one_answers_on(
    start: Callable[..., SidecarProcess], number: signal.Signals
) -> None:
    sidecar = start()
    before = workers(sidecar)
    with Caller(f"{sidecar.socket}.2") as second:
        assert second.answered(10)
        os.kill(before["authz-worker-1"], number)
        assert another(sidecar, "authz-worker-1", before["authz-worker-1"])
        assert reason(sidecar.check(ASKED)) == "allowed"
        assert second.answered(10)
    assert (second.errors, set(second.reasons)) == ([], {"allowed"})
    assert workers(sidecar)["authz-worker-2"] == before["authz-worker-2"]
    assert sidecar.stop() == 0


def test_everything_that_a_killed_worker_answered_is_in_the_log(
    start: Callable[..., SidecarProcess], tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    sidecar = start("--decision-log", str(log))
    with calling(sidecar) as callers:
        for _ in range(3):
            assert all(caller.answered(100) for caller in callers)
            before = workers(sidecar)
            os.kill(before["authz-worker-1"], signal.SIGKILL)
            assert another(sidecar, "authz-worker-1", before["authz-worker-1"])
        assert all(caller.answered(100) for caller in callers)
    assert sidecar.stop() == 0
    written = logged(log)
    assert len(written) == len(set(written))
    assert set(callers[0].decision_ids) | set(callers[1].decision_ids) <= set(written)
    assert callers[1].errors == []


# --- control


def test_control_may_be_killed_at_any_time_and_every_record_is_written_once(
    start: Callable[..., SidecarProcess], tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    sidecar = start("--decision-log", str(log))
    serving = workers(sidecar)
    with calling(sidecar) as callers:
        for _ in range(5):
            assert all(caller.answered(100) for caller in callers)
            before = only(sidecar, "authz-control")
            os.kill(before, signal.SIGKILL)
            assert another(sidecar, "authz-control", before)
        assert all(caller.answered(100) for caller in callers)
    assert workers(sidecar) == serving
    assert sidecar.stop() == 0
    assert [caller.errors for caller in callers] == [[], []]
    answered = [*callers[0].decision_ids, *callers[1].decision_ids]
    written = logged(log)
    assert collections.Counter(written) == collections.Counter(answered)
    for caller in callers:
        mine = set(caller.decision_ids)
        assert [one for one in written if one in mine] == caller.decision_ids


def test_an_edit_and_a_status_reach_the_control_that_follows_a_killed_one(
    start: Callable[..., SidecarProcess], policies: Path, tmp_path: Path
) -> None:
    sidecar = start()
    before = only(sidecar, "authz-control")
    with held(before):
        replace(policies / "orders.yaml", POLICY.replace("GET", "POST"))
        os.kill(before, signal.SIGKILL)
    sidecar.wait_for("is in force")
    assert reason(sidecar.check(ASKED)) == "no_policy"
    status = json.loads((tmp_path / "state" / "status.json").read_text())
    assert (status["pid"], status["ready"], status["stale"]) == (sidecar.process.pid, True, False)


def test_with_a_strict_audit_what_cannot_be_recorded_is_denied_until_it_can_be_again(
    start: Callable[..., SidecarProcess], tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    sidecar = start(decision_log=str(log), audit="strict", ring_bytes=64 * 1024)
    with sidecar.channel() as channel:
        answers = []
        with held(only(sidecar, "authz-control")):
            while not answers or reason(answers[-1]) == "allowed":
                answers.append(ask(channel, ASKED))
            refused = answers.pop()
            assert (reason(refused), refused.denied_response.status.code) == ("overloaded", 503)
        while reason(answer := ask(channel, ASKED)) != "allowed":
            pass
        answers.append(answer)
    assert sidecar.stop() == 0
    assert logged(log) == [str(one.dynamic_metadata["decision_id"]) for one in answers]


def test_with_a_best_effort_audit_calls_go_on_and_what_is_lost_is_counted(
    start: Callable[..., SidecarProcess], tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    sidecar = start(decision_log=str(log), ring_bytes=64 * 1024)
    with sidecar.channel() as channel, held(only(sidecar, "authz-control")):
        ids = [str(ask(channel, ASKED).dynamic_metadata["decision_id"]) for _ in range(300)]
    assert sidecar.stop() == 0
    written = logged(log)
    assert ids[: len(written)] == written
    assert 0 < len(written) < 300
    assert f"lost where they were answered: {300 - len(written)} so far" in sidecar.errors.read_text()


# --- compilers


@pytest.mark.parametrize("name", ["authz-compiler", "authz-template"])
def test_who_only_compiles_may_be_killed_without_a_worker_noticing(
    start: Callable[..., SidecarProcess], policies: Path, name: str
) -> None:
    sidecar = start()
    serving = workers(sidecar)
    before = only(sidecar, name)
    with calling(sidecar) as callers:
        os.kill(before, signal.SIGKILL)
        assert another(sidecar, name, before)
        assert all(caller.answered(10) for caller in callers)
        assert workers(sidecar) == serving
        # The set in force is not the folder's any more: a worker that dies now is one of the set in force all the same.
        (policies / "orders.yaml").write_text(BROKEN)
        sidecar.wait_for("newer files cannot be used")
    assert [(caller.errors, set(caller.reasons)) for caller in callers] == 2 * [([], {"allowed"})]
    only(sidecar, "authz-compiler")
    os.kill(serving["authz-worker-1"], signal.SIGKILL)
    assert another(sidecar, "authz-worker-1", serving["authz-worker-1"])
    assert reason(sidecar.check(ASKED)) == "allowed"
    replace(policies / "orders.yaml", POLICY.replace("GET", "POST"))
    sidecar.wait_for("is in force")
    assert reason(sidecar.check(ASKED)) == "no_policy"


def test_a_compiler_that_hangs_when_a_worker_is_wanted_is_followed_by_another(
    start: Callable[..., SidecarProcess],
) -> None:
    sidecar = start()
    only(sidecar, "authz-compiler")
    compiler, worker = only(sidecar, "authz-compiler"), only(sidecar, "authz-worker-1")
    os.kill(compiler, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    assert another(sidecar, "authz-worker-1", worker)
    assert reason(sidecar.check(ASKED)) == "allowed"
    assert compiler not in sidecar.forked()["authz-compiler"]


def test_a_broken_set_leaves_the_workers_as_they_are(start: Callable[..., SidecarProcess], policies: Path) -> None:
    sidecar = start()
    serving = workers(sidecar)
    replace(policies / "orders.yaml", BROKEN)
    sidecar.wait_for("newer files cannot be used")
    assert workers(sidecar) == serving
    assert reason(sidecar.check(ASKED)) == "allowed"
    replace(policies / "orders.yaml", POLICY)
    while "cannot be used" in sidecar.wait_for("READY=1"):
        pass
    assert workers(sidecar) == serving, "the files are those in force again: nothing is compiled"


def test_no_call_fails_while_sets_follow_one_another(start: Callable[..., SidecarProcess], policies: Path) -> None:
    sidecar = start()
    seen = workers(sidecar)
    with calling(sidecar) as callers:
        for number in range(5):
            replace(policies / "orders.yaml", POLICY.replace("orders-read-catalog", f"policy-{number}"))
            sidecar.wait_for("is in force")
            assert str(sidecar.check(ASKED).dynamic_metadata["policy"]) == f"policy-{number}"
            assert all(caller.answered(10) for caller in callers)
            now = workers(sidecar)
            assert not set(now.values()) & set(seen.values())
            seen = now
    assert [(caller.errors, set(caller.reasons)) for caller in callers] == 2 * [([], {"allowed"})]


def test_workers_of_a_new_set_do_not_stand_back_as_its_compiler_did(
    start: Callable[..., SidecarProcess], policies: Path
) -> None:
    sidecar = start()
    replace(policies / "orders.yaml", POLICY.replace("GET", "POST"))
    sidecar.wait_for("is in force")
    own = os.getpriority(os.PRIO_PROCESS, sidecar.process.pid)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in workers(sidecar).values()} == {own}


def test_hours_are_worked_out_anew_by_new_workers_without_a_failed_call(
    start: Callable[..., SidecarProcess], policies: Path
) -> None:
    replace(policies / "orders.yaml", WITH_HOURS)
    sidecar = start(renewal_s=1.0)
    before = workers(sidecar)
    with calling(sidecar) as callers:
        for name, pid in before.items():
            assert another(sidecar, name, pid)
        assert all(caller.answered(10) for caller in callers)
    assert [(caller.errors, set(caller.reasons)) for caller in callers] == 2 * [([], {"allowed"})]


# --- the supervisor


@pytest.mark.parametrize("name", ["authz-worker-1", "authz-control", "authz-compiler", "authz-template"])
def test_nobody_outlives_a_killed_supervisor_not_even_stopped_and_the_next_start_takes_its_sockets(
    start: Callable[..., SidecarProcess], name: str
) -> None:
    first = start()
    os.kill(only(first, name), signal.SIGSTOP)
    first.kill()
    second = start()
    assert reason(second.check(ASKED)) == "allowed"
    assert second.stop() == 0


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"


def test_who_stops_the_sidecars_process_stops_its_workers_and_who_continues_it_continues_them(
    start: Callable[..., SidecarProcess],
) -> None:
    sidecar = start()
    serving = workers(sidecar)
    with calling(sidecar) as callers:
        assert all(caller.answered(10) for caller in callers)
        with held(sidecar.process.pid):
            assert eventually(lambda: all(map(is_stopped, serving.values())))
            os.kill(serving["authz-worker-1"], signal.SIGCONT)  # alone it does not go on for longer than a beat
            assert eventually(lambda: all(map(is_stopped, serving.values())))
        assert all(caller.answered(10) for caller in callers)
    assert [(caller.errors, set(caller.reasons)) for caller in callers] == 2 * [([], {"allowed"})]
    assert workers(sidecar) == serving
    os.kill(serving["authz-worker-1"], signal.SIGSTOP)
    assert another(sidecar, "authz-worker-1", serving["authz-worker-1"]), "one that hangs is still followed by another"
    assert sidecar.stop() == 0


def test_a_supervisor_that_is_killed_while_it_is_stopped_leaves_nobody(start: Callable[..., SidecarProcess]) -> None:
    sidecar = start()
    serving = workers(sidecar)
    os.kill(sidecar.process.pid, signal.SIGSTOP)
    assert eventually(lambda: all(map(is_stopped, serving.values())))
    sidecar.kill()


def test_both_sockets_are_made_with_their_mode_and_gone_at_the_end(start: Callable[..., SidecarProcess]) -> None:
    sidecar = start()
    sockets = [sidecar.socket, sidecar.socket.with_name("check.sock.2")]
    assert [path.stat().st_mode & 0o777 for path in sockets] == [0o660, 0o660]
    assert sidecar.stop() == 0
    assert [path.exists() for path in sockets] == [False, False]


def test_sighup_opens_the_log_anew(start: Callable[..., SidecarProcess], tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    sidecar = start("--decision-log", str(log))
    sidecar.check(ASKED)
    assert eventually(lambda: log.read_bytes() != b"")
    log.rename(tmp_path / "rotated")
    sidecar.process.send_signal(signal.SIGHUP)
    assert eventually(log.exists)
    sidecar.check(ASKED)
    assert sidecar.stop() == 0
    assert (len(logged(tmp_path / "rotated")), len(logged(log))) == (1, 1)


def test_the_supervisor_is_small_and_nobody_who_forks_has_threads(start: Callable[..., SidecarProcess]) -> None:
    sidecar = start()
    only(sidecar, "authz-compiler")
    forking = [sidecar.process.pid, *(only(sidecar, name) for name in ("authz-template", "authz-compiler"))]
    assert [len(os.listdir(f"/proc/{pid}/task")) for pid in forking] == [1, 1, 1]  # noqa: PTH208 a count
    maps = Path(f"/proc/{sidecar.process.pid}/maps").read_text()
    assert not [name for name in ("grpc", "pydantic", "yaml", "cryptography", "google") if f"/{name}" in maps]


def test_the_workload_is_known_by_its_newest_svid(start: Callable[..., SidecarProcess], tmp_path: Path) -> None:
    authority = Authority.generate(TrustDomain.parse("shop.example"), datetime.now(UTC), timedelta(hours=1))
    svid = tmp_path / "svid.pem"
    (tmp_path / "bundle.pem").write_bytes(authority.certificate_pem)

    def issue(identity: str) -> None:
        issued = authority.issue_x509_svid(SpiffeId.parse(identity), datetime.now(UTC), timedelta(hours=1))
        replace(svid, issued.certificate_pem.decode())

    issue("spiffe://shop.example/orders")
    sidecar = start("--identity", f"files:{tmp_path}")
    assert reason(sidecar.check(ASKED)) == "allowed"
    issue("spiffe://shop.example/other")
    with sidecar.channel() as channel:
        while reason(ask(channel, ASKED)) == "allowed":  # ends when control has looked at the file
            pass
