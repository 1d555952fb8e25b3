"""What asking costs a call on real Envoys: the same two sidecars with and without the check, interleaved in one run.

wrk -> orders' outbound listener -> mTLS -> catalog's inbound listener -> an Envoy that answers 200 itself. Both
sidecars ask, as in the mesh. Envoys and wrk share one core, the authz sidecars have the other. Run by `make bench`;
needs wrk.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.mesh.envoy_binary import envoy_binary
from authz.proxy.addresses import TcpAddress, UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.spec import ServiceDestination, SidecarSpec, TrustBundle
from authz.proxy.tls import svid_secret
from authz.svid_files import write_svid
from tests.bench.engine import policy_set
from tests.support.envoy_process import EnvoyProcess
from tests.support.sidecar_process import SidecarProcess

ROUNDS = 3
SECONDS = 3
CONNECTIONS = (1, 16)
VARIANTS = ("no check", "authz, 10 policies", "authz, 10000 policies")
AUTHZ_CORE, ENVOY_CORE = "0", "1"
NAMES = ("orders", "catalog")
HOUR = timedelta(hours=1)
_TYPES = "type.googleapis.com/envoy.extensions"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    rps: float
    p50_us: float
    p99_us: float
    authz_us: float
    envoy_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One variant, running: where wrk calls, and the processes whose CPU is counted."""

    target: str
    authz: tuple[int, ...]
    envoys: tuple[int, ...]


def main() -> int:
    if shutil.which("wrk") is None:
        print("bench: the check path needs wrk, which is not here; on Debian: apt-get install wrk", file=sys.stderr)
        return 0
    results: dict[tuple[str, int], list[Round]] = {}
    with tempfile.TemporaryDirectory(prefix="authz-bench-") as folder, contextlib.ExitStack() as stack:
        app = _app(Path(folder), stack)
        lines = {variant: _line(variant, Path(folder), app, stack) for variant in VARIANTS}
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", flush=True)
            for connections in CONNECTIONS:
                for variant, line in lines.items():
                    results.setdefault((variant, connections), []).append(_round(line, connections))
    _report(results)
    return 0


