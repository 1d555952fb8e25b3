"""One variant, running: its server, the Envoy that is measured, the Envoy that calls it, and where wrk calls."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.proxy.addresses import TcpAddress
from authz.request import Direction
from authz.svid_files import write_svid
from tests.bench.check_path import envoys, servers
from tests.bench.check_path.processes import pin
from tests.bench.check_path.question import ASKED, CALLER, DENIED_PATH, TRUST_DOMAIN, WORKLOAD, identity
from tests.bench.check_path.wrk import Target
from tests.support.envoy_process import EnvoyProcess

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from tests.bench.check_path.servers import Server
    from tests.bench.check_path.variants import Variant

#: the authz server's core, and the load generator's; Envoy is moved from one to the other
AUTHZ_CORE, LOAD_CORE = 0, 1
LIFETIME = timedelta(hours=12)
PATIENCE_S = 30.0
_BETWEEN_LOOKS_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    variant: Variant
    server: Server | None
    envoy: EnvoyProcess
    targets: dict[Direction, Target]

    def place_envoy(self, core: int) -> None:
        pin([self.envoy.process.pid], core)

    def prove(self) -> None:
        """See that what is allowed passes, that what is denied does not, and that both are recorded."""
        for direction, target in self.targets.items():
            status = answered(target)
            end_s = time.monotonic() + PATIENCE_S
            # An Envoy that is ready may not have its first connection to the server yet.
            while status == 503 and time.monotonic() < end_s:
                time.sleep(_BETWEEN_LOOKS_S)
                status = answered(target)
            if status != 200:
                raise SystemExit(f"bench: {self.variant.name} answers {status} to a call that is allowed ({direction})")
            if not self.variant.guard.decides:
                continue
            denied = Target(address=target.address, path=DENIED_PATH, host=target.host)
            if (status := answered(denied)) != 403:
                raise SystemExit(f"bench: {self.variant.name} answers {status} to a call that is denied ({direction})")
        if self.server is not None and self.server.log is not None:
            self._wait_for_records()

    def _wait_for_records(self) -> None:
        assert self.server is not None
        end_s = time.monotonic() + PATIENCE_S
        while self.server.recorded() < 2 * len(self.targets):
            if time.monotonic() > end_s:
                raise SystemExit(f"bench: {self.variant.name} does not record what it decides")
            time.sleep(_BETWEEN_LOOKS_S)


def answered(target: Target) -> int:
    """Call once, on a connection of its own, and give the status."""
    connection = http.client.HTTPConnection(target.address, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", target.path, headers={"Host": target.host})
        return connection.getresponse().status


@contextlib.contextmanager
def running_line(
    variant: Variant,
    folder: Path,
    *,
    known: Collection[str],
    server: Server | None = None,
) -> Iterator[Line]:
    """Run a variant; `server` where it runs already. Its Envoy is on the load generator's core."""
    place = folder / f"line-{variant.name}"
    place.mkdir()
    with contextlib.ExitStack() as stack:
        if server is None and variant.guard.asks:
            server = stack.enter_context(servers.running(variant, place, core=AUTHZ_CORE, known=known))
        addresses = envoys.Addresses(
            inbound=_address(stack),
            outbound=_address(stack),
            caller=_address(stack),
            app=None if variant.closes is None else _address(stack),
        )
        _issue_svids(place)
        sockets = () if server is None else server.sockets
        own = place / WORKLOAD / "envoy.json"
        own.write_text(envoys.guarded(variant, addresses, own.parent, sockets))
        callers = place / CALLER / "envoy.json"
        callers.write_text(envoys.calling(addresses, callers.parent))
        measured = stack.enter_context(EnvoyProcess(own, str(own.parent / "admin")))
        calling = stack.enter_context(EnvoyProcess(callers, str(callers.parent / "admin")))
        pin([measured.process.pid, calling.process.pid], LOAD_CORE)
        entries = {Direction.INBOUND: addresses.caller, Direction.OUTBOUND: addresses.outbound}
        if variant.closes is not None:
            del entries[Direction.OUTBOUND]  # the app is behind the inbound one
        yield Line(
            variant=variant,
            server=server,
            envoy=measured,
            targets={
                direction: Target(address=str(entry), path=ASKED[direction].path, host=ASKED[direction].host)
                for direction, entry in entries.items()
            },
        )


def _issue_svids(place: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.generate(TrustDomain.parse(TRUST_DOMAIN), now, LIFETIME)
    for service in (WORKLOAD, CALLER):
        (place / service).mkdir()
        svid = authority.issue_x509_svid(SpiffeId.parse(identity(service)), now, LIFETIME)
        write_svid(place / service / "svid", svid, authority.certificate_pem)


def _address(stack: contextlib.ExitStack) -> TcpAddress:
    reserved = stack.enter_context(socket.socket())
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return TcpAddress(host="127.0.0.1", port=reserved.getsockname()[1])
