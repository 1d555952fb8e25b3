"""A hub behind TLS: sidecars and people by their SVIDs, and none of them as somebody else."""

from __future__ import annotations

import http.client
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import write_svid
from tests.support.hub_process import Hub, batch

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def test_whom_nobody_names_and_who_shows_nothing_gets_nothing(place: Place) -> None:
    assert place.ask("/api/v1/edges", place.files("stranger", namespace="elsewhere"))[0] == 403
    assert place.ask("/api/v1/edges", None)[0] == 401
    assert place.ask("/healthz", None)[0] == 200


def test_a_certificate_of_another_authority_is_nobodys(place: Place) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        place.ask("/api/v1/edges", place.files("viewer", authority=place.other, namespace="ops"))
