"""Which addresses a ThirdParty may have: public ones, and what was opened of private networks."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from authz.sidecar.egress.networks import ReachableNetworks
from authz.sidecar.errors import SidecarError

PUBLIC = ReachableNetworks()
OPENED = ReachableNetworks.parse(
    ["10.20.0.0/16", "192.168.0.0/16", "172.16.0.0/12", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7"]
)


@pytest.mark.parametrize("address", ["203.0.113.10", "8.8.8.8", "1.1.1.1", "2606:4700::1111", "2001:db8::1"])
def test_public_addresses_are_reachable(address: str) -> None:
    assert PUBLIC.refusal(ipaddress.ip_address(address)) is None


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("169.254.169.254", "cloud metadata"),
        ("100.100.100.200", "cloud metadata"),
        ("168.63.129.16", "cloud metadata"),
        ("fd00:ec2::254", "cloud metadata"),
        ("fd20:ce::254", "cloud metadata"),
        ("0.0.0.0", "unspecified or this network"),
        ("0.1.2.3", "unspecified or this network"),
        ("::", "unspecified or this network"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("169.254.0.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%1", "link-local"),
        ("::ffff:8.8.8.8", "an IPv4-mapped address"),
        ("::8.8.8.8", "an IPv4-compatible address"),
        ("::ffff:0:127.0.0.1", "an IPv4-translated address"),
        ("64:ff9b::7f00:1", "an IPv4-translated address"),
        ("64:ff9b:1::a00:1", "an IPv4-translated address"),
        ("2002:7f00:1::", "an IPv4 address in 6to4 or Teredo"),
        ("2001:0:7f00:1::", "an IPv4 address in 6to4 or Teredo"),
        ("192.0.0.1", "protocol assignments"),
        ("224.0.0.251", "multicast"),
        ("ff02::1", "multicast"),
        ("240.0.0.1", "reserved or broadcast"),
        ("255.255.255.255", "reserved or broadcast"),
        ("fec0::1", "no global unicast address"),
        ("100::1", "no global unicast address"),
        ("4000::1", "no global unicast address"),
    ],
)
def test_what_is_here_or_near_or_means_something_else_is_never_reachable(address: str, what: str) -> None:
    assert PUBLIC.refusal(ipaddress.ip_address(address)) == what
    assert OPENED.refusal(ipaddress.ip_address(address)) == what


@pytest.mark.parametrize(
    "address", ["10.20.0.1", "192.168.1.1", "172.31.255.255", "100.64.0.1", "198.18.0.1", "fd12::1"]
)
def test_a_private_network_is_reachable_where_it_was_opened_and_only_there(address: str) -> None:
    assert PUBLIC.refusal(ipaddress.ip_address(address)) == "a private network that is not opened"
    assert OPENED.refusal(ipaddress.ip_address(address)) is None


def test_what_lies_beside_an_opened_network_stays_closed() -> None:
    assert OPENED.refusal(ipaddress.ip_address("10.21.0.1")) == "a private network that is not opened"


@pytest.mark.parametrize(
    "network",
    ["127.0.0.0/8", "0.0.0.0/0", "::/0", "169.254.0.0/16", "8.8.8.0/24", "10.0.0.0/7", "::1/128", "fe80::/10"],
)
def test_nothing_but_a_private_network_can_be_opened(network: str) -> None:
    with pytest.raises(SidecarError, match="is not within a private network"):
        ReachableNetworks.parse([network])


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "ten", "10.0.0.0/8/8"])
def test_what_is_no_network_is_said(text: str) -> None:
    with pytest.raises(SidecarError, match="is no network"):
        ReachableNetworks.parse([text])


@given(st.ip_addresses())
def test_what_python_calls_private_loopback_or_multicast_is_never_reachable_but_for_documentation(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    reachable = PUBLIC.refusal(address) is None
    documentation = any(
        address in ipaddress.ip_network(network)
        for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
    )
    if reachable:
        assert address.is_global or documentation
        assert not any((address.is_loopback, address.is_link_local, address.is_multicast, address.is_unspecified))


@given(st.text(max_size=64))
def test_any_text_is_a_network_or_an_error_of_ours(text: str) -> None:
    try:
        networks = ReachableNetworks.parse([text])
    except SidecarError:
        return
    assert PUBLIC.refusal(networks.opened[0].network_address) is not None
