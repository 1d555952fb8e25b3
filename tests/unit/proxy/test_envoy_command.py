"""`authz envoy`, in process: what it prints, and what it refuses in one line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from authz.cli.main import main
from authz.proxy.tls import svid_secret

if TYPE_CHECKING:
    from pathlib import Path

SET = """
apiVersion: authz/v1
kind: Mesh
metadata: {name: shop}
spec: {trustDomains: [shop.example, two.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: orders}
spec: {identities: ["spiffe://shop.example/orders", "spiffe://two.example/*/orders"]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: worker}
spec: {identities: ["spiffe://shop.example/worker/**"]}
---
apiVersion: authz/v1
kind: ThirdParty
metadata: {name: acme}
spec:
  hosts: [api.acme.example, "*.cdn.example"]
  tls: TLSv1_3
  window: {opens: 2026-01-01T00:00:00Z, closes: 2099-01-01T00:00:00Z}
"""


@pytest.fixture
def policies(tmp_path: Path) -> str:
    (tmp_path / "set.yaml").write_text(SET)
    return str(tmp_path)


@pytest.fixture
def printed(policies: str, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> tuple[int, str, str]:
        status = main(["envoy", *words, "--policies", policies])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


ACME = ("--third-party", "acme=egress.example:8443")


def cluster(text: str, name: str) -> Any:
    return next(one for one in json.loads(text)["static_resources"]["clusters"] if one["name"] == name)


def address(of: Any) -> Any:
    (endpoint,) = of["load_assignment"]["endpoints"][0]["lb_endpoints"]
    return endpoint["endpoint"]["address"]


def test_a_complete_bootstrap_is_printed(printed: Any) -> None:
    status, text, errors = printed("orders", *ACME)
    assert (status, errors) == (0, "")
    bootstrap = json.loads(text)
    assert bootstrap["node"] == {"id": "spiffe://shop.example/orders", "cluster": "orders"}
    assert [one["name"] for one in bootstrap["static_resources"]["listeners"]] == ["inbound", "outbound"]
    assert address(cluster(text, "service_worker")) == {"socket_address": {"address": "worker", "port_value": 15006}}
    assert cluster(text, "service_worker")["cluster_type"]["name"] == "envoy.clusters.dns"
    files = {f"/run/svid/bundle{infix}.pem" for infix in ("", ".two.example", ".acme.example")}
    assert {word for word in text.split('"') if "bundle" in word and word.endswith(".pem")} == files


def test_the_flags_say_where_things_are(printed: Any) -> None:
    status, text, errors = printed(
        *("worker", *ACME, "--spiffe-id", "spiffe://shop.example/worker/7", "--bundle", "acme.example=/b/acme.pem"),
        *("--inbound", "[::]:1", "--outbound", "unix:/o.sock", "--app", "app:3", "--admin", "unix:/a.sock"),
        *("--authz-socket", "/1.sock", "--authz-socket", "/2.sock", "--svid-dir", "/s", "--svid-secret", "/e/s.json"),
        *("--authorities", "/ca.pem", "--peer-port", "7", "--peer-host-template", "{service}.mesh"),
        *("--access-log-socket", "/l.sock"),
    )
    assert (status, errors) == (0, "")
    assert json.loads(text)["node"]["id"] == "spiffe://shop.example/worker/7"
    inbound, outbound = (one["address"] for one in json.loads(text)["static_resources"]["listeners"])
    assert inbound == {"socket_address": {"address": "::", "port_value": 1}}
    assert outbound == {"pipe": {"path": "/o.sock", "mode": 0o600}}
    assert address(cluster(text, "app")) == {"socket_address": {"address": "app", "port_value": 3}}
    assert address(cluster(text, "service_orders")) == {"socket_address": {"address": "orders.mesh", "port_value": 7}}
    for file in (
        "/1.sock",
        "/2.sock",
        "/s/bundle.pem",
        "/s/bundle.two.example.pem",
        "/b/acme.pem",
        "/e/s.json",
        "/ca.pem",
        "/l.sock",
    ):
        assert f'"{file}"' in text
    assert '"tls_minimum_protocol_version": "TLSv1_3"' in text


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        ((), ["/run/authz/check.sock", "/run/authz/check.sock.2"]),
        (("--workers", "1"), ["/run/authz/check.sock"]),
        (("--workers", "3", "--authz-socket", "/a"), ["/a", "/a.2", "/a.3"]),
        (("--authz-socket", "/a", "--authz-socket", "/b", "--authz-socket", "/c"), ["/a", "/b", "/c"]),
    ],
)
def test_each_worker_of_the_sidecar_is_an_endpoint(printed: Any, words: tuple[str, ...], paths: list[str]) -> None:
    status, text, _ = printed("orders", *ACME, *words)
    assert status == 0
    authz = cluster(text, "authz")
    endpoints = authz["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert [one["endpoint"]["address"]["pipe"]["path"] for one in endpoints] == paths
    assert ("outlier_detection" in authz) == (len(paths) > 1)


def test_callers_without_spiffe_ids_have_a_door_where_one_is_wanted(printed: Any) -> None:
    status, text, errors = printed("orders", *ACME, "--sds-socket", "/s", "--third-party-inbound", "[::]:15007")
    assert (status, errors) == (0, "")
    inbound = json.loads(text)["static_resources"]["listeners"][0]
    (door,) = (one["address"] for one in inbound["additional_addresses"])
    assert door == {"socket_address": {"address": "::", "port_value": 15007}}
    assert inbound["filter_chains"][1]["filter_chain_match"] == {"destination_port": 15007}


def test_the_listeners_are_a_file_of_their_own_where_one_is_wanted(printed: Any) -> None:
    words = ("orders", *ACME, "--listeners-dir", "/l", "--hold-socket", "/h", "--access-log-socket", "/a")
    status, text, errors = printed(*words)
    assert (status, errors) == (0, "")
    assert json.loads(text)["dynamic_resources"]["lds_config"]["path_config_source"]["path"] == "/l/listeners.json"
    status, text, errors = printed(*words, "--part", "listeners")
    assert (status, errors) == (0, "")
    assert [one["name"] for one in json.loads(text)["resources"]] == ["inbound", "outbound"]


def test_the_second_file_is_printed_too(printed: Any) -> None:
    assert printed("orders", *ACME, "--part", "svid-secret", "--svid-dir", "/s") == (0, svid_secret("/s"), "")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("nobody",), "there is no Service `nobody` in the policy set"),
        (("orders", "--egress-socket", ""), "--egress-socket: `` is no path of a unix socket"),
        (("worker", *ACME), "`worker` has identity patterns only"),
        (("orders", *ACME, "--spiffe-id", "spiffe://shop.example/worker/1"), "none of the identities of `orders`"),
        (("orders", *ACME, "--spiffe-id", "orders"), "`orders` does not begin with `spiffe://`"),
        (("orders", *ACME, "--outbound", "nowhere"), "--outbound: `nowhere` is no address"),
        (("orders", *ACME, "--admin", "unix:"), "--admin: `` is no path of a unix socket"),
        (("orders", *ACME, "--peer-port", "many"), "invalid int value"),
        (("orders", *ACME, "--workers", "0"), "--workers 0: give 1 to 16"),
        (("orders", *ACME, "--peer-port", "70000"), "the port `70000` is not between"),
        (("orders", *ACME, "--peer-host-template", "peer"), "has no `{service}` in it"),
        (("orders", *ACME, "--bundle", "else.example=a.pem"), "`else.example` is neither the Mesh's own nor federated"),
        (("orders", *ACME, "--bundle", "acme.example"), "a name, `=` and a value are wanted"),
        (("orders", "--third-party", "nobody=a:1"), "there is no ThirdParty `nobody` with hosts"),
        (("orders", *ACME, "--part", "listeners"), "say with --listeners-dir where the file is to stand"),
        (("orders", *ACME, "--listeners-dir", "/l"), "give --hold-socket and --access-log-socket, too"),
        (("orders", *ACME, "--third-party-inbound", "0.0.0.0:15007"), "with --sds-socket alone"),
        (("orders", *ACME, "--third-party-inbound", "unix:/d", "--sds-socket", "/s"), "give HOST:PORT"),
        (("orders", *ACME, "--third-party-inbound", "0.0.0.0:15006", "--sds-socket", "/s"), "a port of their own"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(printed: Any, words: tuple[str, ...], error: str) -> None:
    status, text, errors = printed(*words)
    assert (status, text) == (2, "")
    assert error in errors
    assert errors.count("\n") == 1


def test_the_addresses_of_third_parties_are_asked_for_where_none_is_given(printed: Any) -> None:
    status, text, _ = printed("orders")
    assert status == 0
    (endpoint,) = cluster(text, "egress")["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["pipe"]["path"] == "/run/authz/egress.sock"
    assert cluster(text, "third_party_acme_any.cdn.example_443")["type"] == "ORIGINAL_DST"
    status, text, _ = printed("orders", *ACME)
    assert (status, '"egress"' in text) == (0, False)
