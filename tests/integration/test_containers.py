"""Real containers of a real podman, known by what kernel and engine say of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from authz.identity.spiffe_id import SpiffeId
from authz.issuer.attestor.container import ContainerAttestor
from authz.issuer.attestor.container_engine import ContainerEngine
from authz.issuer.errors import AttestationError
from authz.issuer.registration import Registration
from authz.policy.evidence_fields import Attestation, Container
from authz.workload_api.peer import Peer, peer_of
from tests.support import podman
from tests.support.issuer_process import MESH, ROOT, WORKLOAD as ISSUERS_WORKLOAD, Issuer, service
from tests.support.podman import Podman

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.peers

#: connects, and stays until it is told to end
WORKLOAD = """
import socket
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("/sock/workload")
    connection.recv(1)
"""
#: the machine's own, which the containers have mounted
PYTHON = ("/usr/bin/python3", "-I", "-c")
IMAGE = "localhost/shop/orders:1"
LABELS = {"com.docker.compose.project": "shop", "com.docker.compose.service": "orders"}


@pytest.fixture(scope="module")
def engine() -> Iterator[Podman]:
    if (why := podman.missing()) is not None:
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="authz-p-"))
    try:
        with Podman(folder).running() as running:
            running.import_image("localhost/shop/orders", "1", different="orders")
            running.import_image("localhost/evil", "1", different="evil")
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shared() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="authz-s-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def listening(shared: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(podman.PATIENCE_S)
        listener.bind(str(shared / "workload"))
        listener.listen()
        yield listener


@contextlib.contextmanager
def peer(engine: Podman, shared: Path, *, image: str = IMAGE, labels: dict[str, str] = LABELS) -> Iterator[Peer]:
    """Start a container and give who has connected from it."""
    with listening(shared) as listener:
        container_id = engine.start(image, *PYTHON, WORKLOAD, labels=labels, shared=shared)
        try:
            connection, _ = listener.accept()
            with connection:
                yield peer_of(connection, path=str(shared / "workload"), not_before_ticks=2**62)
        finally:
            engine.remove(container_id)


def attested(engine: Podman, who: Peer, **container: Any) -> frozenset[str]:
    entry = Attestation(container=Container(**container))
    orders = Registration(
        service="orders", identities=(SpiffeId.parse("spiffe://shop.example/orders"),), attest=(entry,)
    )
    attestor = ContainerAttestor(ContainerEngine(engine.socket))
    return asyncio.run(attestor.services(who, [orders]))


def image_id(engine: Podman) -> str:
    return "sha256:" + str(engine.ask("GET", f"/images/{IMAGE}/json")["Id"]).removeprefix("sha256:")


def test_a_process_in_a_container_is_its_services_workload(engine: Podman, shared: Path) -> None:
    with peer(engine, shared) as who:
        assert attested(engine, who, image=IMAGE, labels=LABELS) == {"orders"}
        assert attested(engine, who, image=image_id(engine)) == {"orders"}


@pytest.mark.parametrize(
    "entry",
    [
        {"image": "localhost/evil:1"},
        {"image": IMAGE, "labels": {**LABELS, "com.docker.compose.service": "payments"}},
        {"image": "sha256:" + "0" * 64, "labels": LABELS},
    ],
)
def test_one_of_another_image_or_label_is_nobody(engine: Podman, shared: Path, entry: dict[str, Any]) -> None:
    with peer(engine, shared) as who:
        assert attested(engine, who, **entry) == frozenset()


def test_a_container_of_another_image_with_the_right_labels_is_nobody(engine: Podman, shared: Path) -> None:
    with peer(engine, shared, image="localhost/evil:1") as who:
        assert attested(engine, who, image=IMAGE, labels=LABELS) == frozenset()


def test_a_process_beside_the_containers_is_nobody(engine: Podman, shared: Path) -> None:
    with listening(shared) as listener:
        program = WORKLOAD.replace("/sock/workload", str(shared / "workload"))
        with subprocess.Popen([sys.executable, "-c", program]) as beside:
            connection, _ = listener.accept()
            with connection:
                who = peer_of(connection, path="", not_before_ticks=2**62)
                assert who.pid == beside.pid
                assert attested(engine, who, labels=LABELS) == frozenset()


def test_a_cgroup_that_only_has_a_containers_name_does_not_get_through(engine: Podman, shared: Path) -> None:
    tree = next((path for path in map(Path, ("/sys/fs/cgroup/pids", "/sys/fs/cgroup")) if _takes(path)), None)
    if tree is None:
        pytest.skip("no cgroup can be made here")
    running = engine.start(IMAGE, *PYTHON, "import time; time.sleep(600)", labels=LABELS, shared=shared)
    forged = tree / f"authz-test-{shared.name}" / f"libpod-{running}"
    forged.mkdir(parents=True)
    try:
        program = WORKLOAD.replace("/sock/workload", str(shared / "workload"))
        join = f"open({str(forged / 'cgroup.procs')!r}, 'w').write('0')\n"
        with listening(shared) as listener, subprocess.Popen([sys.executable, "-c", join + program]):
            connection, _ = listener.accept()
            with connection:
                who = peer_of(connection, path="", not_before_ticks=2**62)
                with pytest.raises(AttestationError, match="not where the container"):
                    attested(engine, who, labels=LABELS)
    finally:
        forged.rmdir()
        forged.parent.rmdir()
        engine.remove(running)


def _takes(tree: Path) -> bool:
    made = tree / "authz-test"
    try:
        made.mkdir()
        made.rmdir()
    except OSError:
        return False
    return (tree / "cgroup.procs").exists()


def test_one_whose_container_has_ended_is_nobody(engine: Podman, shared: Path) -> None:
    with listening(shared) as listener:
        container_id = engine.start(IMAGE, *PYTHON, WORKLOAD, labels=LABELS, shared=shared)
        connection, _ = listener.accept()
        with connection:
            who = peer_of(connection, path="", not_before_ticks=2**62)
            engine.remove(container_id)
            with pytest.raises(AttestationError):
                attested(engine, who, labels=LABELS)


def test_by_a_socket_of_its_own_a_workload_is_known_by_what_runs(engine: Podman, shared: Path) -> None:
    unseen = Peer(socket=str(shared / "workload"), pid=0, uid=0, gid=0, pidfd=None)
    with peer(engine, shared):
        assert attested(engine, unseen, image=IMAGE, labels=LABELS) == {"orders"}
        evil = engine.start("localhost/evil:1", *PYTHON, "import time; time.sleep(600)", labels=LABELS, shared=shared)
        assert attested(engine, unseen, image=IMAGE, labels=LABELS) == frozenset()
        engine.remove(evil)
        assert attested(engine, unseen, image=IMAGE, labels=LABELS) == {"orders"}
    assert attested(engine, unseen, image=IMAGE, labels=LABELS) == frozenset()


# --- the issuer with it


def asked(
    engine: Podman,
    issuer: Issuer,
    *,
    socket_: str = "w.sock",
    image: str = IMAGE,
    labels: dict[str, str] = LABELS,
) -> Any:
    """Ask the issuer for an SVID from within a container; gives the SPIFFE IDs, or the status code's name."""
    folder = issuer.folder / f"asks-{secrets.token_hex(4)}"
    folder.mkdir()
    (folder / "ask.py").write_text(ISSUERS_WORKLOAD)
    (folder / "w.sock").hardlink_to(issuer.folder / socket_)
    python = f"{sys.executable} /sock/ask.py /sock/w.sock"
    container_id = engine.start(
        image,
        *("/bin/sh", "-c", f"cd {ROOT} && echo | PYTHONPATH={ROOT} {python} > /sock/answer 2> /sock/errors"),
        labels=labels,
        shared=folder,
        also=(str(ROOT), sys.base_prefix),
    )
    try:
        engine.ask("POST", f"/containers/{container_id}/wait")
        answer = (folder / "answer").read_text()
        assert answer, (folder / "errors").read_text()
        return json.loads(answer)
    finally:
        engine.remove(container_id)


