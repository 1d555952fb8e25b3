"""A local mesh started by the command line, as a user starts it, and raw calls through it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authz.mesh.running_mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: bounds for what must happen, never a measure of how fast it does
UP_PATIENCE_S = 240
CALL_PATIENCE_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str | None:
        return self.headers.get("x-authz-reason")

    @property
    def echo(self) -> dict[str, Any]:
        """What reached the app, as the echo app says it."""
        told: dict[str, Any] = json.loads(self.body)
        return told


def authz(*arguments: str, check: bool = False, patience_s: float = UP_PATIENCE_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "authz", *arguments], capture_output=True, text=True, timeout=patience_s, check=check
    )


class LocalMesh:
    def __init__(self, *, policies: Path, state: Path, more: tuple[str, ...] = ()) -> None:
        self.policies = policies
        self.state = state
        self.more = more

    @contextlib.contextmanager
    def running(self) -> Iterator[LocalMesh]:
        started = authz(
            "mesh", "up", "--policies", str(self.policies), "--state", str(self.state), "--detach", *self.more
        )
        try:
            assert started.returncode == 0, started.stdout + started.stderr
            yield self
        finally:
            authz("mesh", "down", "--state", str(self.state), check=True)

    def status(self) -> dict[str, Any]:
        """Give what `authz mesh status -o json` prints, without a process for each look."""
        told: dict[str, Any] = json.loads(json.dumps(Mesh(str(self.state)).status().to_json()))
        return told

    def service(self, name: str) -> dict[str, Any]:
        return next(service for service in self.status()["services"] if service["name"] == name)

    def call(self, *arguments: str) -> dict[str, Any]:
        ended = authz("mesh", "call", "--state", str(self.state), *arguments, "-o", "json")
        assert ended.returncode in (0, 1), ended.stderr
        told: dict[str, Any] = json.loads(ended.stdout)
        return told


@contextlib.contextmanager
def mesh_of(folder: Path, policy_set: str) -> Iterator[LocalMesh]:
    """Run a mesh in this folder, whose policies are one file `set.yaml`."""
    policies = folder / "policies"
    policies.mkdir()
    (policies / "set.yaml").write_text(policy_set)
    with LocalMesh(policies=policies, state=folder / "state").running() as running:
        yield running


def request(
    address: str, method: str, target: str, host: str, headers: tuple[tuple[str, str], ...] = (), body: bytes = b""
) -> Answer:
    """Make one call with exactly these bytes: nothing is normalised, added or checked on the way out."""
    name, _, port = address.rpartition(":")
    with socket.create_connection((name, int(port)), timeout=CALL_PATIENCE_S) as connection:
        return raw_request(connection, method, target, host, headers, body)


def raw_request(
    connection: socket.socket,
    method: str,
    target: str,
    host: str,
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
) -> Answer:
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines.append(f"content-length: {len(body)}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    return Answer(
        status=response.status,
        headers={name.lower(): value for name, value in response.getheaders()},
        body=response.read(),
    )


def tls_context(service: dict[str, Any] | None = None, *, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """Speak TLS as this service would, or with this certificate, or with none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the tests ask whether the server refuses us
    if service is not None:
        certificate, key = service["certificate"], service["key"]
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


@contextlib.contextmanager
def tls_connection(address: str, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    name, _, port = address.rpartition(":")
    with (
        socket.create_connection((name, int(port)), timeout=CALL_PATIENCE_S) as connection,
        context.wrap_socket(connection) as encrypted,
    ):
        yield encrypted


def admin_stats(admin: str, contains: str) -> dict[str, int]:
    """Read Envoy's counters from its admin socket (`unix:PATH`)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CALL_PATIENCE_S)
        connection.connect(admin.removeprefix("unix:"))
        told = raw_request(connection, "GET", "/stats", "admin", (("connection", "close"),)).body.decode()
    counters = (line.rpartition(": ") for line in told.splitlines() if contains in line)
    return {name: int(value) for name, _, value in counters if value.isdigit()}
