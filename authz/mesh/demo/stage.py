"""What a scene of the demo can do: call, edit a policy, wait for the edit to be in force, look, break something."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from authz.mesh.calls.call import CallAnswer, MeshCall
from authz.mesh.envoy_admin import envoy_counters
from authz.mesh.errors import MeshError
from authz.policy_folder import load_policy_folder
from authz.proxy.check_filter import AUTHZ_CLUSTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.mesh.running_mesh import Mesh
    from authz.mesh.state import RunningService

_PATIENCE_S: Final = 20.0
#: how often something is asked that tells nobody when it changes
_LOOK_S: Final = 0.02


@dataclass(slots=True, kw_only=True)
class Stage:
    """A running mesh and its policy folder, which the scenes edit; `say` prints one line of the scene."""

    mesh: Mesh
    policies: Path
    say: Callable[[str], None] = field(default=lambda _: None)

    def call(self, caller: str, destination: str, method: str, path: str, *headers: tuple[str, str]) -> CallAnswer:
        """Make a call through the mesh, and show the command that would make it."""
        given = "".join(f" -H '{name}: {value}'" for name, value in headers)
        self.say(f"$ authz mesh call --from {caller} --to {destination} --method {method} --path {path}{given}")
        return self.quiet_call(caller, destination, method, path, *headers)

    def quiet_call(
        self, caller: str, destination: str, method: str, path: str, *headers: tuple[str, str]
    ) -> CallAnswer:
        """Make a call through the mesh."""
        return self.mesh.call(
            MeshCall(
                caller=caller,
                destination=destination,
                method=method.encode(),
                path=path.encode(),
                headers=tuple((name.encode(), value.encode()) for name, value in headers),
            )
        )

    def service(self, name: str) -> RunningService:
        """Give the addresses and files of a Service."""
        return next(one for one in self.mesh.record().services if one.name == name)

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Change a file of the policy folder as an editor does, and wait until every sidecar decides by it."""
        path = self.policies / name
        draft = path.with_name(f".{path.name}")
        draft.write_text(change(path.read_text() if path.exists() else ""))
        draft.replace(path)
        revision = load_policy_folder(str(self.policies)).revision
        self.until(lambda: self.mesh.status().revision == revision, "the edited policies to be in force")

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until it is so; raises MeshError where it does not come to be."""
        end_s = time.monotonic() + _PATIENCE_S
        while not true():
            if time.monotonic() > end_s:
                raise MeshError(f"waited {_PATIENCE_S:.0f} s in vain for {what}")
            time.sleep(_LOOK_S)

    def checks(self, service: str) -> int:
        """Count what a Service's Envoy has asked of its sidecar.

        It counts before it asks: who was answered is in it, while a record may follow its answer late.
        """
        counters = envoy_counters(self._admin(service), f"cluster.{AUTHZ_CLUSTER}.upstream_rq_total")
        return counters[f"cluster.{AUTHZ_CLUSTER}.upstream_rq_total"]

    def refused_handshakes(self, service: str) -> list[str]:
        """Give what the decision log of a Service says of handshakes that failed, oldest first."""
        return [
            f"{one['reason']}: {one['handshake']['failure']}, from {one['caller']['address']}"
            for one in self._records(service)
            if "handshake" in one
        ]

    def _records(self, service: str) -> list[dict[str, Any]]:
        lines = Path(self.service(service).decision_log).read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def failed_handshakes(self, service: str) -> int:
        """Count the TLS handshakes that a Service's Envoy has refused."""
        counters = envoy_counters(self._admin(service), "ssl.")
        return sum(
            value
            for name, value in counters.items()
            if name.startswith("listener.") and ("fail_verify" in name or "connection_error" in name)
        )

    def knock_without_certificate(self, service: str) -> str:
        """Try to call a Service's inbound listener over TLS without a client certificate; say what came of it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is the server's refusal that is shown
        host, _, port = self.service(service).inbound.rpartition(":")
        try:
            with (
                socket.create_connection((host, int(port)), timeout=_PATIENCE_S) as connection,
                context.wrap_socket(connection) as encrypted,
            ):
                encrypted.sendall(b"GET / HTTP/1.1\r\nhost: intruder\r\n\r\n")
                answered = encrypted.recv(1)
        except OSError as error:
            return str(getattr(error, "reason", "") or error.strerror or error).lower()
        return "an answer" if answered else "connection closed"

    def kill_sidecar(self, service: str) -> int:
        """Kill a Service's authz sidecar as `kill -9` does, held first so that it cannot be back too early."""
        pid = self._sidecar_pid(service)
        os.kill(pid, signal.SIGSTOP)
        return pid

    def finish(self, pid: int) -> None:
        """End a process that is held."""
        os.kill(pid, signal.SIGKILL)

    def _admin(self, service: str) -> str:
        return self.service(service).admin.removeprefix("unix:")

    def _sidecar_pid(self, service: str) -> int:
        status = next(one for one in self.mesh.status().services if one.service.name == service)
        return status.pids["sidecar"]


def words(answer: CallAnswer) -> str:
    """Say an answer in two words, such as `403 no_policy`."""
    return f"{answer.status} {answer.reason or ('allowed' if answer.allowed else 'no answer from a sidecar')}"


def seen_by_app(answer: CallAnswer, header: str) -> str:
    """Give what reached the app under a header's name, "" if nothing did."""
    headers: dict[str, str] = json.loads(answer.body)["headers"]
    return headers.get(header, "")
