"""Listeners in a file: what stands there, what the bootstrap says of it, and the chain of held calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.listener_file import listeners_file
from authz.proxy.listener_names import HELD_SERVER_NAME
from authz.proxy.spec import ServiceDestination
from tests.support.sidecar_specs import LOCAL, draining_sidecar, sidecar

CATALOG = ServiceDestination(name="catalog", identities=("spiffe://shop.example/catalog",), address=LOCAL)
SPEC = draining_sidecar(destinations=(CATALOG,))


def listeners() -> dict[str, Any]:
    return {one["name"]: one for one in json.loads(listeners_file(SPEC))["resources"]}


def chain(listener: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in listeners()[listener]["filter_chains"] if one["name"] == name)
    return dict(found)


def manager(listener: str, name: str) -> dict[str, Any]:
    return dict(chain(listener, name)["filters"][0]["typed_config"])


def routes(listener: str, name: str) -> list[dict[str, Any]]:
    return [route for host in manager(listener, name)["route_config"]["virtual_hosts"] for route in host["routes"]]


def test_without_a_directory_of_listeners_they_stand_in_the_bootstrap_and_are_told_nothing_of() -> None:
    bootstrap = json.loads(sidecar_bootstrap(sidecar(destinations=(CATALOG,))))
    assert "dynamic_resources" not in bootstrap
    assert [one["name"] for one in bootstrap["static_resources"]["listeners"]] == ["inbound", "outbound"]
    text = json.dumps(bootstrap)
    for word in ("access_log_options", "DownstreamPeriodic", HELD_SERVER_NAME, "service_catalog_held", "drained"):
        assert word not in text


def test_with_one_they_are_read_from_there_and_again_when_the_file_is_replaced() -> None:
    bootstrap = json.loads(sidecar_bootstrap(SPEC))
    assert "listeners" not in bootstrap["static_resources"]
    source = bootstrap["dynamic_resources"]["lds_config"]["path_config_source"]
    assert source == {
        "path": "/run/envoy/listeners/listeners.json",
        "watched_directory": {"path": "/run/envoy/listeners"},
    }
    assert set(listeners()) == {"inbound", "outbound"}


@pytest.mark.parametrize(("listener", "name"), [("inbound", "main"), ("inbound", "held"), ("outbound", "main")])
def test_each_chain_has_a_name_a_number_and_calls_that_tell_of_themselves(listener: str, name: str) -> None:
    assert chain(listener, name)["metadata"] == {"filter_metadata": {"authz": {"drained": 0}}}
    of = manager(listener, name)
    assert of["access_log_options"] == {"access_log_flush_interval": "1s"}
    *chosen, every = of["access_log"]
    types = [one["filter"]["and_filter"]["filters"][0]["log_type_filter"]["types"] for one in chosen]
    assert types == [["DownstreamEnd"], ["DownstreamPeriodic"]]
    assert "filter" not in every


def test_held_calls_go_to_their_own_chain_and_all_others_to_the_main_one() -> None:
    clusters = {one["name"]: one for one in json.loads(sidecar_bootstrap(SPEC))["static_resources"]["clusters"]}
    assert clusters["service_catalog_held"]["transport_socket"]["typed_config"]["sni"] == HELD_SERVER_NAME
    assert "sni" not in clusters["service_catalog"]["transport_socket"]["typed_config"]
    assert chain("inbound", "held")["filter_chain_match"] == {"server_names": [HELD_SERVER_NAME]}
    assert "filter_chain_match" not in chain("inbound", "main")
    for route in routes("outbound", "main"):
        if "route" in route:
            held = any(one["name"] == "x-authz-hold" for one in route["match"].get("headers", []))
            assert route["route"]["cluster"] == ("service_catalog_held" if held else "service_catalog")


def test_nothing_goes_on_by_the_chain_of_held_calls_that_is_not_held() -> None:
    said = manager("inbound", "held")["route_config"]["typed_per_filter_config"]["envoy.filters.http.ext_authz"]
    assert said["check_settings"]["context_extensions"]["held"] == "all"
    others = manager("inbound", "main")["route_config"]["typed_per_filter_config"]["envoy.filters.http.ext_authz"]
    assert "held" not in others["check_settings"]["context_extensions"]
    leading = [route for route in routes("inbound", "held") if "route" in route]
    assert leading
    for route in leading:
        assert any(one["name"] == "x-authz-hold" for one in route["match"]["headers"])
