"""Two workloads with real Envoys and sidecars, whose SVIDs come from a Workload API and reach Envoy by SDS."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from authz.mesh.ports import ReservedPorts
from authz.proxy.addresses import TcpAddress, UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.spec import ServiceDestination, SidecarSpec
from tests.support.envoy_process import EnvoyProcess
from tests.support.recording_app import RecordingApp
from tests.support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 60
IDS = {
    "orders": "spiffe://shop.example/ns/shop/sa/orders",
    "catalog": "spiffe://shop.example/ns/shop/sa/catalog",
}
POLICIES = """\
apiVersion: authz/v1
kind: Mesh
metadata: {name: shop}
spec: {trustDomains: [shop.example]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: orders}
spec: {identities: [spiffe://shop.example/ns/shop/sa/orders]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: catalog}
spec: {identities: [spiffe://shop.example/ns/shop/sa/catalog]}
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: orders-catalog}
spec:
  from: [{services: [orders]}]
  to: [{services: [catalog], operations: [{methods: [GET], paths: [/items]}]}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A call: when it began and ended (epoch, ns), and its status, or what went wrong."""

    began_ns: int
    ended_ns: int
    status: int | str
    said: str = ""


class SdsMesh:
    """`sockets` are the Workload API's by workload; what is entered serves calls from orders to catalog."""

    def __init__(
        self,
        folder: Path,
        sockets: Mapping[str, str],
        *,
        delta: bool = False,
        max_connection_duration: timedelta = timedelta(seconds=0.5),
        awaited: bool = True,
    ) -> None:
        """Connections are ended early, so that what was rotated is used; `awaited`: not entered before it is ready."""
        self.folder = folder
        self._sockets = sockets
        self._delta = delta
        self._duration = max_connection_duration
        self._awaited = awaited
        self._stack = contextlib.ExitStack()
        self.sidecars: dict[str, SidecarProcess] = {}
        self.envoys: dict[str, EnvoyProcess] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            policies = self.folder / "policies"
            policies.mkdir(exist_ok=True)
            (policies / "shop.yaml").write_text(POLICIES)
            app = stack.enter_context(RecordingApp())
            ports = stack.enter_context(ReservedPorts())
            inbound, self.outbound, unused = ports.reserve(), ports.reserve(), [ports.reserve() for _ in range(2)]
            listeners = {"catalog": (inbound, unused[0]), "orders": (unused[1], self.outbound)}
            for name in IDS:
                place = self.folder / name
                place.mkdir()
                self.sidecars[name] = stack.enter_context(self._sidecar(name, place, policies))
            for name, (into, out) in listeners.items():
                if self._awaited:
                    self.sidecars[name].wait_for("READY=1")
                configuration = self._bootstrap(name, into, out, TcpAddress(host="127.0.0.1", port=app.port), inbound)
                (self.folder / name / "envoy.json").write_text(configuration)
                envoy = EnvoyProcess(
                    self.folder / name / "envoy.json", str(self.folder / name / "admin.sock"), awaited=self._awaited
                )
                self.envoys[name] = stack.enter_context(envoy)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _sidecar(self, name: str, place: Path, policies: Path) -> SidecarProcess:
        return SidecarProcess(
            *("--state", str(place / "state"), "--decision-log", str(place / "decisions"), "--workers", "2"),
            *("--identity", f"spire:{self._sockets[name]}", "--sds-socket", str(place / "sds.sock")),
            *("--svid-files", str(place / "svid")),
            service=name,
            policies=policies,
            folder=place,
        )

    def _bootstrap(self, name: str, into: TcpAddress, out: TcpAddress, app: TcpAddress, catalog: TcpAddress) -> str:
        place = self.folder / name
        text = sidecar_bootstrap(
            SidecarSpec(
                service=name,
                identity=IDS[name],
                svid_directory="",
                svid_secret_file="",
                trust_domains=(),
                inbound=into,
                outbound=out,
                app=app,
                admin=UnixAddress(path=str(place / "admin.sock")),
                authz_sockets=(str(place / "check.sock"), str(place / "check.sock.2")),
                destinations=(ServiceDestination(name="catalog", identities=(IDS["catalog"],), address=catalog),),
                max_connection_duration=self._duration,
                sds_socket=str(place / "sds.sock"),
            )
        )
        return text.replace('"api_type": "GRPC"', '"api_type": "DELTA_GRPC"') if self._delta else text

    def call(self, connection: http.client.HTTPConnection | None = None) -> Made:
        own = connection or self.connection()
        began_ns = time.time_ns()
        try:
            own.request("GET", "/items", headers={"host": "catalog"})
            answer = own.getresponse()
            said = answer.read().decode("latin-1") + " ".join(f"{key}: {value}" for key, value in answer.getheaders())
            status: int | str = answer.status
        except (OSError, http.client.HTTPException) as error:
            status, said = repr(error), ""
            own.close()
        if connection is None:
            own.close()
        return Made(began_ns=began_ns, ended_ns=time.time_ns(), status=status, said=said)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.outbound.host, self.outbound.port, timeout=PATIENCE_S)

    def updates(self) -> dict[str, int]:
        """Give how often each Envoy has taken a new secret into its contexts."""
        counts = {}
        for name, envoy in self.envoys.items():
            stats = envoy.stats()
            counts[name] = sum(value for stat, value in stats.items() if stat.endswith("ssl_context_update_by_sds"))
        return counts

    def serials(self) -> dict[str, str]:
        """Give the serial number of the certificate that each Envoy holds."""
        found = {}
        for name, envoy in self.envoys.items():
            certificates = json.loads(envoy.ask("/certs")[1]).get("certificates", [])
            chains = [one["cert_chain"][0]["serial_number"] for one in certificates if one.get("cert_chain")]
            found[name] = ",".join(sorted(set(chains)))
        return found

    def wait_for_other(self, before: dict[str, str]) -> dict[str, str]:
        """Wait until every Envoy holds another certificate, in all its contexts, than it did."""
        return (
            self.wait(lambda: all(after != before[name] and "," not in after for name, after in self.serials().items()))
            and self.serials()
        )

    def handshakes(self) -> int:
        return self.envoys["catalog"].stat("listener.inbound.ssl.handshake")

    def wait_for_handshake(self) -> None:
        """Wait until a connection was made with what the Envoys hold by now."""
        before = self.handshakes()
        self.wait(lambda: self.handshakes() > before)

    def status(self, name: str) -> dict[str, object]:
        status: dict[str, object] = json.loads((self.folder / name / "state" / "status.json").read_text())
        return status

    def identity(self, name: str) -> dict[str, object]:
        identity = self.status(name)["identity"]
        assert isinstance(identity, dict)
        return identity

    def wait(self, holds: object) -> bool:
        """Wait until something holds that nobody tells of."""
        end_s = time.monotonic() + PATIENCE_S
        while not holds():  # type: ignore[operator]
            assert time.monotonic() < end_s, {name: self.status(name) for name in IDS}
            time.sleep(0.02)
        return True


class Load:
    """Calls at a steady rate from several connections that are kept open, until it is left."""

    def __init__(self, mesh: SdsMesh, *, a_second: int = 200, connections: int = 8) -> None:
        self._mesh = mesh
        self._pause_s = connections / a_second
        self._end = threading.Event()
        self.made: list[Made] = []
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(connections)]

    def _run(self, number: int) -> None:
        connection = self._mesh.connection()
        due_s = time.monotonic() + self._pause_s * number / len(self._threads)
        while not self._end.is_set():
            self._end.wait(max(0.0, due_s - time.monotonic()))
            due_s += self._pause_s
            self.made.append(self._mesh.call(connection))
        connection.close()

    @property
    def failed(self) -> list[Made]:
        return [one for one in self.made if one.status != 200]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
