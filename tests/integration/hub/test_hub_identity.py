"""A hub behind TLS: sidecars and people by their SVIDs, and none of them as somebody else."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from authz.cli.main import main
from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import write_svid
from tests.support.hub_process import PATIENCE_S, Hub, batch, flow, record
from tests.support.workload_api_source import WorkloadApiSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLICIES = Path(__file__).parents[3] / "policies"
SHOP = TrustDomain.parse("shop.example")


class Place:
    """An authority, and a hub that believes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.generate(SHOP, datetime.now(UTC), timedelta(days=1))
        self.other = Authority.generate(SHOP, datetime.now(UTC), timedelta(days=1))
        self.hub_svid = self.files("hub")
        access = folder / "access.json"
        entries = [
            {"identity": "spiffe://shop.example/ns/shop/sa/*", "role": "sidecar"},
            {"identity": "spiffe://shop.example/ns/ops/sa/viewer", "role": "viewer"},
        ]
        access.write_text(json.dumps({"identities": entries}))
        self.hub = Hub(
            *("--identity", f"files:{self.hub_svid}", "--access", str(access), "--policies", str(POLICIES)),
            folder=folder,
        )

    def files(self, name: str, authority: Authority | None = None, namespace: str = "shop") -> Path:
        issuer = authority or self.authority
        spiffe_id = SpiffeId.parse(f"spiffe://shop.example/ns/{namespace}/sa/{name}")
        issued = issuer.issue_x509_svid(spiffe_id, datetime.now(UTC), timedelta(hours=1))
        directory = self.folder / f"{namespace}-{name}-{id(issuer)}"
        write_svid(directory, issued, self.authority.certificate_pem)
        return directory

    def ask(self, path: str, files: Path | None, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.hub_svid / "bundle.pem")
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if files is not None:
            context.load_cert_chain(files / "svid.pem", files / "key.pem")
        connection = http.client.HTTPSConnection("127.0.0.1", self.hub.port, context=context, timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def hub_status(self) -> dict[str, Any]:
        store: dict[str, Any] = self.ask("/api/v1/status", self.files("viewer", namespace="ops"))[1]["store"]
        return store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("hub"))
    with made.hub:
        yield made


def test_an_svid_may_do_what_its_role_says(place: Place) -> None:
    viewer, catalog = place.files("viewer", namespace="ops"), place.files("catalog")
    assert place.ask("/api/v1/edges", viewer)[0] == 200
    assert place.ask("/api/v1/calls", viewer)[0] == 403
    assert place.ask("/intake/v1/batches", viewer, batch(1))[0] == 403
    assert place.ask("/intake/v1/batches", catalog, batch(1)) == (200, {"stored": True})
    assert place.ask("/api/v1/edges", catalog)[0] == 403


def test_a_sidecar_tells_of_its_own_service_only(place: Place) -> None:
    status, body = place.ask("/intake/v1/batches", place.files("orders"), batch(9))
    assert (status, body["error"]) == (403, "a sidecar tells of its own Service only")
    assert "orders" in (place.hub.data / "refused.jsonl").read_text()
    # Its own Service, in the name of another one's sidecar.
    assert place.ask("/intake/v1/batches", place.files("orders"), batch(9, service="orders"))[0] == 403
    assert place.ask("/intake/v1/batches", place.files("orders"), batch(9, sidecar="orders"))[0] == 200


def test_calls_of_other_services_that_a_sidecar_tells_of_are_refused_and_counted(place: Place) -> None:
    before = place.hub_status()
    forged = {"service": "payments", "third_party": None, "host": "payments"}
    outbound = {"direction": "outbound", "sidecar": "orders"}
    flows = [
        flow(target="orders", count=3),
        flow("admin", **outbound, destination=forged, count=50),
        flow(target="orders", destination=forged, count=7),
    ]
    records = [record(900, target="orders"), record(901, target="orders", destination=forged)]
    told = batch(1, flows, records, sidecar="orders")
    assert place.ask("/intake/v1/batches", place.files("orders"), told) == (200, {"stored": True})
    assert place.hub_status()["foreign"] - before["foreign"] == 50 + 7 + 1
    viewer = place.files("viewer", namespace="ops")
    edges = {(each["from"], each["to"]) for each in place.ask("/api/v1/edges", viewer)[1]["edges"]}
    assert ("storefront", "orders") in edges
    assert not any("payments" in ends for ends in edges)


