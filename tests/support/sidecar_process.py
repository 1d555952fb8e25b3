"""A real `authz sidecar` process for tests, told apart from its successors by what it notifies."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc
from envoy.service.auth.v3 import external_auth_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 30


#: for settings that the command line has no flag for
_PROGRAM = """
import json, logging, sys
from pathlib import Path
from authz.sidecar.run import run
from authz.sidecar.settings import Audit, CheckTransport, SidecarSettings
logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
given = json.loads(sys.argv[1])
given |= {"state": Path(given["state"]), "audit": Audit(given.get("audit", "best-effort"))}
run(SidecarSettings(**given), transport=CheckTransport.NATIVE)
"""


class SidecarProcess:
    def __init__(
        self,
        *arguments: str,
        service: str,
        policies: Path,
        folder: Path,
        settings: dict[str, object] | None = None,
    ) -> None:
        """Start `authz sidecar`, or a sidecar with these settings."""
        self.socket = folder / "check.sock"
        self.errors = folder / "stderr"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.settimeout(PATIENCE_S)
        notify_path = folder / f"notify-{os.urandom(4).hex()}"
        self._notified.bind(str(notify_path))
        words = ["sidecar", "--service", service, "--policies", str(policies), "--socket", str(self.socket), *arguments]
        command = ["-m", "authz", *words]
        if settings is not None:
            given = {"service": service, "policies": str(policies), "socket": str(self.socket), **settings}
            command = ["-c", _PROGRAM, json.dumps(given)]
        self._gone, held = os.pipe()
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stderr=errors,
                env={**os.environ, "NOTIFY_SOCKET": str(notify_path)},
                pass_fds=[held],
            )
        os.close(held)

    def wait_for(self, words: str) -> str:
        """Wait until the sidecar notifies something that holds these words."""
        while True:
            said = self._notified.recv(4096).decode()
            if words in said:
                return said

    @contextlib.contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            yield channel

    def check(self, request: external_auth_pb2.CheckRequest | bytes) -> external_auth_pb2.CheckResponse:
        with self.channel() as channel:
            return ask(channel, request)

    def kill(self) -> None:
        """Kill the process that was started; those that it forked end by themselves."""
        self.process.kill()
        self.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait until no process of the sidecar is left; give the exit status of the first one."""
        assert select.select([self._gone], [], [], PATIENCE_S)[0], self.forked()
        return self.process.wait(PATIENCE_S)

    def forked(self) -> dict[str, list[int]]:
        """Give the processes that the sidecar consists of by now, by their names."""
        found: dict[str, list[int]] = {}
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in map(int, children.read_text().split()):
                with contextlib.suppress(OSError):
                    found.setdefault(Path(f"/proc/{pid}/comm").read_text().strip(), []).append(pid)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._notified.close()
        os.close(self._gone)


def ask(channel: grpc.Channel, request: external_auth_pb2.CheckRequest | bytes) -> external_auth_pb2.CheckResponse:
    check = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
    message = request if isinstance(request, bytes) else request.SerializeToString()
    answer: bytes = check(message, timeout=PATIENCE_S, wait_for_ready=True)
    return external_auth_pb2.CheckResponse.FromString(answer)


def reason(response: external_auth_pb2.CheckResponse) -> str:
    return str(response.dynamic_metadata["reason"]) if "reason" in response.dynamic_metadata else "internal_error"
