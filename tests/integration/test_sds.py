"""Real Envoys whose SVIDs and bundles come from a Workload API, over our sidecar's SDS: rotation, loss and refusal."""

from __future__ import annotations

import logging
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_spiffe_validator_config_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from authz.proxy.addresses import UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.sidecar.control.control_services import ControlServices
from authz.sidecar.control.sds_resources import SECRET_TYPE, SdsResource, SdsResources
from authz.sidecar.control.sds_server import SdsServer
from authz.svid_files import write_svid
from authz.workload_api.received import received_x509
from tests.support.envoy_process import PATIENCE_S, EnvoyProcess
from tests.support.sds_mesh import IDS, POLICIES, Load, SdsMesh
from tests.support.sidecar_process import SidecarProcess
from tests.support.sidecar_specs import sidecar
from tests.support.workload_api_messages import authority, issued, response, svid
from tests.support.workload_api_source import WorkloadApiSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.identity.authority import Authority
    from authz.sidecar.control.sds_exchange import Verdict

_log = logging.getLogger(__name__)
pytestmark = pytest.mark.envoy

ROTATIONS = 8


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder whose path leaves room for those of sockets."""
    made = Path(tempfile.mkdtemp(prefix="sds-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def sockets(source: WorkloadApiSource) -> dict[str, str]:
    return {name: source.socket(name) for name in IDS}


@pytest.mark.parametrize("delta", [False, True], ids=["state-of-the-world", "delta"])
def test_eight_rotations_of_the_keys_and_one_of_the_root_under_load_lose_no_call(folder: Path, *, delta: bool) -> None:
    with WorkloadApiSource(folder, IDS) as source, SdsMesh(folder, sockets(source), delta=delta) as mesh:
        seen = [mesh.serials()]
        with Load(mesh) as load:
            for _ in range(ROTATIONS):
                source.rotate()
                seen.append(mesh.wait_for_other(seen[-1]))
                mesh.wait_for_handshake()
            old, new = source.issuing, authority()
            # With overlap: first everybody trusts the new one, then it signs, then the old one goes.
            before = mesh.updates()
            source.trusted = [old, new]
            source.tell_bundle()
            mesh.wait(lambda: all(count > before[name] for name, count in mesh.updates().items()))
            source.issuing = new
            source.rotate()
            seen.append(mesh.wait_for_other(seen[-1]))
            mesh.wait_for_handshake()
            before = mesh.updates()
            source.trusted = [new]
            source.tell_bundle()
            mesh.wait(lambda: all(count > before[name] for name, count in mesh.updates().items()))
            mesh.wait_for_handshake()
        handshakes = mesh.handshakes()
        assert load.failed == []
        assert len({one["orders"] for one in seen}) == ROTATIONS + 2
        _log.info("%d calls over %d connections, none failed", len(load.made), handshakes)


def test_when_the_source_is_gone_calls_go_on_until_the_svid_ends_and_not_beyond(folder: Path) -> None:
    with (
        WorkloadApiSource(folder, IDS, lifetime=timedelta(seconds=20)) as source,
        SdsMesh(folder, sockets(source)) as mesh,
    ):
        before = mesh.serials()
        source.rotate()
        mesh.wait_for_other(before)
        assert mesh.call().status == 200
        source.stop()
        for name in IDS:
            mesh.wait(lambda name=name: mesh.identity(name)["stale"])
        assert "UNAVAILABLE" in str(mesh.identity("orders")["fault"])
        ends = [_ns(str(mesh.identity(name)["not_after"])) for name in IDS]
        with Load(mesh, a_second=40, connections=4) as load:
            mesh.wait(lambda: load.made and load.made[-1].began_ns > max(ends) + 2_000_000_000)
        early = [one for one in load.made if one.ended_ns < min(ends)]
        # The end is a whole second, all of which belongs to the validity for who reads the certificate alone.
        late = [one for one in load.made if one.began_ns > max(ends) + 1_000_000_000]
        assert early
        assert [one for one in early if one.status != 200] == []
        assert late
        assert 200 not in {one.status for one in late}
        mesh.wait(lambda: not mesh.status("orders")["ready"])
        assert "expired" in str(mesh.identity("orders")["fault"])
        assert float(str(mesh.identity("orders")["lag"])) > 0
        source.start()
        source.rotate()
        mesh.wait(lambda: mesh.status("orders")["ready"] and mesh.status("catalog")["ready"])
        mesh.wait(lambda: mesh.call().status == 200)


def test_what_envoy_refuses_is_said_and_it_goes_on_with_what_it_has(folder: Path) -> None:
    verdicts: list[Verdict] = []
    services = ControlServices()
    server = SdsServer(
        str(folder / "sds.sock"), judged=lambda verdict: services.hand_over(lambda: verdicts.append(verdict))
    )
    services.add(server)
    services.start()
    by = authority()
    good, other, late = (_resources(by) for _ in range(3))
    broken = SdsResources(by_name={**other.by_name, "svid": _with_key_of(other, late)})
    configuration = folder / "envoy.json"
    spec = replace(sidecar(), admin=UnixAddress(path=str(folder / "admin.sock")), sds_socket=str(folder / "sds.sock"))
    configuration.write_text(
        sidecar_bootstrap(
            replace(spec, inbound=UnixAddress(path=str(folder / "in")), outbound=UnixAddress(path=str(folder / "out")))
        )
    )
    try:
        services.call(lambda: server.replace(good))
        with EnvoyProcess(configuration, str(folder / "admin.sock")) as envoy:
            before = envoy.ask("/certs")[1]
            services.call(lambda: server.replace(broken))
            refused = _verdict(services, verdicts, lambda one: one.fault is not None)
            assert refused.names == ("svid",)
            assert "key" in str(refused.fault).lower()
            assert envoy.ask("/certs")[1] == before
            assert envoy.is_ready()
            verdicts.clear()
            services.call(lambda: server.replace(late))
            assert _verdict(services, verdicts, lambda one: one.names == ("svid",)).fault is None
            assert envoy.ask("/certs")[1] != before
    finally:
        services.stop()


def _resources(by: Authority) -> SdsResources:
    received = received_x509(response(svid(by)), datetime.now(UTC))
    return SdsResources.of(received.svids[0], received.trust)


def _with_key_of(one: SdsResources, other: SdsResources) -> SdsResource:
    """Give the SVID of the one with the key of the other, as nothing of ours would serve it."""
    mixed, key = (secret_pb2.Secret.FromString(each.by_name["svid"].secret.value) for each in (one, other))
    mixed.tls_certificate.private_key.CopyFrom(key.tls_certificate.private_key)
    packed = any_pb2.Any(type_url=SECRET_TYPE, value=mixed.SerializeToString())
    return SdsResource(name="svid", version="mixed", secret=packed)


def _verdict(services: ControlServices, verdicts: list[Verdict], wanted: Callable[[Verdict], bool]) -> Verdict:
    while True:
        services.look()
        services.bell.answer()
        for verdict in verdicts:
            if wanted(verdict):
                return verdict
        assert select.select([services.bell.descriptor], [], [], PATIENCE_S)[0], verdicts


def test_control_killed_under_load_loses_no_call_and_sds_is_back(folder: Path) -> None:
    with WorkloadApiSource(folder, IDS) as source, SdsMesh(folder, sockets(source)) as mesh:
        seen = mesh.serials()
        with Load(mesh) as load:
            for name, sidecar in mesh.sidecars.items():
                (control,) = sidecar.forked()["authz-control"]
                os.kill(control, signal.SIGKILL)
                mesh.wait(lambda: sidecar.forked().get("authz-control", [control]) != [control])  # noqa: B023 used at once
                assert name in IDS
            source.rotate()
            mesh.wait_for_other(seen)
        assert load.failed == []


def test_before_the_first_svid_sidecar_and_envoy_are_not_ready_and_then_they_are(folder: Path) -> None:
    source = WorkloadApiSource(folder, IDS)
    with SdsMesh(folder, sockets(source), awaited=False) as mesh:
        mesh.sidecars["orders"].wait_for("no identity yet")
        assert mesh.status("orders")["ready"] is False
        identity = mesh.identity("orders")
        assert (identity["spiffe_id"], identity["stale"]) == (None, True)
        envoys = list(mesh.envoys.values())
        assert not any(envoy.is_ready() for envoy in envoys)
        with source:
            for envoy in envoys:
                mesh.wait(envoy.is_ready)
            mesh.wait(lambda: mesh.status("orders")["ready"] is True)
            mesh.wait(lambda: mesh.call().status == 200)


def test_the_socket_is_the_owners_alone_and_serves_who_asks_once(folder: Path) -> None:
    with WorkloadApiSource(folder, IDS) as source, SdsMesh(folder, sockets(source)) as mesh:
        socket = folder / "orders" / "sds.sock"
        assert oct(socket.stat().st_mode & 0o777) == "0o600"
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            ask = channel.unary_unary("/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets")
            request = discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE, resource_names=["default", "ROOTCA", "x"])
            answer = discovery_pb2.DiscoveryResponse.FromString(ask(request.SerializeToString(), timeout=30))
            assert len(answer.resources) == 2
            with pytest.raises(grpc.RpcError) as raised:
                ask(b"\xff\xff", timeout=30)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert mesh.call().status == 200
        files = folder / "orders" / "svid"
        assert {oct((files / name).stat().st_mode & 0o777) for name in ("svid.pem", "key.pem", "bundle.pem")} == {
            "0o600"
        }


def _ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000


def test_the_embedded_issuer_is_such_a_source_and_rotates_under_load(folder: Path) -> None:
    policies = folder / "policies"
    policies.mkdir()
    (policies / "shop.yaml").write_text(POLICIES)
    places = {name: str(folder / f"{name}-api.sock") for name in IDS}
    command = ["identity", "serve", "--policies", str(policies), "--socket", str(folder / "api.sock"), "--in-memory"]
    command += [word for name, place in places.items() for word in ("--workload-socket", f"{name}={place}")]
    with (folder / "issuer.log").open("wb") as log:
        issuer = subprocess.Popen(
            [sys.executable, "-m", "authz", *command, "--svid-lifetime", "20s"], stdout=log, stderr=log
        )
    try:
        with SdsMesh(folder, places) as mesh:
            assert mesh.call().status == 200
            with Load(mesh, a_second=50) as load:
                seen = mesh.serials()
                for _ in range(2):
                    seen = mesh.wait_for_other(seen)
                    mesh.wait_for_handshake()
            assert load.failed == []
            assert mesh.identity("orders")["fault"] is None
    finally:
        issuer.terminate()
        issuer.wait(PATIENCE_S)


def _domains(socket: Path) -> set[str]:
    """Give the trust domains whose peers an Envoy would believe now."""
    request = discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE, resource_names=["trust"])
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        ask = channel.unary_unary("/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets")
        answer = discovery_pb2.DiscoveryResponse.FromString(ask(request.SerializeToString(), timeout=30))
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    for resource in answer.resources:
        secret_pb2.Secret.FromString(resource.value).validation_context.custom_validator_config.typed_config.Unpack(
            config
        )
    return {one.name for one in config.trust_domains}


def test_a_trust_domain_that_leaves_federates_is_taken_from_envoy(folder: Path) -> None:
    with WorkloadApiSource(folder, IDS) as source, SdsMesh(folder, sockets(source)) as mesh:
        source.federate("acme.example")
        socket, policies = folder / "catalog" / "sds.sock", folder / "policies" / "shop.yaml"
        alone = policies.read_text()
        federated = alone.replace(
            "trustDomains: [shop.example]",
            "trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]",
        )
        assert _domains(socket) == {"shop.example"}, "delivered, and not named"
        policies.write_text(federated)
        mesh.wait(lambda: _domains(socket) == {"shop.example", "acme.example"})
        policies.write_text(alone)
        mesh.wait(lambda: _domains(socket) == {"shop.example"})


def test_a_federated_bundle_that_the_source_does_not_deliver_is_the_policies_own(folder: Path) -> None:
    with WorkloadApiSource(folder, IDS) as source, SdsMesh(folder, sockets(source)) as mesh:
        socket, policies = folder / "catalog" / "sds.sock", folder / "policies" / "shop.yaml"
        (folder / "policies" / "acme.pem").write_bytes(authority("acme.example").certificate_pem)
        federates = "trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]"
        policies.write_text(policies.read_text().replace("trustDomains: [shop.example]", federates))
        mesh.wait(lambda: _domains(socket) == {"shop.example", "acme.example"})


def test_no_private_key_is_in_anything_that_sidecar_and_envoy_write_but_the_files_that_were_asked_for(
    folder: Path,
) -> None:
    with WorkloadApiSource(folder, IDS) as source, SdsMesh(folder, sockets(source)) as mesh:
        before = mesh.serials()
        source.rotate()
        mesh.wait_for_other(before)
        assert mesh.call().status == 200
        secrets = [mesh.envoys[name].ask("/config_dump?include_eds")[1] for name in IDS]
        assert not any("PRIVATE KEY" in dumped for dumped in secrets)
    written = [path for path in folder.rglob("*") if path.is_file() and path.name != "key.pem"]
    assert len(written) > 5
    assert not [path for path in written if b"PRIVATE KEY" in path.read_bytes()]


def test_svid_files_are_a_source_for_sds_and_are_followed(folder: Path) -> None:
    by = authority()
    policies = folder / "policies"
    policies.mkdir()
    (policies / "shop.yaml").write_text(POLICIES)
    write_svid(folder / "svid", issued(by), by.certificate_pem)
    socket = folder / "sds.sock"
    arguments = ["--identity", f"files:{folder}/svid", "--sds-socket", str(socket)]
    with SidecarProcess(*arguments, service="orders", policies=policies, folder=folder) as sidecar:
        sidecar.wait_for("READY=1")
        first = _served(socket, b"")
        assert first in _der(folder / "svid")
        write_svid(folder / "svid", issued(by), by.certificate_pem)
        assert _served(socket, first) in _der(folder / "svid")
        assert _domains(socket) == {"shop.example"}
        assert sidecar.stop() == 0


def _served(socket: Path, other_than: bytes) -> bytes:
    """Wait for a certificate that SDS serves, other than one; gives its PEM."""
    request = discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE, resource_names=["svid"])
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        stream = channel.stream_stream("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets")
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        requests.put(request.SerializeToString())
        for content in stream(iter(requests.get, None), timeout=PATIENCE_S):
            answer = discovery_pb2.DiscoveryResponse.FromString(content)
            secret = secret_pb2.Secret.FromString(answer.resources[0].value)
            served: bytes = secret.tls_certificate.certificate_chain.inline_bytes
            if served != other_than:
                requests.put(None)
                return served
    raise AssertionError("the stream has ended")


def _der(directory: Path) -> bytes:
    return (directory / "svid.pem").read_bytes()


def test_a_source_of_files_without_a_key_is_refused_at_the_start_with_the_file_that_is_missing(folder: Path) -> None:
    by = authority()
    policies = folder / "policies"
    policies.mkdir()
    (policies / "shop.yaml").write_text(POLICIES)
    (folder / "svid").mkdir(mode=0o700)
    (folder / "svid" / "svid.pem").write_bytes(issued(by).certificate_pem)
    (folder / "svid" / "bundle.pem").write_bytes(by.certificate_pem)
    arguments = ["--identity", f"files:{folder}/svid", "--sds-socket", str(folder / "sds.sock")]
    with SidecarProcess(*arguments, service="orders", policies=policies, folder=folder) as sidecar:
        assert sidecar.wait() == 2
        assert "svid/key.pem: no such file" in sidecar.errors.read_text()
