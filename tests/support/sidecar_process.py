"""A real `authz sidecar` process for tests, told apart from its successors by what it notifies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import grpc
from envoy.service.auth.v3 import external_auth_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 30


class SidecarProcess:
    def __init__(self, *arguments: str, service: str, policies: Path, folder: Path) -> None:
        self.socket = folder / "check.sock"
        self.errors = folder / "stderr"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.settimeout(PATIENCE_S)
        notify_path = folder / f"notify-{os.urandom(4).hex()}"
        self._notified.bind(str(notify_path))
        words = ["sidecar", "--service", service, "--policies", str(policies), "--socket", str(self.socket), *arguments]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "authz", *words],
                stderr=errors,
                env={**os.environ, "NOTIFY_SOCKET": str(notify_path)},
            )

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
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._notified.close()


def ask(channel: grpc.Channel, request: external_auth_pb2.CheckRequest | bytes) -> external_auth_pb2.CheckResponse:
    check = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
    message = request if isinstance(request, bytes) else request.SerializeToString()
    answer: bytes = check(message, timeout=PATIENCE_S, wait_for_ready=True)
    return external_auth_pb2.CheckResponse.FromString(answer)


def reason(response: external_auth_pb2.CheckResponse) -> str:
    return str(response.dynamic_metadata["reason"]) if "reason" in response.dynamic_metadata else "internal_error"
