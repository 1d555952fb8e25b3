"""A sidecar's Envoy that gets SVID and bundles from its sidecar's SDS server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.errors import ProxyError
from authz.proxy.spec import ServiceDestination
from tests.support.sidecar_specs import LOCAL, sidecar

CATALOG = ServiceDestination(name="catalog", identities=("spiffe://shop.example/catalog",), address=LOCAL)
SPEC = replace(sidecar(destinations=(CATALOG,)), sds_socket="/run/authz/sds.sock", trust_domains=())


def found(value: Any, key: str) -> list[Any]:
    """Give every value of a key, however deep."""
    if isinstance(value, list):
        return [one for each in value for one in found(each, key)]
    if not isinstance(value, dict):
        return []
    return ([value[key]] if key in value else []) + [one for each in value.values() for one in found(each, key)]


def bootstrap() -> Any:
    return json.loads(sidecar_bootstrap(SPEC))


def test_certificate_and_trust_of_both_sides_come_from_the_socket_and_no_file_is_read() -> None:
    configuration = bootstrap()
    certificates = found(configuration, "tls_certificate_sds_secret_configs")
    assert len(certificates) == 2
    sources = [
        *(one for each in certificates for one in each),
        *found(configuration, "validation_context_sds_secret_config"),
    ]
    assert sorted(one["name"] for one in sources) == ["svid", "svid", "trust", "trust"]
    for one in sources:
        services = one["sds_config"]["api_config_source"]["grpc_services"]
        assert services[0]["envoy_grpc"]["cluster_name"] == "sds"
    assert not found(configuration, "trust_bundle")
    assert not found(configuration, "path_config_source")


def test_an_envoy_is_not_ready_before_its_secrets_are_there() -> None:
    assert {each["initial_fetch_timeout"] for each in found(bootstrap(), "sds_config")} == {"0s"}


def test_each_destination_must_still_be_who_it_is() -> None:
    (combined,) = found(bootstrap(), "combined_validation_context")
    (name,) = combined["default_validation_context"]["match_typed_subject_alt_names"]
    assert name["matcher"] == {"exact": "spiffe://shop.example/catalog"}


def test_the_cluster_of_the_socket_speaks_http2() -> None:
    (cluster,) = [one for one in bootstrap()["static_resources"]["clusters"] if one["name"] == "sds"]
    assert found(cluster, "pipe")[0]["path"] == "/run/authz/sds.sock"
    assert found(cluster, "http2_protocol_options")


def test_without_the_socket_there_is_no_such_cluster_and_bundles_are_wanted() -> None:
    files = sidecar(destinations=(CATALOG,))
    assert "sds" not in [one["name"] for one in json.loads(sidecar_bootstrap(files))["static_resources"]["clusters"]]
    with pytest.raises(ProxyError, match="trusts nobody"):
        replace(files, trust_domains=())
