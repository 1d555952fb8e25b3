"""Where a Workload API is: the forms of SPIFFE_ENDPOINT_SOCKET, as an address that gRPC takes.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_Endpoint.md 4
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from authz.identity.errors import quoted
from authz.workload_api.errors import WorkloadApiError

#: sockaddr_un(7): sun_path has 108 bytes, the last of them 0
MAX_SOCKET_PATH_BYTES: Final = 107
_MAX_PORT: Final = 65535
#: `tcp://IP:port`, an IPv6 address in brackets; nothing may follow
_TCP: Final = re.compile(r"tcp://(\[[0-9a-fA-F:.]{2,45}\]|[0-9.]{7,15}):([0-9]{1,5})")
# RFC 3986 3.3: what a path is written with; a percent sign would stand for another character than it is.
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")


def grpc_target(endpoint: str) -> str:
    """Give the address of a Workload API for gRPC; raises WorkloadApiError.

    `endpoint` is `unix:///absolute/path` or `tcp://IP:port`, as in SPIFFE_ENDPOINT_SOCKET, or a bare path.
    """
    if "://" not in endpoint:
        return _unix(endpoint)
    if endpoint.startswith("unix://"):
        path = endpoint.removeprefix("unix://")
        if not path.startswith("/"):
            raise WorkloadApiError(f"{quoted(endpoint)}: `unix://` is followed by an absolute path, with no host")
        if not _PATH.fullmatch(path):
            raise WorkloadApiError(f"{quoted(endpoint)} is more than `unix://` and the absolute path of a socket")
        return _unix(path)
    found = _TCP.fullmatch(endpoint)
    if found is None:
        raise WorkloadApiError(
            f"{quoted(endpoint)} is no Workload API socket: give unix:///path/to/socket or tcp://IP:port"
        )
    host, port = found[1], int(found[2])
    try:
        # RFC 3986 3.2.2: an IPv6 address stands in brackets, and nothing else does.
        address = ipaddress.IPv6Address(host[1:-1]) if host[0] == "[" else ipaddress.IPv4Address(host)
    except ValueError as error:
        raise WorkloadApiError(f"{quoted(endpoint)}: {quoted(host)} is no ip address") from error
    if not 0 < port <= _MAX_PORT:
        raise WorkloadApiError(f"{quoted(endpoint)}: the port is not between 1 and {_MAX_PORT}")
    return f"ipv6:[{address}]:{port}" if address.version == 6 else f"ipv4:{address}:{port}"  # noqa: PLR2004 IP's own


def _unix(path: str) -> str:
    if not path or "\0" in path:
        raise WorkloadApiError(f"{quoted(path)} is no path of a socket")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH_BYTES:
        raise WorkloadApiError(f"{quoted(path)} has more than the {MAX_SOCKET_PATH_BYTES} bytes of a socket's path")
    return f"unix:{path}"
