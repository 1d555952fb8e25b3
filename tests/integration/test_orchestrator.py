"""Whoever starts the workloads says which process is whose: real processes, a real issuer."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from authz.issuer.errors import IssuerError
from authz.issuer.orchestrator import MAX_MESSAGE_BYTES, Orchestrator
from authz.workload_api import messages
from tests.support.issuer_process import MESH, PATIENCE_S, Issuer, service, workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.issuer_process import Workload

ORDERS = [["spiffe://shop.example/ns/shop/sa/orders", "orders"]]
CATALOG = [["spiffe://shop.example/ns/shop/sa/catalog", "catalog"]]
#: a shell between the orchestrator and the workload
THROUGH_A_SHELL = ("/bin/sh", "-c", '"$0" "$@"; true', sys.executable)


@pytest.fixture
def place() -> Iterator[str]:
    path = f"/tmp/or-{os.urandom(4).hex()}"  # noqa: S108 short
    yield path
    assert not Path(path).exists()


@pytest.fixture
def issuer(place: str) -> Iterator[Issuer]:
    with Issuer(MESH, service("orders"), service("catalog"), arguments=[f"--orchestrator-socket={place}"]) as running:
        yield running


def register(orchestrator: Orchestrator, name: str, process: Workload) -> None:
    pidfd = os.pidfd_open(process.process.pid)
    try:
        orchestrator.register(name, pidfd)
    finally:
        os.close(pidfd)


def test_workloads_of_one_user_and_one_program_get_the_identities_they_were_started_for(
    issuer: Issuer, place: str
) -> None:
    orchestrator = Orchestrator(place)
    assert Path(place).stat().st_mode & 0o777 == 0o600
    with (
        workload(issuer.socket) as orders,
        workload(issuer.socket, command=THROUGH_A_SHELL) as catalog,
        workload(issuer.socket) as stranger,
    ):
        register(orchestrator, "orders", orders)
        register(orchestrator, "catalog", catalog)
        assert orders.ask() == ORDERS
        assert catalog.ask() == CATALOG
        assert stranger.ask() == "PERMISSION_DENIED"
        assert issuer.refused()[-1]["pid"] == stranger.process.pid
    orchestrator.close()


def test_everything_that_was_registered_ends_with_the_orchestrators_connection(issuer: Issuer, place: str) -> None:
    orchestrator = Orchestrator(place)
    with workload(issuer.socket) as orders:
        register(orchestrator, "orders", orders)
        assert orders.ask() == ORDERS
        orchestrator.close()
        Orchestrator(place).close()  # is served when the one before has gone
        assert orders.ask() == "PERMISSION_DENIED"


def test_a_stream_ends_when_its_registration_does(issuer: Issuer, place: str) -> None:
    orchestrator = Orchestrator(place)
    pidfd = os.pidfd_open(os.getpid())
    orchestrator.register("orders", pidfd)  # ourselves: a workload that outlives its registration
    os.close(pidfd)
    with grpc.insecure_channel(f"unix:{issuer.socket}") as channel:
        stream = channel.unary_stream(
            messages.FETCH_X509_SVID.path,
            request_serializer=messages.X509SVIDRequest.SerializeToString,
            response_deserializer=messages.X509SVIDResponse.FromString,
        )(messages.X509SVIDRequest(), metadata=(messages.SECURITY_HEADER,), timeout=PATIENCE_S)
        assert [[each.spiffe_id, each.hint] for each in next(stream).svids] == ORDERS
        orchestrator.close()
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_there_is_one_orchestrator_at_a_time(issuer: Issuer, place: str) -> None:
    orchestrator = Orchestrator(place)
    with pytest.raises(IssuerError, match="there is one already"):
        Orchestrator(place)
    with workload(issuer.socket) as orders:
        register(orchestrator, "orders", orders)
        assert orders.ask() == ORDERS
    orchestrator.close()


def test_a_workload_never_becomes_the_orchestrator_even_when_that_has_gone(issuer: Issuer, place: str) -> None:
    asks = (
        "import os, sys\nfrom authz.issuer.orchestrator import Orchestrator\nsys.stdin.readline()\n"
        "try: Orchestrator(sys.argv[1]).register('catalog', os.pidfd_open(os.getpid()))\n"
        "except Exception as error: print(error)"
    )
    command = [*THROUGH_A_SHELL, "-c", asks, place]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as rogue:
        orchestrator = Orchestrator(place)
        pidfd = os.pidfd_open(rogue.pid)
        orchestrator.register("orders", pidfd)
        os.close(pidfd)
        orchestrator.close()
        said, _ = rogue.communicate("\n")
        assert "was started as a workload of `orders`" in said
    assert "was started as a workload of `orders`" in issuer.logged()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_where_it_has_to_be_the_parent_nobody_else_becomes_the_orchestrator_even_after_a_restart(place: str) -> None:
    words = [f"--orchestrator-socket={place}", "--orchestrator-is-parent"]
    with Issuer(MESH, service("orders"), arguments=words):
        Orchestrator(place).close()
        code = "import sys; from authz.issuer.orchestrator import Orchestrator; Orchestrator(sys.argv[1])"
        another = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=False)
        assert another.returncode != 0
        assert "has not started this issuer" in another.stderr


def test_another_user_is_no_orchestrator(issuer: Issuer, place: str) -> None:
    Path(place).chmod(0o666)  # the mode alone would do
    asks = "import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
    asks += "os.setresuid(65534, 65534, 65534); s.connect(sys.argv[1]); print(s.recv(1000).decode())"
    said = subprocess.run([sys.executable, "-c", asks, place], check=True, capture_output=True, text=True).stdout
    assert json.loads(said) == {"error": "uid 65534 may not"}
    assert "uid 65534 may not" in issuer.logged()


@pytest.mark.parametrize(
    ("message", "descriptors", "why"),
    [
        (b'{"service": "orders"}', 0, "one pidfd belongs to a message, not 0"),
        (b'{"service": "orders"}', 2, "one pidfd belongs to a message, not 2"),
        (b'{"service": "nobody"}', 1, "there is no Service `nobody`"),
        (b'{"service": 1}', 1, "a message is"),
        (b'{"service": "orders", "uid": 0}', 1, "a message is"),
        (b"[]", 1, "a message is"),
        (b"\xff", 1, "a message is a JSON object"),
        (b"[" * 1000, 1, "a message is a JSON object"),
        (b" " * (MAX_MESSAGE_BYTES + 1), 1, "a message has at most"),
    ],
)
def test_a_message_that_is_none_registers_nothing_and_the_connection_stays(
    issuer: Issuer, place: str, message: bytes, descriptors: int, why: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(place)
        assert json.loads(connection.recv(4096)) == {"ok": True}
        pidfds = [os.pidfd_open(os.getpid()) for _ in range(descriptors)]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", pidfds))] if pidfds else []
        connection.sendmsg([message], rights)
        assert why in json.loads(connection.recv(4096))["error"]
        connection.sendmsg(
            [b'{"service": "orders"}'],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [os.pidfd_open(os.getpid())]))],
        )
        assert json.loads(connection.recv(4096)) == {"ok": True}
    assert issuer.process is not None
    assert issuer.process.poll() is None


def test_what_is_no_pidfd_of_a_running_process_registers_nothing(issuer: Issuer, place: str) -> None:
    orchestrator = Orchestrator(place)
    with Path(os.devnull).open("rb") as file, pytest.raises(IssuerError, match="no pidfd of a process that runs"):
        orchestrator.register("orders", file.fileno())
    with subprocess.Popen(["true"]) as ended:
        pidfd = os.pidfd_open(ended.pid)
    with pytest.raises(IssuerError, match="no pidfd of a process that runs"):
        orchestrator.register("orders", pidfd)
    os.close(pidfd)
    mine = os.pidfd_open(os.getpid())
    orchestrator.register("orders", mine)
    with pytest.raises(IssuerError, match="registered already, as `orders`"):
        orchestrator.register("catalog", mine)
    os.close(mine)
    orchestrator.close()
    assert issuer.logged()


def test_a_service_that_is_removed_is_no_longer_that_of_its_processes(issuer: Issuer, place: str) -> None:
    orchestrator = Orchestrator(place)
    with workload(issuer.socket) as orders, workload(issuer.socket) as catalog:
        register(orchestrator, "orders", orders)
        register(orchestrator, "catalog", catalog)
        assert orders.ask() == ORDERS
        issuer.write(MESH, service("catalog"))
        while "1 Services" not in issuer.logged():
            assert issuer.process is not None
            assert issuer.process.poll() is None
        assert orders.ask() == "PERMISSION_DENIED"
        assert catalog.ask() == CATALOG
    orchestrator.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_an_issuer_that_is_not_root_serves_by_user_and_by_its_own_users_orchestrator(place: str) -> None:
    # Another user from when everything has been read: its files may be root's alone.
    become = (
        "import encodings.ascii, encodings.idna, os, sys, grpc.aio, watchfiles, authz.issuer.run, authz.cli.identity\n"
        "from authz.cli.main import main\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    issuer = Issuer(
        MESH,
        service("orders", attest=f"[{{unix: {{uid: {os.getuid()}}}}}]"),
        service("catalog"),
        arguments=[f"--orchestrator-socket={place}"],
    )
    issuer.command[1:3] = ["-c", become]
    issuer.policies.chmod(0o755)
    for path in (issuer.folder, issuer.policies, issuer.policies / "set.yaml"):
        os.chown(path, 65534, 65534)
    with issuer, workload(issuer.socket) as root, workload(issuer.socket, user=65534) as unprivileged:
        assert root.ask() == ORDERS
        assert unprivileged.ask() == "PERMISSION_DENIED"
        orchestrator = Orchestrator(place)
        register(orchestrator, "catalog", unprivileged)
        assert unprivileged.ask() == CATALOG
        orchestrator.close()
        Orchestrator(place).close()  # is taken when the one before has gone
        assert unprivileged.ask() == "PERMISSION_DENIED"