SVID = [["spiffe://shop.example/ns/shop/sa/orders", "orders"]]
ATTEST = "[{container: {image: '%s', labels: {com.docker.compose.project: shop, com.docker.compose.service: orders}}}]"


def test_the_issuer_gives_an_svid_to_the_right_container_and_a_record_to_the_wrong_ones(engine: Podman) -> None:
    documents = (MESH, service("orders", attest=ATTEST % IMAGE))
    with Issuer(*documents, arguments=("--container-socket", engine.socket)) as issuer:
        assert asked(engine, issuer) == SVID
        assert issuer.refused() == []
        assert asked(engine, issuer, image="localhost/evil:1") == "PERMISSION_DENIED"
        wrong = {**LABELS, "com.docker.compose.service": "payments"}
        assert asked(engine, issuer, labels=wrong) == "PERMISSION_DENIED"
        assert len(issuer.refused()) == 2


def test_without_its_engine_the_issuer_gives_nothing(engine: Podman) -> None:
    documents = (MESH, service("orders", attest=ATTEST % IMAGE))
    with Issuer(*documents, arguments=("--container-socket", "/nowhere/engine.sock")) as issuer:
        assert asked(engine, issuer) == "PERMISSION_DENIED"
        (record,) = issuer.refused()
        assert "the container engine cannot be asked" in json.dumps(record)


def test_an_issuer_in_a_pid_namespace_of_its_own_knows_a_workload_by_its_socket_and_what_runs(engine: Podman) -> None:
    documents = (MESH, service("orders", attest=ATTEST % IMAGE))
    issuer = Issuer(*documents, arguments=("--container-socket", engine.socket))
    issuer.command += ["--workload-socket", f"orders={issuer.folder / 'orders.sock'}"]
    # As in a container: whoever connects from outside of it has no pid that it could see.
    issuer.command = ["unshare", "--pid", "--fork", "--kill-child", *issuer.command]
    with issuer:
        try:
            assert asked(engine, issuer, socket_="orders.sock") == SVID
            assert asked(engine, issuer) == "PERMISSION_DENIED"
            assert asked(engine, issuer, socket_="orders.sock", image="localhost/evil:1") == "PERMISSION_DENIED"
            (common, evil) = issuer.refused()
            assert "another pid namespace" in json.dumps(common)
            assert evil
        finally:
            issuer.kill()  # unshare hands no signal on