def test_whom_nobody_names_and_who_shows_nothing_gets_nothing(place: Place) -> None:
    assert place.ask("/api/v1/edges", place.files("stranger", namespace="elsewhere"))[0] == 403
    assert place.ask("/api/v1/edges", None)[0] == 401
    assert place.ask("/healthz", None)[0] == 200


def test_a_certificate_of_another_authority_is_nobodys(place: Place) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        place.ask("/api/v1/edges", place.files("viewer", authority=place.other, namespace="ops"))


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(words)
    out, err = capsys.readouterr()
    return status, out, err


def test_commands_ask_by_an_svid_and_are_told_what_it_may(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    viewer = f"files:{place.files('viewer', namespace='ops')}"
    for command in ("map", "status"):
        status, out, _ = asked(capsys, command, "--hub", place.hub.url, "--identity", viewer, "-o", "json")
        assert status in {0, 1}
        assert json.loads(out)
    status, _, err = asked(capsys, "observe", "--hub", place.hub.url, "--identity", viewer)
    assert status == 2
    assert "it does not take the SVID of --identity for this (status 403: the role `security` is needed)" in err


def test_a_command_tells_nothing_to_a_hub_of_another_trust_domain(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    foreign = TrustDomain.parse("evil.example")
    authority = Authority.generate(foreign, datetime.now(UTC), timedelta(days=1))
    identity = SpiffeId.parse("spiffe://evil.example/viewer")
    issued = authority.issue_x509_svid(identity, datetime.now(UTC), timedelta(hours=1))
    write_svid(tmp_path / "svid", issued, authority.certificate_pem)
    status, _, err = asked(capsys, "map", "--hub", place.hub.url, "--identity", f"files:{tmp_path / 'svid'}")
    assert status == 2
    assert "its certificate is not believed" in err


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ("files:/nowhere", "--identity: files:/nowhere"),
        ("spire:/nowhere/agent.sock", "--identity: spire:/nowhere/agent.sock"),
        ("unix", "give spire:SOCKET or files:DIR"),
    ],
)
def test_an_identity_that_is_not_there_is_said(
    identity: str, message: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = asked(capsys, "map", "--hub", place.hub.url, "--identity", identity)
    assert status == 2
    assert message in err
    assert "https only" not in err


def test_an_svid_is_shown_over_https_only(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    viewer = f"files:{place.files('viewer', namespace='ops')}"
    plain = place.hub.url.replace("https:", "http:")
    status, _, err = asked(capsys, "map", "--hub", plain, "--identity", viewer)
    assert (status, "over https only" in err) == (2, True)


def test_hub_and_commands_have_their_svids_from_a_workload_api_and_follow_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = {"hub": "spiffe://shop.example/ns/ops/sa/hub", "viewer": "spiffe://shop.example/ns/ops/sa/viewer"}
    access = tmp_path / "access.json"
    access.write_text(json.dumps({"identities": [{"identity": ids["viewer"], "role": "viewer"}]}))
    with WorkloadApiSource(tmp_path, ids) as source:
        hub = Hub("--identity", f"spire:{source.socket('hub')}", "--access", str(access), folder=tmp_path)
        with hub:
            words = ("map", "--hub", hub.url, "--identity", f"spire:{source.socket('viewer')}", "-o", "json")
            assert asked(capsys, *words)[0] == 0
            before = shown_serial(hub.port)
            source.rotate()
            eventually(lambda: shown_serial(hub.port) != before)
            assert asked(capsys, *words)[0] == 0


def shown_serial(port: int) -> int:
    """Give the serial number of the certificate that the hub shows now."""
    pem = ssl.get_server_certificate(("127.0.0.1", port))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def eventually(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.05)
