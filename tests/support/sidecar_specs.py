"""Specifications of sidecars for tests that start none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from authz.proxy.addresses import TcpAddress, UnixAddress
from authz.proxy.spec import SidecarSpec, TrustBundle

if TYPE_CHECKING:
    from authz.proxy.spec import ServiceDestination, ThirdPartyDestination

LOCAL = TcpAddress(host="127.0.0.1", port=8080)


def sidecar(
    *,
    destinations: tuple[ServiceDestination, ...] = (),
    third_parties: tuple[ThirdPartyDestination, ...] = (),
    authz_sockets: tuple[str, ...] = ("/run/authz/check.sock",),
    trust_domains: tuple[TrustBundle, ...] = (TrustBundle(trust_domain="shop.example", file="/run/svid/bundle.pem"),),
) -> SidecarSpec:
    return SidecarSpec(
        service="orders",
        identity="spiffe://shop.example/orders",
        svid_directory="/run/svid",
        svid_secret_file="/etc/envoy/svid.json",  # noqa: S106 a path
        trust_domains=trust_domains,
        inbound=LOCAL,
        outbound=LOCAL,
        app=LOCAL,
        admin=UnixAddress(path="/run/envoy/admin.sock"),
        authz_sockets=authz_sockets,
        destinations=destinations,
        third_parties=third_parties,
    )


def draining_sidecar(*, destinations: tuple[ServiceDestination, ...] = ()) -> SidecarSpec:
    """Give one whose listeners stand in a file."""
    return replace(
        sidecar(destinations=destinations),
        access_log_socket="/run/authz/access-log.sock",
        hold_socket="/run/authz/hold.sock",
        listeners_directory="/run/envoy/listeners",
    )
