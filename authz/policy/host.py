"""Which destination a Host header names, and which names a destination may have.

Names are compared in lower case without one trailing dot. A Service answers to its names whatever the port; a
ThirdParty's entry without a port stands for none, 80 and 443, one with a port for that port only. An exact entry
beats a wildcard; of the same name, the entry with the port beats the one without.

RFC 9110 4.2, RFC 3986 3.2.2
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from authz.policy.errors import PolicyError, quoted

#: RFC 1035 2.3.4.
MAX_NAME_CHARACTERS: Final = 253
#: What an entry without a port stands for; it is reached over TLS on the last of them.
DEFAULT_PORTS: Final = frozenset({None, 80, 443})
_LAST_PORT: Final = 65_535

_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9._:\[\]-]+").fullmatch
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# WHATWG URL 3.5: what ends in a number, decimal or hexadecimal, is an IPv4 address and no name.
_ENDS_IN_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


class HostError(PolicyError):
    """A text is no host entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyHost:
    """A destination outside the mesh: `name` without its `*.`, and the one port where it is written."""

    name: str
    wildcard: bool
    port: int | None

    @classmethod
    def parse(cls, text: str) -> ThirdPartyHost:
        """Read an entry of a ThirdParty's `hosts`; raises HostError that says what is wrong with it."""
        if not text.isascii():  # some characters have an ASCII lower case: U+212A is a `k`
            raise HostError(f"{quoted(text)}: a host name is ASCII; write it in its xn-- form")
        if "://" in text or "/" in text:
            raise HostError(f"{quoted(text)} is no host name{_without_the_rest(text)}")
        name, colon, port_text = text.partition(":")
        if text.startswith("[") or ":" in port_text:
            raise HostError(f"{quoted(text)}: a host is a name, not an IP address")
        port = _port(port_text) if colon else None
        if colon and port is None:
            hint = "; write an entry for each port" if "-" in port_text or "," in port_text else ""
            raise HostError(f"{quoted(text)}: {quoted(port_text)} is no port from 1 to {_LAST_PORT}{hint}")
        wildcard = name.startswith("*.")
        bare = canonical_name(name.removeprefix("*."))
        if "*" in bare:
            raise HostError(f"{quoted(text)}: `*` stands for exactly one whole label, the first")
        if not _NAME.fullmatch(bare) or len(bare) > MAX_NAME_CHARACTERS:
            raise HostError(f"{quoted(text)} is no host name")
        if _ENDS_IN_NUMBER.fullmatch(bare):
            raise HostError(f"{quoted(text)}: a host is a name, not an IP address")
        if "." not in bare and not wildcard:
            raise HostError(f"{quoted(text)}: the host of a ThirdParty has a dot; write its full name")
        return cls(name=bare, wildcard=wildcard, port=port)

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{'*.' if self.wildcard else ''}{self.name}{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """Where a Service may open opaque tunnels to: one host of a ThirdParty, and one port."""

    name: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Tunnel:
        """Read `host:port`; raises HostError that says what is wrong with it."""
        host = ThirdPartyHost.parse(text)
        if host.wildcard:
            raise HostError(f"{quoted(text)}: a tunnel leads to one host, without `*`; name each")
        if host.port is None:
            raise HostError(f"{quoted(text)}: a tunnel leads to one port; write `{host.name}:443`, or another one")
        return cls(name=host.name, port=host.port)

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


def parse_dns_name(text: str) -> str:
    """Read a name that stands in a certificate and give it as it is compared; raises HostError."""
    name = canonical_name(text)
    if not text.isascii():
        raise HostError(f"{quoted(text)}: a DNS name is ASCII; write it in its xn-- form")
    if ":" in text or _ENDS_IN_NUMBER.fullmatch(name):
        raise HostError(f"{quoted(text)}: a DNS name is a name, without port and no IP address")
    if "*" in text:
        raise HostError(f"{quoted(text)}: a caller is known by exact names, without `*`")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        raise HostError(f"{quoted(text)} is no DNS name")
    return name


def parse_service_host(text: str) -> str:
    """Read an entry of a Service's `hosts` and give it as it is compared; raises HostError."""
    name = canonical_name(text)
    if not text.isascii():
        raise HostError(f"{quoted(text)}: a host name is ASCII; write it in its xn-- form")
    if "://" in text or "/" in text:
        raise HostError(f"{quoted(text)} is no host name{_without_the_rest(text)}")
    if ":" in text:
        raise HostError(f"{quoted(text)}: a Service is addressed whatever the port; leave the port out")
    if "*" in text:
        raise HostError(f"{quoted(text)}: the host of a Service is exact, without `*`")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        raise HostError(f"{quoted(text)} is no host name")
    return name


def _without_the_rest(url: str) -> str:
    """Give the hint to write only the host of a URL."""
    host = url.partition("://")[2] or url
    host = host.partition("/")[0]
    return f"; write {quoted(host)}" if _NAME.fullmatch(canonical_name(host.partition(":")[0])) else ""


def canonical_name(text: str) -> str:
    """Give a host name as it is compared: in lower case, without one trailing dot."""
    return text.lower().removesuffix(".")


def is_well_formed(host: str) -> bool:
    """Whether a Host header has only what a name, an address and a port are made of; the rest is `malformed`."""
    return _WELL_FORMED(host) is not None


def requested_host(host: str) -> tuple[str, int | None] | None:
    """Take a well-formed Host header apart into name and port; None where it can be no entry's."""
    name, colon, port_text = host.partition(":")
    if not colon:
        return canonical_name(name), None
    port = _port(port_text)
    return None if port is None else (canonical_name(name), port)


def _port(text: str) -> int | None:
    port = int(text) if _PORT.fullmatch(text) else 0
    return port if 0 < port <= _LAST_PORT else None
