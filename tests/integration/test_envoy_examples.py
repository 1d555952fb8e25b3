"""The examples of envoy/ are what the program prints, Envoy takes them, and the README's fragments make a whole."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration

from authz.cli.main import main
from authz.policy_folder import load_policy_folder
from authz.proxy import hardening
from authz.proxy.access_log import access_log_clusters, all_calls, cut_calls, failed_handshakes
from authz.proxy.addresses import TcpAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.check_filter import authz_cluster, check_extensions, check_filter
from authz.proxy.hold_filter import hold_clusters, hold_filters, not_held
from authz.proxy.peer_clock import clock_filter, received_here
from authz.proxy.rendering import rendered
from authz.proxy.route import inbound_routes
from authz.proxy.spec import ServiceDestination, ThirdPartyDestination, ThirdPartyHost
from authz.request import Direction
from authz.sidecar.listening_socket import worker_sockets
from tests.support.configuration_files import ContainerFiles
from tests.support.envoy_process import validation
from tests.support.sidecar_specs import LOCAL, sidecar

if TYPE_CHECKING:
    import betterproto2

    from authz.proxy.spec import SidecarSpec

pytestmark = pytest.mark.envoy

ROOT = Path(__file__).parents[2]
README = (ROOT / "envoy/README.md").read_text()
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
SERVICES = ("catalog", "gateway", "orders", "payments", "storefront")


def fragments() -> dict[str, Any]:
    """Give the YAML fragments of the README by the name in their first line."""
    blocks = re.findall(r"```yaml\n +# fragment: (\w+)\n(.*?)```", README, re.DOTALL)
    return {name: yaml.safe_load(text) for name, text in blocks}


def commands() -> dict[str, list[str]]:
    """Give the README's `authz envoy` commands, one for each file that they write."""
    block = next(block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "authz envoy" in block)
    (loop, names) = re.findall(r"for service in ([a-z ]+); do\n(.*?)\ndone", block.replace("\\\n", " "), re.DOTALL)[0]
    lines = [names.replace("$service", name) for name in loop.split()]
    lines += [line for line in block.splitlines() if line.startswith("authz envoy ")]
    parsed = [shlex.split(line) for line in lines]
    return {words[-1]: words[1:-2] for words in parsed}


def test_there_is_an_example_for_every_service_of_the_shop() -> None:
    assert tuple(one.name for one in load_policy_folder(str(ROOT / "policies")).services) == SERVICES
    assert set(commands()) == {f"envoy/{name}.json" for name in (*SERVICES, "svid", "orders-sds")}


