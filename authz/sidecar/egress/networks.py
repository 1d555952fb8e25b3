"""Which network addresses a ThirdParty may have. Pure.

A ThirdParty is outside: it has a public address. Whatever its name resolves to that is this machine, its link, its
provider's metadata or a private network is refused, because who controls a name (or its resolver) could else send a
workload's calls there (server-side request forgery, CWE-918).

- Of IPv6 only what is assigned for global unicast (2000::/3, RFC 4291 2.4) is reachable, less the forms that hold an
  IPv4 address which somebody else would unpack (6to4, Teredo). IPv4-mapped and -compatible addresses and NAT64's
  (RFC 6052) lie outside of it.
- Private networks may be opened, one by one, where a ThirdParty is reached over a private line. Nothing else may:
  loopback, link-local, metadata, multicast, reserved and unspecified addresses stay refused within an opened network.

What cannot be known here is which public addresses are this machine's own; docs/egress.md says what to do about them.

https://www.iana.org/assignments/iana-ipv4-special-registry, .../iana-ipv6-special-registry
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Iterable

    IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
    IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Never reachable, with what they are; what stands first is said.
_NEVER: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "cloud metadata",
        (
            "169.254.169.254/32",  # AWS, Azure, Google, OpenStack and others
            "100.100.100.200/32",  # Alibaba
            "168.63.129.16/32",  # Azure's platform (wire server); public in form
            "192.0.0.192/32",  # Oracle, classic
            "fd00:ec2::/32",  # AWS: ::254 metadata, ::253 resolver, ::123 time, ::23 pod identity
            "fd20:ce::254/128",  # Google
            "fd00:c1::a9fe:a9fe/128",  # Oracle
            "fd00:42::42/128",  # Scaleway
        ),
    ),
    ("unspecified or this network", ("0.0.0.0/8", "::/128")),
    ("loopback", ("127.0.0.0/8", "::1/128")),
    ("link-local", ("169.254.0.0/16", "fe80::/10")),
    ("an IPv4-mapped address", ("::ffff:0:0/96",)),
    ("an IPv4-compatible address", ("::/96",)),
    ("an IPv4-translated address", ("::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")),
    ("an IPv4 address in 6to4 or Teredo", ("2002::/16", "2001::/32", "192.88.99.0/24")),
    ("protocol assignments", ("192.0.0.0/24", "2001::/23")),
    ("multicast", ("224.0.0.0/4", "ff00::/8")),
    ("reserved or broadcast", ("240.0.0.0/4",)),
)
#: Reachable only where they are opened.
_PRIVATE: Final = (
    "10.0.0.0/8",  # RFC 1918
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",  # RFC 6598, carrier-grade NAT; inside clouds
    "198.18.0.0/15",  # RFC 2544, benchmarks
    "fc00::/7",  # RFC 4193
)

_NEVER_NETWORKS: Final = tuple(
    (what, tuple(ipaddress.ip_network(network) for network in networks)) for what, networks in _NEVER
)
_PRIVATE_NETWORKS: Final = tuple(ipaddress.ip_network(network) for network in _PRIVATE)
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachableNetworks:
    """Public addresses, and the private networks that were opened."""

    opened: tuple[IpNetwork, ...] = ()

    @classmethod
    def parse(cls, opened: Iterable[str]) -> ReachableNetworks:
        """Read the private networks that are opened, each in CIDR form; raises SidecarError."""
        return cls(opened=tuple(_private_network(text) for text in opened))

    def refusal(self, address: IpAddress) -> str | None:
        """Say what an address is that nothing may be sent to; None where it may."""
        for what, networks in _NEVER_NETWORKS:
            if _is_in(address, networks):
                return what
        if _is_in(address, self.opened):
            return None
        if _is_in(address, _PRIVATE_NETWORKS):
            return "a private network that is not opened"
        if address.version == 6 and address not in _GLOBAL_UNICAST:  # noqa: PLR2004 IP has two versions
            return "no global unicast address"
        return None


def _private_network(text: str) -> IpNetwork:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise SidecarError(
            f"`{text[:64]}` is no network: give it as 10.20.0.0/16, without bits behind its length"
        ) from error
    if not any(_contains(private, network) for private in _PRIVATE_NETWORKS):
        raise SidecarError(
            f"`{network}` is not within a private network ({', '.join(_PRIVATE)}); nothing else is opened"
        )
    return network


def _contains(outer: IpNetwork, inner: IpNetwork) -> bool:
    return outer.version == inner.version and inner.network_address in outer and inner.broadcast_address in outer


def _is_in(address: IpAddress, networks: Iterable[IpNetwork]) -> bool:
    return any(address in network for network in networks)
