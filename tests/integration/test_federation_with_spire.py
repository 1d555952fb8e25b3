"""A real SPIRE server as the partner: we follow its bundle endpoint, and it follows ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz.federation.bundle_client import BundleClient
from authz.federation.endpoint_certificate import SvidCertificate
from authz.federation.errors import FederationError
from authz.federation.federated_bundles import FederatedBundles
from authz.federation.followed_bundle import Origin
from authz.federation.poll_times import PollTimes
from authz.federation.relationship import Endpoint, Relationship
from authz.identity.bundle import bundle_from_json
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from tests.support.bundle_site import serving, svid_of
from tests.support.partner import bundle_of, new_authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.identity.trust import Trust

pytestmark = pytest.mark.peers

PEERS = Path(__file__).parents[2] / ".cache/peers"
#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 120
ACME, SHOP = TrustDomain.parse("acme.example"), TrustDomain.parse("shop.example")
SPIRE = SpiffeId.parse("spiffe://acme.example/spire/server")
OURS = SpiffeId.parse("spiffe://shop.example/authz/bundle-endpoint")
QUICK = PollTimes(shortest=timedelta(seconds=1), longest=timedelta(seconds=1), patience=timedelta(seconds=1))
_SERVER = """\
server {{
  trust_domain = "acme.example"
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/server.sock"
  data_dir = "{folder}/data"
  federation {{
    bundle_endpoint {{
      address = "127.0.0.1"
      port = {endpoint_port}
      refresh_hint = "1s"
      profile "https_spiffe" {{}}
    }}
  }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{folder}/data.sqlite3" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
}}
"""


class SpireServer:
    """Ready when it is entered; `ask` runs its own command line."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("spire-server", path=str(PEERS)) or shutil.which("spire-server")
        if found is None:
            pytest.skip("no spire-server: make test-peers builds it, with Go")
        self._binary = found
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            ports = one.getsockname()[1], other.getsockname()[1]
        self.url = f"https://127.0.0.1:{ports[1]}/"
        (folder / "server.conf").write_text(_SERVER.format(port=ports[0], endpoint_port=ports[1], folder=folder))

    @contextlib.contextmanager
    def running(self) -> Iterator[SpireServer]:
        with (self._folder / "log").open("wb") as log:
            command = [self._binary, "run", "-config", str(self._folder / "server.conf")]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            end_s = time.monotonic() + PATIENCE_S
            while self._run("healthcheck").returncode:
                assert process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < end_s, (self._folder / "log").read_text()
                time.sleep(0.1)
            yield self
        finally:
            process.terminate()
            process.wait(PATIENCE_S)

    def ask(self, *words: str) -> str:
        done = self._run(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [self._binary, *words, "-socketPath", str(self._folder / "server.sock")]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.fixture
def spire() -> Iterator[SpireServer]:
    with tempfile.TemporaryDirectory(prefix="fs-") as folder, SpireServer(Path(folder)).running() as server:
        yield server


async def until(holds: Callable[[], object]) -> None:
    """Wait for what SPIRE tells nobody of."""
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 nobody could set an event
            await asyncio.sleep(0.2)


def test_the_bundle_of_a_spire_server_is_followed_over_a_rotation_of_its_authority(
    spire: SpireServer, tmp_path: Path
) -> None:
    async def story() -> None:
        file = tmp_path / "acme.json"
        file.write_text(spire.ask("bundle", "show", "-format", "spiffe"))
        first = bundle_from_json(file.read_bytes(), ACME)
        told: list[Trust] = []
        bundles = FederatedBundles(changed=told.append, state=tmp_path / "state", times=QUICK)
        endpoint = Endpoint(url=spire.url, server=SPIRE)
        await bundles.configure([Relationship(trust_domain=ACME, bundle_file=file, endpoint=endpoint)])
        task = asyncio.create_task(bundles.run())
        await until(lambda: bundles.status()[0].origin is Origin.ENDPOINT)
        assert bundles.status()[0].endpoint_error is None
        prepared = json.loads(
            await asyncio.to_thread(spire.ask, "localauthority", "x509", "prepare", "-output", "json")
        )
        await until(lambda: len(told[-1].bundles[ACME].x509_authorities) == 2)
        assert set(first.x509_authorities) < set(told[-1].bundles[ACME].x509_authorities)
        # From now on the server's own SVID is of the new authority, which only the bundle that was fetched knows.
        authority = prepared["prepared_authority"]["authority_id"]
        await asyncio.to_thread(spire.ask, "localauthority", "x509", "activate", "-authorityID", authority)
        before = bundles.status()[0].last_success
        await until(lambda: bundles.status()[0].last_success != before)
        assert bundles.status()[0].endpoint_error is None
        for server in (SpiffeId.parse("spiffe://acme.example/spire/agent"), SpiffeId.parse("spiffe://acme.example/x")):
            with pytest.raises(FederationError, match="the server is"):
                await BundleClient().fetch(Endpoint(url=spire.url, server=server), bundles.trust)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())


def test_a_spire_server_follows_our_bundle_endpoint(spire: SpireServer, tmp_path: Path) -> None:
    async def story() -> None:
        ours, next_one = new_authority(SHOP), new_authority(SHOP)
        hint = timedelta(seconds=1)
        served = bundle_of(ours, sequence=1, refresh_hint=hint, trust_domain=SHOP)
        svid = svid_of(ours, OURS)
        (tmp_path / "shop.json").write_bytes(served.to_json())
        async with serving(lambda: served, SvidCertificate(lambda: svid)) as url:
            await asyncio.to_thread(
                spire.ask,
                *("federation", "create", "-trustDomain", "shop.example", "-bundleEndpointURL", url),
                *("-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", str(OURS)),
                *("-trustDomainBundlePath", str(tmp_path / "shop.json"), "-trustDomainBundleFormat", "spiffe"),
            )
            served = bundle_of(ours, next_one, sequence=2, refresh_hint=hint, trust_domain=SHOP)
            wanted = set(served.x509_authorities)

            def known() -> bool:
                shown = spire.ask("bundle", "list", "-id", "spiffe://shop.example", "-format", "spiffe")
                document = re.search(r"\{.*\}", shown, re.DOTALL)
                assert document is not None
                return set(bundle_from_json(document[0].encode(), SHOP).x509_authorities) == wanted

            await asyncio.to_thread(spire.ask, "federation", "refresh", "-id", "spiffe://shop.example")
            await until(known)

    asyncio.run(story())