def _report(results: dict[tuple[str, int], list[Round]]) -> None:
    version = subprocess.run([envoy_binary(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    python, envoy = sys.version.split()[0], version.split("/")[-4]
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, python {python}, Envoy {envoy}")
    print(f"medians of {ROUNDS} interleaved rounds of {SECONDS} s; authz on its own core; two checks a call")
    print(f"{'':24}{'conns':>6}{'rps':>9}{'p50 us':>9}{'p99 us':>9}{'authz CPU us/check':>20}{'Envoy CPU us/call':>19}")
    for connections in CONNECTIONS:
        for variant in VARIANTS:
            rounds = results[variant, connections]
            median = {
                name: statistics.median(getattr(one, name) for one in rounds)
                for name in ("rps", "p50_us", "p99_us", "authz_us", "envoy_us")
            }
            print(
                f"{variant:24}{connections:>6}{median['rps']:>9.0f}{median['p50_us']:>9.0f}{median['p99_us']:>9.0f}"
                f"{median['authz_us']:>20.0f}{median['envoy_us']:>19.0f}"
            )


def _round(line: Line, connections: int) -> Round:
    authz, envoy = _cpu_s(line.authz), _cpu_s(line.envoys)
    told = subprocess.run(
        ["taskset", "-c", ENVOY_CORE, "wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency",
         "-H", "Host: catalog", line.target],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "Non-2xx" in told:
        raise SystemExit(f"bench: calls were refused\n{told}")
    calls = int(_found(r"(\d+) requests in", told))
    return Round(
        rps=float(_found(r"Requests/sec: +([\d.]+)", told)),
        p50_us=_microseconds(_found(r"50% +(\S+)", told)),
        p99_us=_microseconds(_found(r"99% +(\S+)", told)),
        authz_us=(_cpu_s(line.authz) - authz) * 1e6 / (2 * calls),
        envoy_us=(_cpu_s(line.envoys) - envoy) * 1e6 / calls,
    )


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"bench: wrk said no `{pattern}`\n{text}")
    return found.group(1)


def _microseconds(text: str) -> float:
    for unit, factor in (("us", 1.0), ("ms", 1e3), ("s", 1e6)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise SystemExit(f"bench: `{text}` is no duration of wrk's")


def _cpu_s(pids: tuple[int, ...]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS


def _line(variant: str, folder: Path, app: TcpAddress, stack: contextlib.ExitStack) -> Line:
    """Start the two sidecars of a variant."""
    place = folder / variant.replace(" ", "-").replace(",", "")
    policies = place / "policies"
    policies.mkdir(parents=True)
    size = re.search(r"(\d+) policies", variant)
    (policies / "set.yaml").write_bytes(policy_set(int(size[1]) if size else 1))
    now = datetime.now(UTC)
    authority = Authority.generate(TrustDomain.parse("shop.example"), now, HOUR)
    addresses = {name: (_address(stack), _address(stack)) for name in NAMES}
    authz, envoys = [], []
    for name in NAMES:
        own = place / name
        own.mkdir()
        identity = SpiffeId.parse(f"spiffe://shop.example/{name}")
        write_svid(own / "svid", authority.issue_x509_svid(identity, now, HOUR), authority.certificate_pem)
        (own / "svid.json").write_text(svid_secret(str(own / "svid")))
        if size:
            sidecar = stack.enter_context(
                SidecarProcess("--decision-log", str(own / "decisions"), service=name, policies=policies, folder=own)
            )
            _pin(sidecar.process.pid, AUTHZ_CORE)
            authz.append((sidecar, sidecar.process.pid))
        spec = SidecarSpec(
            service=name,
            identity=str(identity),
            svid_directory=str(own / "svid"),
            svid_secret_file=str(own / "svid.json"),
            trust_domains=(TrustBundle(trust_domain="shop.example", file=str(own / "svid/bundle.pem")),),
            inbound=addresses[name][0],
            outbound=addresses[name][1],
            app=app,
            admin=UnixAddress(path=str(own / "admin")),
            authz_sockets=(str(own / "check.sock"),),
            destinations=(
                ServiceDestination(
                    name="catalog", identities=("spiffe://shop.example/catalog",), address=addresses["catalog"][0]
                ),
            ),
        )
        text = sidecar_bootstrap(spec)
        (own / "envoy.json").write_text(text if size else _without_check(text))
        envoy = stack.enter_context(EnvoyProcess(own / "envoy.json", str(own / "admin")))
        _pin(envoy.process.pid, ENVOY_CORE)
        envoys.append(envoy.process.pid)
    for sidecar, _ in authz:
        sidecar.wait_for("READY=1")
    return Line(
        target=f"http://{addresses['orders'][1]}/items/42",
        authz=tuple(pid for _, pid in authz),
        envoys=tuple(envoys),
    )


def _without_check(text: str) -> str:
    """Take the ext_authz filter out of a bootstrap: what the same Envoy costs that asks nobody."""
    bootstrap = json.loads(text)
    _drop_check(bootstrap)
    return json.dumps(bootstrap)


def _drop_check(node: Any) -> None:
    if isinstance(node, list):
        for entry in node:
            _drop_check(entry)
        return
    if not isinstance(node, dict):
        return
    for key in [key for key in node if key in {"typedPerFilterConfig", "typed_per_filter_config"}]:
        del node[key]
    for key in [key for key in node if key in {"httpFilters", "http_filters"}]:
        node[key] = [each for each in node[key] if "ext_authz" not in json.dumps(each.get("typedConfig", each))]
    for entry in node.values():
        _drop_check(entry)


def _app(folder: Path, stack: contextlib.ExitStack) -> TcpAddress:
    """Start an Envoy that answers 200 to everything: the fastest app there is."""
    address = _address(stack)
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "app",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "app",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "app",
        "address": {"socket_address": {"address": address.host, "port_value": address.port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    configuration = folder / "app.json"
    configuration.write_text(
        json.dumps(
            {
                "admin": {"address": {"pipe": {"path": str(folder / "app-admin")}}},
                "static_resources": {"listeners": [listener]},
            }
        )
    )
    envoy = stack.enter_context(EnvoyProcess(configuration, str(folder / "app-admin")))
    _pin(envoy.process.pid, ENVOY_CORE)
    return address


def _address(stack: contextlib.ExitStack) -> TcpAddress:
    reserved = stack.enter_context(socket.socket())
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return TcpAddress(host="127.0.0.1", port=reserved.getsockname()[1])


def _pin(pid: int, core: str) -> None:
    subprocess.run(["taskset", "-a", "-p", "-c", core, str(pid)], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    raise SystemExit(main())
