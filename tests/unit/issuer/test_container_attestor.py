"""The container attestor before an engine that answers in the API's form, and in every form that it must not trust."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from authz.identity.spiffe_id import SpiffeId
from authz.issuer.attestor import container_engine
from authz.issuer.attestor.container import MAX_REPLICAS, ContainerAttestor
from authz.issuer.attestor.container_engine import ContainerEngine
from authz.issuer.attestor.container_evidence import MAX_DOCUMENT_BYTES
from authz.issuer.errors import AttestationError
from authz.issuer.registration import Registration
from authz.policy.evidence_fields import Attestation, Container, UnixProcess
from authz.workload_api.peer import Peer, Pidfd
from tests.unit.issuer.test_container_evidence import DIGEST, ID, INSPECTED, OTHER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

PID, FIRST_PID = 4242, 6243
CGROUP = f"0::/system.slice/docker-{ID}.scope\n"


def orders(**container: Any) -> Registration:
    return registration("orders", **container)


def registration(service: str, **container: Any) -> Registration:
    identity = SpiffeId.parse(f"spiffe://shop.example/{service}")
    return Registration(
        service=service, identities=(identity,), attest=(Attestation(container=Container(**container)),)
    )


BY_LABEL = orders(labels={"app": "o"})
NOBODY: frozenset[str] = frozenset()


class Engine:
    """An engine's API on a unix socket; `answers` are given instead of what it knows, in turn."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "engine.sock")
        self.containers: dict[str, dict[str, Any]] = {ID: INSPECTED}
        self.digests: list[str] = []
        self.asked: list[str] = []
        self.before: Callable[[int], Awaitable[web.StreamResponse | None] | None] = lambda _: None

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[ContainerEngine]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, self.socket).start()
        try:
            yield ContainerEngine(self.socket)
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        instead = self.before(len(self.asked))
        if instead is not None:
            answer = await instead
            if answer is not None:
                return answer
        match request.path.split("/")[1:]:
            case ["containers", "json"]:
                filters = json.loads(request.query["filters"])
                assert filters["status"] == ["running"]
                wanted = set(filters["label"])
                return web.json_response(
                    [
                        {"Id": id_}
                        for id_, one in self.containers.items()
                        if wanted <= {f"{key}={value}" for key, value in one["Config"]["Labels"].items()}
                    ]
                )
            case ["containers", id_, "json"] if id_ in self.containers:
                return web.json_response(self.containers[id_])
            case ["images", _, "json"]:
                return web.json_response({"RepoDigests": self.digests})
            case _:
                return web.json_response({"message": "no such thing"}, status=404)


