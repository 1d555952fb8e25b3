"""What an edit takes away is refused before the set that the edit makes is compiled, whatever the size of the set."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.check_request import check_request
from tests.support.conditions import eventually
from tests.support.large_sets import ALLOWED, MESH, service, write_large_set
from tests.support.local_mesh import LocalMesh
from tests.support.long_streams import Ended, LongStream, every_long_stream
from tests.support.sidecar_process import SidecarProcess, ask, reason
from tests.support.window_close import SET, WATCH, closing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ASKED = check_request(direction="outbound")
#: a bound for what must happen in a set of 10,000 on a machine that does much else, never a measure
PATIENCE_S = 180.0
REVOKED = MESH + "  revoked: ['spiffe://shop.example/orders']\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], SidecarProcess]]:
    started: list[SidecarProcess] = []

    def starter(policies: int) -> SidecarProcess:
        write_large_set(tmp_path / "policies", policies)
        sidecar = SidecarProcess(
            *("--workers", "2", "--state", str(tmp_path / "state")),
            service="orders",
            policies=tmp_path / "policies",
            folder=tmp_path,
        )
        started.append(sidecar)
        assert eventually(lambda: revision(tmp_path) is not None, PATIENCE_S)
        return sidecar

    yield starter
    for process in started:
        process.__exit__()


def revision(folder: Path) -> str | None:
    try:
        found: str | None = json.loads((folder / "state" / "status.json").read_bytes())["revision"]
    except FileNotFoundError:
        return None
    return found


def answered(sidecar: SidecarProcess) -> str:
    with sidecar.channel() as channel:
        return reason(ask(channel, ASKED))


def compilers(sidecar: int) -> set[int]:
    """Give the compilers of a sidecar, which is this process."""
    found = set()
    for pid in map(int, Path(f"/proc/{sidecar}/task/{sidecar}/children").read_text().split()):
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "authz-compiler\n":
                found.add(pid)
    return found


def waits_for_the_reader(compiler: int) -> bool:
    """Whether a compiler has asked: it waits for a word that comes through a pipe."""
    with suppress(OSError):
        return "pipe_read" in Path(f"/proc/{compiler}/wchan").read_text()
    return False


@contextmanager
def uncompiled(edited: Path, *sidecars: int) -> Iterator[None]:
    """Let an edit be read, and keep the compilers that have asked for it from making workers."""
    before = set[int]().union(*map(compilers, sidecars))
    stopped: set[int] = set()

    def asks() -> bool:
        os.utime(edited)  # a folder that is being written is not read: nothing is compiled before it is seen
        for pid in set[int]().union(*map(compilers, sidecars)) - before - stopped:
            if waits_for_the_reader(pid):
                os.kill(pid, signal.SIGSTOP)
                stopped.add(pid)
        return len(stopped) == len(sidecars)

    try:
        assert eventually(asks, PATIENCE_S)
        yield
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("policies", [1_000, 10_000])
@pytest.mark.parametrize(
    ("name", "text", "refused"),
    [
        ("mesh.yaml", REVOKED, "unidentified"),
        ("allowed.yaml", f"{ALLOWED}  window: {{closes: '2026-01-01T00:00:00Z'}}\n", "closed"),
        ("allowed.yaml", "# gone\n", "no_policy"),
    ],
    ids=["revoked", "closed", "removed"],
)
def test_what_an_edit_takes_away_is_refused_before_the_set_is_compiled(
    start: Callable[[int], SidecarProcess], tmp_path: Path, policies: int, name: str, text: str, refused: str
) -> None:
    sidecar = start(policies)
    before = revision(tmp_path)
    assert answered(sidecar) == "allowed"
    edited = tmp_path / "policies" / name
    draft = tmp_path / "draft"
    draft.write_text(text)
    draft.replace(edited)
    with uncompiled(edited, sidecar.process.pid):
        assert eventually(lambda: answered(sidecar) == refused, PATIENCE_S)
        assert eventually(lambda: revision(tmp_path) == before, PATIENCE_S)
    assert eventually(lambda: revision(tmp_path) != before, PATIENCE_S)
    assert answered(sidecar) == refused


@pytest.mark.envoy
@pytest.mark.parametrize("kind", ["WebSocket, idle, HTTP/1.1", "gRPC bidirectional, idle"])
def test_a_held_call_is_cut_before_the_set_is_compiled(tmp_path: Path, kind: str) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "set.yaml").write_text(SET)
    timed = policies / "timed.yaml"
    timed.write_text(closing(datetime.now(UTC) + timedelta(hours=1)))
    with LocalMesh(policies=policies, state=tmp_path / "state").running() as mesh:
        run = every_long_stream(mesh.service("orders")["outbound"], "catalog", WATCH)[kind]
        stream = LongStream(kind, run)
        assert stream.begun.wait(PATIENCE_S)
        sidecars = [mesh.service(name)["pids"]["sidecar"] for name in ("orders", "catalog")]
        timed.write_text("# gone\n")
        with uncompiled(timed, *sidecars):
            end = stream.ended.get(timeout=PATIENCE_S)
        assert isinstance(end, Ended), end
        log = Path(mesh.service("catalog")["decision_log"])
        assert eventually(lambda: [one["reason"] for one in records(log) if one["cut"]] == ["no_policy"], PATIENCE_S)


def records(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def test_an_edit_does_not_wait_for_the_set_of_the_one_before(
    start: Callable[[int], SidecarProcess], tmp_path: Path
) -> None:
    sidecar = start(10)
    policies = tmp_path / "policies"
    (policies / "services.yaml").write_text((policies / "services.yaml").read_text() + "---\n" + service("more"))
    with uncompiled(policies / "services.yaml", sidecar.process.pid):
        (policies / "mesh.yaml").write_text(REVOKED)
        assert eventually(lambda: answered(sidecar) == "unidentified", PATIENCE_S)


def test_an_edit_that_is_taken_back_gives_back_what_it_took_away(
    start: Callable[[int], SidecarProcess], tmp_path: Path
) -> None:
    sidecar = start(10)
    mesh = tmp_path / "policies" / "mesh.yaml"
    before = revision(tmp_path)
    mesh.write_text(REVOKED)
    with uncompiled(mesh, sidecar.process.pid):
        assert eventually(lambda: answered(sidecar) == "unidentified")
        mesh.write_text(MESH)
        assert eventually(lambda: answered(sidecar) == "allowed", PATIENCE_S)
    assert eventually(lambda: revision(tmp_path) == before, PATIENCE_S)


def test_a_set_with_faults_takes_nothing_away(start: Callable[[int], SidecarProcess], tmp_path: Path) -> None:
    sidecar = start(10)
    (tmp_path / "policies" / "mesh.yaml").write_text(REVOKED)
    (tmp_path / "policies" / "broken.yaml").write_text("kind: Mesh\n")
    assert eventually(lambda: json.loads((tmp_path / "state" / "status.json").read_bytes())["stale"])
    assert answered(sidecar) == "allowed"


def test_a_reader_that_is_killed_costs_nothing_but_time(start: Callable[[int], SidecarProcess], tmp_path: Path) -> None:
    sidecar = start(10)
    template = sidecar.forked()["authz-template"][0]

    def readers() -> list[int]:
        return list(map(int, Path(f"/proc/{template}/task/{template}/children").read_text().split()))

    assert eventually(lambda: len(readers()) == 1)
    os.kill(readers()[0], signal.SIGKILL)
    for name, text, expected in (
        ("mesh.yaml", REVOKED, "unidentified"),
        ("mesh.yaml", MESH, "allowed"),
    ):
        (tmp_path / "policies" / name).write_text(text)
        assert eventually(lambda expected=expected: answered(sidecar) == expected)
    assert len(readers()) == 1


def test_what_was_taken_away_for_an_edit_is_given_back_with_it_though_its_reader_was_killed(
    start: Callable[[int], SidecarProcess], tmp_path: Path
) -> None:
    sidecar = start(10)
    mesh, before = tmp_path / "policies" / "mesh.yaml", revision(tmp_path)
    mesh.write_text(REVOKED)
    assert eventually(lambda: revision(tmp_path) != before, PATIENCE_S)
    assert answered(sidecar) == "unidentified"
    template = sidecar.forked()["authz-template"][0]
    (reader,) = map(int, Path(f"/proc/{template}/task/{template}/children").read_text().split())
    os.kill(reader, signal.SIGKILL)
    mesh.write_text(MESH)
    assert eventually(lambda: revision(tmp_path) == before, PATIENCE_S)
    assert eventually(lambda: answered(sidecar) == "allowed")
