"""Where a listener binds and where a cluster connects: TCP or a unix socket, as values.

A TCP host is an IP literal or a DNS name. Whether it must be resolved is a property of the address
(:attr:`TcpAddress.is_ip`), so that no two parts can disagree about it. A unix address is a file system path;
abstract sockets are not taken, because file permissions are the reason for using a unix socket at all.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from authz.proxy.errors import ProxyError

#: The longest path that fits `sockaddr_un.sun_path` on Linux, its closing NUL byte taken off (unix(7)).
MAX_UNIX_PATH_BYTES = 107
#: RFC 1035 2.3.4, as text with dots.
MAX_HOST_CHARS = 253
MAX_PORT = 65535

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpAddress:
    """A host (IP literal without brackets, or DNS name) and a port."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= MAX_PORT:
            raise ProxyError(f"the port `{self.port}` is not between 0 and {MAX_PORT}")
        if not self.is_ip and (len(self.host) > MAX_HOST_CHARS or not _HOST_NAME.fullmatch(self.host)):
            raise ProxyError(f"`{self.host[:MAX_HOST_CHARS]}` is neither an ip address nor a host name")

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP literal, which nothing has to resolve."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAddress:
    """The path of a unix stream socket in the file system."""

    path: str

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path or self.path.startswith("@"):
            raise ProxyError(f"`{self.path}` is no path of a unix socket")
        if len(self.path.encode("utf-8", "surrogateescape")) > MAX_UNIX_PATH_BYTES:
            raise ProxyError(
                f"the unix socket path `{self.path}` has more than the {MAX_UNIX_PATH_BYTES} bytes of a socket address"
            )

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Read `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`; anything else raises ProxyError."""
    if text.startswith("unix:"):
        return UnixAddress(path=text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ProxyError(f"`{text}` is no address: give HOST:PORT or unix:PATH")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ProxyError(f"`{text}` is no address: write an ipv6 host in brackets")
    return TcpAddress(host=host, port=int(port))