@pytest.mark.parametrize("file", sorted(commands()))
def test_each_example_is_what_the_readmes_command_prints(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(commands()[file]) == 0
    assert (ROOT / file).read_text() == capsys.readouterr().out


@pytest.mark.parametrize("name", [*SERVICES, "edge", "orders-sds"])
def test_envoy_takes_each_example(name: str, tmp_path: Path) -> None:
    files = ContainerFiles(tmp_path)
    files.moved(ROOT / "envoy/svid.json", files.mounts)
    said = validation(files.moved(ROOT / f"envoy/{name}.json", files.mounts))
    assert said.returncode == 0, said.stderr
    assert "deprecated" not in said.stderr


def test_envoy_takes_the_longest_names_of_the_language(tmp_path: Path) -> None:
    label = "a" * 63
    host = ".".join([label, label, label, "b" * 61])
    domain = ".".join([label, label, label, "c" * 60])
    pattern = f"spiffe://{domain}/" + "/".join(["*", "d" * 200] * 8) + "/**"
    service = ServiceDestination(name=label, hosts=(host,), identities=(pattern,), address=LOCAL)
    party = ThirdPartyDestination(
        name="party",
        hosts=(ThirdPartyHost(name=host[2:]), ThirdPartyHost(name=host[4:], wildcard=True, port=8443)),
        authority_file="/run/partners/api.acme.example.pem",
        address=LOCAL,
    )
    files = ContainerFiles(tmp_path)
    files.moved(ROOT / "envoy/svid.json", files.mounts)
    spec = replace(
        sidecar(destinations=(service,), third_parties=(party,)), outbound=TcpAddress(host="127.0.0.1", port=8081)
    )
    (tmp_path / "longest.json").write_text(sidecar_bootstrap(spec))
    said = validation(files.moved(tmp_path / "longest.json", files.mounts))
    assert said.returncode == 0, said.stderr


def as_json(message: betterproto2.Message) -> Any:
    return json.loads(rendered(message))


def _without_modes(cluster: Any) -> Any:
    """Leave out modes: they are for sockets that Envoy makes, and say nothing where it connects."""
    for endpoint in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
        del endpoint["endpoint"]["address"]["pipe"]["mode"]
    return cluster


def untold(spec: SidecarSpec) -> list[Route]:
    """Give the inbound routes of calls whose answer does not say when they came."""
    return [route for route in inbound_routes(spec).virtual_hosts[0].routes if not route.response_headers_to_add]


def test_the_fragments_are_what_the_program_writes() -> None:
    told = fragments()
    assert told["cluster"] == _without_modes(as_json(authz_cluster(worker_sockets("/run/authz/check.sock", 2))))
    assert told["check"] == as_json(check_filter(Direction.INBOUND))
    spec = replace(sidecar(), access_log_socket="/run/authz/access-log.sock")
    (log,), (receiver,) = failed_handshakes(spec), access_log_clusters(spec)
    assert told["handshakes"] == as_json(log)
    (cuts,) = cut_calls(replace(spec, identity="spiffe://shop.example/ns/shop/sa/orders"), Direction.INBOUND)
    assert told["cuts"] == as_json(cuts)
    (calls,) = all_calls(spec, Direction.INBOUND)
    assert told["calls"] == as_json(calls)
    assert told["receiver"] == _without_modes(as_json(receiver))
    assert told["removal"] == as_json(hardening.removal_after_the_check())
    assert told["routes"]["routes"] == [as_json(route) for route in untold(spec)[:2]]
    holds = replace(spec, hold_socket="/run/authz/hold.sock")
    (hold,), (holder,) = hold_filters(holds), hold_clusters(holds)
    assert told["hold"] == as_json(hold)
    assert told["holder"] == _without_modes(as_json(holder))
    assert told["held"]["routes"] == [as_json(route) for route in untold(holds)[:2]]
    assert told["unheld"] == as_json(RouteConfiguration(typed_per_filter_config=not_held(holds)))
    extensions = check_extensions(Direction.INBOUND, "orders", "spiffe://shop.example/ns/shop/sa/orders")
    assert told["extensions"] == as_json(RouteConfiguration(typed_per_filter_config=extensions))
    assert told["received"] == as_json(RouteConfiguration(response_headers_to_add=[received_here()]))
    assert told["clock"] == as_json(clock_filter())


def test_the_connection_manager_fragment_is_a_part_of_what_the_program_writes() -> None:
    (inbound, _) = json.loads((ROOT / "envoy/orders.json").read_text())["static_resources"]["listeners"]
    written = inbound["filter_chains"][0]["filters"][0]["typed_config"]
    for name, value in fragments()["manager"].items():
        if name == "common_http_protocol_options":
            assert value.items() <= written[name].items()
        elif value is False:
            assert not written.get(name, False)  # false is what a missing field means
        else:
            assert written[name] == value


def test_the_fragments_fit_into_an_envoy_that_was_there_before(tmp_path: Path) -> None:
    told = fragments()
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    existing = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": MANAGER,
            "stat_prefix": "existing",
            "http_filters": [told["check"], told["hold"], told["removal"], router],
            "route_config": {
                "virtual_hosts": [
                    {"name": "all", "domains": ["*"], "routes": [*told["held"]["routes"], *told["routes"]["routes"]]}
                ],
                "typed_per_filter_config": {
                    **told["extensions"]["typed_per_filter_config"],
                    **told["unheld"]["typed_per_filter_config"],
                },
            },
            "access_log": [told["cuts"]],
            **told["manager"],
        },
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chains = [{"filters": [existing]}]
    listener = {"name": "existing", "address": address, "filter_chains": chains, "access_log": [told["handshakes"]]}
    app = {"name": "app", "type": "STATIC", "load_assignment": {"cluster_name": "app"}}
    clusters = [told["cluster"], told["receiver"], told["holder"], app]
    configuration = tmp_path / "existing.json"
    configuration.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
    said = validation(configuration)
    assert said.returncode == 0, said.stderr
