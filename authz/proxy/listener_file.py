"""The file that Envoy reads its listeners from, where there is one: to change it is to drain connections.

Envoy takes a file that was renamed to this name in the watched directory, and where a filter chain of it is another one
than before it drains the connections of that chain alone: they are told to end, and a second later
(:data:`~authz.proxy.listener_names.ENVOY_FLAGS`) closed with whatever runs on them. Other chains, and all new
connections, go on. What is changed for that is a number in the chain's `metadata`, which means nothing else to anybody.

Whoever can write the file decides what Envoy does: it belongs to the sidecar's user, like the check's socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import ApiVersion, ConfigSource, PathConfigSource, WatchedDirectory
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse

from authz.proxy.listener import inbound_listener, outbound_listener
from authz.proxy.listener_names import LISTENERS_FILE
from authz.proxy.rendering import packed, rendered

if TYPE_CHECKING:
    from envoy_data_plane.envoy.config.listener.v3 import Listener

    from authz.proxy.spec import SidecarSpec


def listeners(spec: SidecarSpec) -> list[Listener]:
    """Give the listeners of a sidecar."""
    return [inbound_listener(spec), outbound_listener(spec)]


def listeners_file(spec: SidecarSpec) -> str:
    """Give the content of the file, as Envoy is to find it at its start."""
    return rendered(DiscoveryResponse(resources=[packed(listener) for listener in listeners(spec)]))


def listeners_source(spec: SidecarSpec) -> ConfigSource | None:
    """Give where Envoy reads its listeners from, None where they stand in its bootstrap."""
    directory = spec.listeners_directory
    if directory is None:
        return None
    return ConfigSource(
        path_config_source=PathConfigSource(
            path=f"{directory}/{LISTENERS_FILE}", watched_directory=WatchedDirectory(path=directory)
        ),
        resource_api_version=ApiVersion.V3,
    )
