"""An address as Envoy writes it: TCP by literal or name, or a pipe that only its owner may open."""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import Address as EnvoyAddress, Pipe, SocketAddress

from authz.proxy.addresses import Address, TcpAddress, UnixAddress

#: Who may connect to a unix socket that Envoy makes: its own user. Where it connects, the mode is not read.
OWNER_ONLY = 0o600


def socket_address(address: Address) -> EnvoyAddress:
    """Give the address for a listener (a unix socket is made with mode 0600) or an endpoint."""
    match address:
        case TcpAddress(host=host, port=port):
            return EnvoyAddress(socket_address=SocketAddress(address=host, port_value=port))
        case UnixAddress(path=path):
            return EnvoyAddress(pipe=Pipe(path=path, mode=OWNER_ONLY))
