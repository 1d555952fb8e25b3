"""A real echo app in a process of its own, on a port that the test holds for it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 30


class EchoProcess:
    def __init__(self, *arguments: str, service: str = "orders", folder: Path) -> None:
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._reservation.getsockname()
        self.errors = folder / f"stderr-{os.urandom(4).hex()}"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.settimeout(PATIENCE_S)
        notify_path = str(folder / f"notify-{os.urandom(4).hex()}")
        self._notified.bind(notify_path)
        listen = f"127.0.0.1:{self.address[1]}"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "authz.mesh.echo_app", "--service", service, "--listen", listen, *arguments],
                stderr=errors,
                env={**os.environ, "NOTIFY_SOCKET": notify_path},
            )
        self.said = ""
        while "READY=1" not in self.said:
            self.said = self._notified.recv(4096).decode()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.address[1]}"

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE_S)

    def get(self, path: str = "/") -> dict[str, Any]:
        """Ask on a connection of its own; the proof that the app serves."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200
            said: dict[str, Any] = json.loads(answer.read())
            return said
        finally:
            connection.close()

    @property
    def complaints(self) -> str:
        return self.errors.read_text()

    @property
    def peak_memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._notified.close()
        self._reservation.close()
