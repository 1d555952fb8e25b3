"""The configurations of a measurement are ones that Envoy takes, and differ in who decides alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from authz.proxy.addresses import TcpAddress
from tests.bench.check_path import envoys
from tests.bench.check_path.question import ASKED, asked_rules
from tests.bench.check_path.short_calls import OFF, ON, SHORT_CALLS, UNTOLD
from tests.bench.check_path.variants import VARIANTS
from tests.support.envoy_process import validation

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.check_path.variants import Variant

ADDRESSES = envoys.Addresses(
    inbound=TcpAddress(host="127.0.0.1", port=1),
    outbound=TcpAddress(host="127.0.0.1", port=2),
    caller=TcpAddress(host="127.0.0.1", port=3),
)
WITH_AN_APP = replace(ADDRESSES, app=TcpAddress(host="127.0.0.1", port=4))
ONE_OF_EACH = {variant.guard: variant for variant in VARIANTS}.values()


def filters(variant: Variant, folder: Path) -> list[list[str]]:
    document = json.loads(envoys.guarded(variant, ADDRESSES, folder, ("/check.sock",)))
    chains = [listener["filter_chains"][0]["filters"][0] for listener in document["static_resources"]["listeners"]]
    return [[each["name"] for each in chain["typed_config"]["http_filters"]] for chain in chains]


@pytest.mark.envoy
@pytest.mark.parametrize("variant", ONE_OF_EACH, ids=lambda variant: variant.name)
def test_envoy_takes_what_each_guard_is_configured_with(variant: Variant, tmp_path: Path) -> None:
    configuration = tmp_path / "envoy.json"
    configuration.write_text(envoys.guarded(variant, ADDRESSES, tmp_path, ("/check.sock", "/check.sock.2")))
    assert (validation(configuration).returncode, validation(configuration).stderr) == (0, "")


@pytest.mark.parametrize("variant", ONE_OF_EACH, ids=lambda variant: variant.name)
def test_the_first_filter_is_the_one_that_decides(variant: Variant, tmp_path: Path) -> None:
    rbac, check = "envoy.filters.http.rbac", "envoy.filters.http.ext_authz"
    deciding = check if variant.guard.asks else rbac if variant.guard.decides else None
    for names in filters(variant, tmp_path):
        assert [name for name in names if name in {rbac, check}] == ([deciding] if deciding else [])
        assert names.index(deciding) == 0 if deciding else names


def test_every_route_answers_itself(tmp_path: Path) -> None:
    text = envoys.guarded(next(iter(ONE_OF_EACH)), ADDRESSES, tmp_path, ())
    routes = [
        route
        for listener in json.loads(text)["static_resources"]["listeners"]
        for host in listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
        for route in host["routes"]
    ]
    assert routes
    assert all("direct_response" in route and "route" not in route for route in routes)


@pytest.mark.envoy
@pytest.mark.parametrize("variant", SHORT_CALLS, ids=lambda variant: variant.name)
def test_envoy_takes_what_ends_long_calls_in_parts(variant: Variant, tmp_path: Path) -> None:
    configuration, own = tmp_path / "envoy.json", tmp_path / "own"
    own.mkdir()
    configuration.write_text(envoys.guarded(variant, WITH_AN_APP, own, ("/check.sock", "/check.sock.2")))
    assert (validation(configuration).returncode, validation(configuration).stderr) == (0, "")


def test_an_envoy_without_what_ends_long_calls_still_tells_of_each_that_ended(tmp_path: Path) -> None:
    told = {
        variant.name: [
            [log["typed_config"]["common_config"]["log_name"] for log in _manager(listener).get("access_log", ())]
            for listener in json.loads(envoys.guarded(variant, WITH_AN_APP, tmp_path, ()))["static_resources"][
                "listeners"
            ]
        ]
        for variant in (OFF, ON, UNTOLD)
    }
    assert told == {
        OFF.name: [["calls"]] * 2, ON.name: [["cuts", "running", "calls"]] * 2, UNTOLD.name: [[], []],
    }  # fmt: skip


def _manager(listener: dict[str, Any]) -> dict[str, Any]:
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


@pytest.mark.parametrize("count", [10, 10_000])
def test_the_calls_that_are_measured_are_allowed_by_the_rules(count: int) -> None:
    rules = asked_rules(count)
    for asked in ASKED.values():
        path = asked.path.replace("42", "{id}")
        assert [rule.path for rule in rules if (rule.caller, rule.path) == (asked.caller, path)] == [path]


@pytest.mark.parametrize("count", [10, 10_000])
def test_both_pairs_have_as_many_rules_however_many_there_are(count: int) -> None:
    rules = asked_rules(count)
    assert len(rules) == count
    assert sum((rule.caller, rule.destination) in {("s0", "s1"), ("s1", "s2")} for rule in rules) == 10
