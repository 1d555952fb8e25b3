"""A real Envoy with a rendered sidecar configuration, and what it says of itself."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

from authz.mesh.envoy_binary import envoy_binary

if TYPE_CHECKING:
    from pathlib import Path

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 30
_BETWEEN_LOOKS_S = 0.01


class EnvoyProcess:
    """`configuration` is the bootstrap's file; `admin` the unix socket that it names.

    Where it is `awaited`, it is ready when it is entered.
    """

    def __init__(self, configuration: Path, admin: str, *, awaited: bool = True) -> None:
        self.admin = admin
        self._awaited = awaited
        self._configuration = configuration
        self._log = configuration.with_suffix(".log")

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    envoy_binary(),
                    "-c",
                    str(self._configuration),
                    "--disable-hot-restart",
                    "--concurrency",
                    "1",
                    "--log-level",
                    "warning",
                ],
                stdout=log,
                stderr=log,
            )
        end_s = time.monotonic() + PATIENCE_S
        # Envoy tells nobody when it is ready: it has to be asked.
        while self._awaited and not self.is_ready():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < end_s, self._log.read_text()
            time.sleep(_BETWEEN_LOOKS_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return self._log.read_text()

    def stat(self, name: str) -> int:
        """Give one counter; KeyError where Envoy has none of that name."""
        return self.stats()[name]

    def stats(self) -> dict[str, int]:
        status, body = self.ask("/stats")
        assert status == 200
        pairs = (line.rpartition(": ") for line in body.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdigit()}

    def counts(self, name: str, more_than: int) -> bool:
        """Whether the counter gets above a value: a worker's counts reach the admin a moment after they happen."""
        end_s = time.monotonic() + PATIENCE_S
        while self.stat(name) <= more_than:
            if time.monotonic() > end_s:
                return False
            time.sleep(_BETWEEN_LOOKS_S)
        return True

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(self.admin)
            connection.sendall(f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            return response.status, response.read().decode()

    def is_ready(self) -> bool:
        try:
            return self.ask("/ready")[0] == 200
        except OSError:
            return False


def validation(configuration: Path) -> subprocess.CompletedProcess[str]:
    """Let Envoy say whether it would take a configuration."""
    return subprocess.run(
        [envoy_binary(), "--mode", "validate", "--log-level", "error", "-c", str(configuration)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