class Machine:
    """A /proc that says what a test wants, and a peer that lives."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.engine = Engine(folder)
        self.set_cgroup(PID, CGROUP)
        self.set_cgroup(FIRST_PID, CGROUP)

    def set_cgroup(self, pid: int, text: str) -> None:
        (self.proc / str(pid)).mkdir(parents=True, exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_text(text)

    def attested(self, *candidates: Registration, pid: int = PID, pidfd: Pidfd | None = None) -> frozenset[str]:
        peer = Peer(
            socket="/run/workload.sock",
            pid=pid,
            uid=0,
            gid=0,
            pidfd=pidfd or Pidfd(os.pidfd_open(os.getpid())),
        )

        async def ask() -> frozenset[str]:
            async with self.engine.serving() as engine:
                return await ContainerAttestor(engine, proc=str(self.proc)).services(peer, candidates)

        return asyncio.run(ask())


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path is to be short
        yield Machine(Path(folder))


class TestAProcessWhosePidIsSeen:
    def test_is_the_workload_of_every_service_whose_entry_holds(self, machine: Machine) -> None:
        others = (registration("same", image="localhost/shop/orders:1"), registration("other", labels={"app": "x"}))
        assert machine.attested(BY_LABEL, *others) == {"orders", "same"}

    def test_is_nobody_outside_of_a_container(self, machine: Machine) -> None:
        machine.set_cgroup(PID, "0::/user.slice/session-3.scope\n")
        assert machine.attested(BY_LABEL) == NOBODY
        assert machine.engine.asked == []

    def test_costs_no_question_where_no_service_asks_for_a_container(self, machine: Machine) -> None:
        unix = Registration(service="a", identities=(), attest=(Attestation(unix=UnixProcess(uid=0)),))
        assert machine.attested(unix) == NOBODY
        assert machine.engine.asked == []

    def test_may_be_any_process_of_the_container(self, machine: Machine) -> None:
        machine.set_cgroup(PID, CGROUP.replace(".scope\n", ".scope/jobs/7\n"))
        assert machine.attested(BY_LABEL) == {"orders"}

    def test_is_refused_where_its_cgroup_only_has_the_containers_name(self, machine: Machine) -> None:
        # A user may name a cgroup below his own as he likes: systemd delegates him that part of the tree.
        machine.set_cgroup(PID, f"0::/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope\n")
        with pytest.raises(AttestationError, match="not where the container"):
            machine.attested(BY_LABEL)

    def test_is_refused_where_the_containers_first_process_has_gone(self, machine: Machine) -> None:
        (machine.proc / str(FIRST_PID) / "cgroup").unlink()
        with pytest.raises(AttestationError, match="ended"):
            machine.attested(BY_LABEL)

    def test_is_refused_where_the_engine_has_no_such_container(self, machine: Machine) -> None:
        machine.engine.containers = {}
        with pytest.raises(AttestationError, match="no container"):
            machine.attested(BY_LABEL)

    def test_is_refused_where_the_container_does_not_run(self, machine: Machine) -> None:
        machine.engine.containers = {ID: {**INSPECTED, "State": {**INSPECTED["State"], "Running": False}}}
        with pytest.raises(AttestationError, match="does not run"):
            machine.attested(BY_LABEL)

    def test_is_known_by_a_digest_of_its_image(self, machine: Machine) -> None:
        machine.engine.digests = [f"localhost/shop/orders@{DIGEST}"]
        assert machine.attested(orders(image=f"localhost/shop/orders@{DIGEST}")) == {"orders"}
        machine.engine.digests = []
        assert machine.attested(orders(image=f"localhost/shop/orders@{DIGEST}")) == NOBODY


class TestWhatIsReplacedWhileItIsLookedAtIsRefused:
    def test_the_container_by_another_run_of_it(self, machine: Machine) -> None:
        def restarts(question: int) -> None:
            if question == 2:
                machine.engine.containers = {ID: {**INSPECTED, "State": {**INSPECTED["State"], "StartedAt": "later"}}}

        machine.engine.before = restarts
        with pytest.raises(AttestationError, match="replaced"):
            machine.attested(BY_LABEL)

    def test_the_process_by_one_in_another_container(self, machine: Machine) -> None:
        machine.engine.before = lambda _: machine.set_cgroup(PID, f"0::/system.slice/docker-{OTHER}.scope\n")
        with pytest.raises(AttestationError, match="replaced"):
            machine.attested(BY_LABEL)

    def test_the_process_by_nobody(self, machine: Machine) -> None:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        pidfd = Pidfd(os.pidfd_open(child.pid))
        machine.engine.before = lambda _: child.kill() or (child.wait() and None)
        with child, pytest.raises(AttestationError, match="replaced"):
            machine.attested(BY_LABEL, pidfd=pidfd)

    def test_the_containers_of_a_description(self, machine: Machine) -> None:
        def replaces(question: int) -> None:
            if question == 2:
                machine.engine.containers = {ID: INSPECTED, OTHER: {**INSPECTED, "Id": OTHER}}

        machine.engine.before = replaces
        with pytest.raises(AttestationError, match="replaced"):
            machine.attested(BY_LABEL, pid=0)


class TestAProcessInAnotherPidNamespace:
    def test_is_known_by_its_own_socket_and_what_runs(self, machine: Machine) -> None:
        assert machine.attested(orders(image="localhost/shop/orders:1", labels={"app": "o"}), pid=0) == {"orders"}

    def test_is_nobody_where_one_with_its_labels_is_something_else(self, machine: Machine) -> None:
        config = {**INSPECTED["Config"], "Image": "localhost/evil:1"}
        machine.engine.containers[OTHER] = {**INSPECTED, "Id": OTHER, "Config": config}
        entry = orders(image="localhost/shop/orders:1", labels={"app": "o"})
        assert machine.attested(entry, pid=0) == NOBODY

    def test_is_nobody_where_nothing_of_that_description_runs(self, machine: Machine) -> None:
        assert machine.attested(orders(labels={"app": "x"}), pid=0) == NOBODY

    def test_is_refused_on_a_socket_of_several_services(self, machine: Machine) -> None:
        with pytest.raises(AttestationError, match="no workload's own"):
            machine.attested(BY_LABEL, registration("payments", labels={"app": "o"}), pid=0)

    def test_is_refused_where_the_entry_has_nothing_to_look_it_up_by(self, machine: Machine) -> None:
        with pytest.raises(AttestationError, match="labels"):
            machine.attested(orders(image="localhost/shop/orders:1"), pid=0)

    def test_is_refused_where_more_run_than_anybody_looks_at(self, machine: Machine) -> None:
        machine.engine.containers = {f"{number:064x}": INSPECTED for number in range(MAX_REPLICAS + 1)}
        with pytest.raises(AttestationError, match=str(MAX_REPLICAS)):
            machine.attested(BY_LABEL, pid=0)


class TestAnEngineThat:
    def test_is_not_there_attests_nobody(self, machine: Machine) -> None:
        engine = ContainerEngine("/nowhere/engine.sock")
        peer = Peer(socket="", pid=PID, uid=0, gid=0, pidfd=Pidfd(os.pidfd_open(os.getpid())))
        with pytest.raises(AttestationError, match="cannot be asked"):
            asyncio.run(ContainerAttestor(engine, proc=str(machine.proc)).services(peer, [BY_LABEL]))

    @pytest.mark.parametrize("pid", [PID, 0])
    def test_does_not_answer_attests_nobody(self, machine: Machine, pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
        async def never(_: int = 0) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(container_engine, "PATIENCE_S", 0.2)
        machine.engine.before = never
        with pytest.raises(AttestationError, match="did not answer"):
            machine.attested(BY_LABEL, pid=pid)

    @pytest.mark.parametrize("pid", [PID, 0])
    @pytest.mark.parametrize(
        "answer",
        [
            {"status": 500, "text": "oops"},
            {"status": 307, "headers": {"location": "/elsewhere"}},
            {"body": b"\x00\xff" * 100},
            {"text": "[" * 100_000},
            {"text": "null"},
            {"text": json.dumps({**INSPECTED, "Id": OTHER})},
            {"body": b" " * (MAX_DOCUMENT_BYTES + 1)},
            {"body": gzip.compress(b" " * 100_000_000), "headers": {"content-encoding": "gzip"}},
        ],
        ids=["500", "redirect", "bytes", "nested", "null", "another", "giant", "bomb"],
    )
    def test_answers_anything_else_attests_nobody(self, machine: Machine, pid: int, answer: dict[str, Any]) -> None:
        async def instead(_: int = 0) -> web.StreamResponse:
            return web.Response(**answer)

        machine.engine.before = instead
        with pytest.raises(AttestationError):
            machine.attested(BY_LABEL, pid=pid)
