"""The authz servers of a measurement, each a process of its own, kept to one core from its start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.sidecar.control.status_file import FILE_NAME
from tests.bench.check_path import opa
from tests.bench.check_path.envoys import ACCESS_LOG_SOCKET, HOLD_SOCKET
from tests.bench.check_path.processes import answering, family
from tests.bench.check_path.question import A_PAIR, WORKLOAD
from tests.bench.check_path.variants import OPA_ENVOY, Guard
from tests.bench.rules import rules, source_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from tests.bench.check_path.variants import Variant

#: reading 100,000 policies takes a while on one core
READY_WITHIN_S = 300.0
ENDED_WITHIN_S = 30.0
_BETWEEN_LOOKS_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running authz server: its first process, the sockets it is asked on, and the file its decisions stand in."""

    root: int
    sockets: tuple[str, ...]
    log: Path | None
    #: where a sidecar says which set is in force
    status: Path | None = None

    def pids(self) -> tuple[int, ...]:
        return family(self.root)

    def answering(self) -> tuple[int, ...]:
        """Give the processes that Envoy is connected to."""
        return answering(self.pids(), self.sockets)

    def recorded(self) -> int:
        """Count the decisions that are recorded so far."""
        if self.log is None:
            return 0
        with self.log.open("rb") as file:
            return sum(1 for _ in file)


def sidecar_flags() -> frozenset[str]:
    """Give the flags that `authz sidecar` has."""
    told = subprocess.run(
        [sys.executable, "-m", "authz", "sidecar", "--help"], capture_output=True, text=True, check=True
    ).stdout
    return frozenset(word for word in told.replace("[", " ").split() if word.startswith("--"))


def policy_folder(count: int, folder: Path) -> Path:
    """Write so many policies, unless they stand there."""
    policies = folder / f"policies-{count}"
    if not policies.exists():
        policies.mkdir()
        for file in source_files(list(rules(count, a_pair=A_PAIR))):
            (policies / file.path).write_bytes(file.content)
    return policies


@contextlib.contextmanager
def running(variant: Variant, folder: Path, *, core: int, known: Collection[str]) -> Iterator[Server]:
    """Run the server of a variant that has one, until it is ready to answer."""
    path = str(folder / "check.sock")
    match variant.guard:
        case Guard.FLOOR:
            command = [sys.executable, "-m", "tests.bench.check_path.floor", path]
            with _process(command, folder / "floor.log", core) as process:
                _wait_until_bound(path, process)
                yield Server(root=process.pid, sockets=(path,), log=None)
        case Guard.OPA:
            log = folder / "opa.log"
            words = opa.arguments(variant.rules, folder, path, logs=variant.logs)
            with _process([os.environ[OPA_ENVOY], *words], log, core) as process:
                _wait_until_bound(path, process)
                yield Server(root=process.pid, sockets=(path,), log=log if variant.logs else None)
        case Guard.PICOSEG:
            policies = policy_folder(variant.rules, folder.parent)
            with sidecar(variant, folder, policies, core=core, known=known) as server:
                yield server
        case _:
            raise ValueError(f"`{variant.name}` has no server")


@contextlib.contextmanager
def sidecar(
    variant: Variant, folder: Path, policies: Path, *, core: int, known: Collection[str], log: Path | None = None
) -> Iterator[Server]:
    """Run `authz sidecar` with the flags of a variant, until it is ready."""
    log = folder / "decisions" if log is None else log
    state, path = folder / "state", str(folder / "check.sock")
    command = [
        sys.executable, "-m", "authz", "sidecar", "--service", WORKLOAD, "--policies", str(policies), "--socket", path,
        "--decision-log", str(log), "--state", str(state), *variant.flags(known),
    ]  # fmt: skip
    if variant.closes is not None:
        command += ["--access-log-socket", str(folder / ACCESS_LOG_SOCKET), "--hold-socket", str(folder / HOLD_SOCKET)]
    notify = folder / f"notify-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(notify))
        with _process(command, folder / "sidecar.log", core, notify=notify) as process:
            _wait_until_ready(told, process)
            sockets = variant.sockets(path, known)
            yield Server(root=process.pid, sockets=sockets, log=log, status=state / FILE_NAME)


@contextlib.contextmanager
def _process(
    command: list[str], log: Path, core: int, *, notify: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as told:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=told,
            stderr=told,
            env={**os.environ, **({} if notify is None else {"NOTIFY_SOCKET": str(notify)})},
        )
    try:
        yield process
    finally:
        everyone = family(process.pid)
        process.terminate()
        try:
            process.wait(ENDED_WITHIN_S)
        except subprocess.TimeoutExpired:
            for pid in everyone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(told: socket.socket, process: subprocess.Popen[bytes]) -> None:
    told.settimeout(1.0)
    end_s = time.monotonic() + READY_WITHIN_S
    while True:
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in told.recv(4096):
                return
        if process.poll() is not None or time.monotonic() > end_s:
            raise SystemExit(f"bench: `{process.args}` does not become ready")


def _wait_until_bound(path: str, process: subprocess.Popen[bytes]) -> None:
    # Neither of the two tells anybody when it listens.
    end_s = time.monotonic() + READY_WITHIN_S
    while not os.path.exists(path):  # noqa: PTH110 a look, many times
        if process.poll() is not None or time.monotonic() > end_s:
            raise SystemExit(f"bench: `{process.args}` does not listen on {path}")
        time.sleep(_BETWEEN_LOOKS_S)
