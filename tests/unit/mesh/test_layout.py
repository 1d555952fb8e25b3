from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from authz.mesh.errors import MeshError
from authz.mesh.layout import require_names
from authz.policy.index import compile_index
from authz.proxy.spec import ThirdPartyHost
from authz.request import TlsVersion
from tests.support.mesh_layouts import laid_out
from tests.support.policy_sets import MIXED, ONE_SERVICE, document, eleven_services, parsed, service

if TYPE_CHECKING:
    from authz.mesh.layout import Layout


def _identities(layout: Layout) -> dict[str, str]:
    return {one.name: str(one.identity) for one in layout.services}


def test_a_single_service_without_third_parties_is_a_mesh() -> None:
    layout = laid_out(parsed(*ONE_SERVICE))
    assert _identities(layout) == {"alone": "spiffe://shop.example/alone"}
    assert layout.third_parties == ()
    assert [one.name for one in layout.services[0].sidecar.destinations] == ["alone"]


def test_a_pattern_takes_the_name_of_its_service_unless_that_id_is_somebody_elses() -> None:
    assert _identities(laid_out(parsed(*MIXED))) == {
        "admin": "spiffe://edge.example/gateway",
        "catalog": "spiffe://shop.example/catalog",
        "gateway": "spiffe://edge.example/gateway-2",
        "orders": "spiffe://shop.example/ns/orders/sa/orders",
    }


def test_every_workload_gets_an_identity_that_the_set_gives_to_it() -> None:
    for documents in (MIXED, eleven_services()):
        policy_set = parsed(*documents)
        index = compile_index(policy_set)
        layout = laid_out(policy_set)
        for service_ in layout.services:
            assert index.identity_owner(service_.identity) == service_.name
        for third_party in layout.third_parties:
            assert third_party.identity is None or index.identity_owner(third_party.identity) == third_party.name


def test_a_service_whose_patterns_are_all_taken_is_an_error() -> None:
    others = [service(f"o{n}", f"spiffe://shop.example/{'a' if n == 1 else f'a-{n}'}") for n in range(1, 101)]
    with pytest.raises(MeshError, match="`a`: no SPIFFE ID can be made"):
        laid_out(
            parsed(
                document("Mesh", "m", "{trustDomains: [shop.example]}"),
                service("a", "spiffe://shop.example/*"),
                *others,
            )
        )


def test_every_service_knows_every_other_by_its_one_identity_and_all_its_hosts() -> None:
    layout = laid_out(parsed(*MIXED))
    for one in layout.services:
        assert {(to.name, to.hosts, to.identities) for to in one.sidecar.destinations} == {
            (name, ("catalog.shop.local",) if name == "catalog" else (), (identity,))
            for name, identity in _identities(layout).items()
        }
        assert {to.address for to in one.sidecar.destinations} == {to.places.inbound for to in layout.services}


def test_own_and_federated_trust_domains_are_trusted_the_local_one_first() -> None:
    layout = laid_out(parsed(*MIXED))
    for one in layout.services:
        assert [bundle.trust_domain for bundle in one.sidecar.trust_domains] == [
            "shop.example",
            "edge.example",
            "acme.example",
            "web.example",
        ]


def test_third_parties_with_hosts_are_destinations_with_their_ports_and_tls_version() -> None:
    layout = laid_out(parsed(*MIXED))
    known = {one.name: one for one in layout.services[0].sidecar.third_parties}
    assert sorted(known) == ["gone", "psp", "wild"]
    assert known["psp"].min_tls is TlsVersion.TLS_1_3
    assert known["gone"].min_tls is TlsVersion.TLS_1_2
    assert known["wild"].hosts == (ThirdPartyHost(name="wild.example", wildcard=True, port=None),)
    stand_ins = {one.name: one for one in layout.third_parties}
    assert stand_ins["psp"].dns_names == ("*.psp.example", "api.psp.example", "old.psp.example")
    assert stand_ins["psp"].hosts == ("api.psp.example", "*.psp.example:8443", "old.psp.example:9443")


def test_a_third_party_calls_with_an_identity_of_its_own_or_not_at_all() -> None:
    layout = laid_out(parsed(*MIXED))
    assert {one.name: str(one.identity) for one in layout.third_parties} == {
        "acme": "spiffe://acme.example/acme",
        "certified": "None",
        "gone": "spiffe://shop.example/gone",
        "psp": "None",
        "wild": "None",
    }
    assert {one.name for one in layout.third_parties if not one.dns_names} == {"acme", "certified"}


def test_what_is_not_started_stays_known_to_the_others() -> None:
    layout = laid_out(parsed(*MIXED))
    few = layout.only(["orders", "psp"])
    assert [one.name for one in few.services] == ["orders"]
    assert [one.name for one in few.third_parties] == ["psp"]
    assert len(few.services[0].sidecar.destinations) == 4
    assert layout.only([]) == layout
    require_names(parsed(*MIXED), ["orders", "psp"])
    with pytest.raises(MeshError, match="--only: there is no Service or ThirdParty `nobody`"):
        require_names(parsed(*MIXED), ["orders", "nobody"])


def test_every_part_has_a_place_of_its_own() -> None:
    layout = laid_out(parsed(*eleven_services()))
    places = [
        str(address)
        for one in layout.services
        for address in (
            one.places.app,
            one.places.inbound,
            one.places.outbound,
            one.places.admin,
            one.places.authz_socket,
            one.places.access_log_socket,
        )
    ] + [str(one.places.address) for one in layout.third_parties]
    assert len(places) == 11 * 6 + 4
    assert len(set(places)) == len(places)
