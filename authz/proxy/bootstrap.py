"""The whole configuration of one sidecar's Envoy: two listeners, its clusters, and an admin that only its user reaches.

Everything is static: nothing outside can add a listener, a route or a filter to a running sidecar, but who may write
into the directory of its listeners, where they are read from one (:mod:`authz.proxy.listener_file`); and the
runtime, which could switch features off, has no layer that the admin could write to. What changes while it runs is the
SVID (watched files) and what names resolve to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
    BootstrapStaticResources,
    LayeredRuntime,
    RuntimeLayer,
)
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.overload.v3 import OverloadManager, ResourceMonitor
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import DownstreamConnectionsConfig
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Struct

from authz.proxy import hardening
from authz.proxy.cluster import clusters
from authz.proxy.listener_file import listeners, listeners_source
from authz.proxy.rendering import packed, rendered
from authz.proxy.socket_address import socket_address

if TYPE_CHECKING:
    from authz.proxy.spec import SidecarSpec

#: What the admin answers: only reading. It has no authentication, and stands on a unix socket with mode 0600.
ADMIN_PATHS = ("/ready", "/stats", "/server_info", "/listeners", "/clusters", "/certs", "/config_dump", "/memory")


#: Envoy refuses an expression of more than 100 RE2 instructions unless it is told otherwise. Ours come from names that
#: the policy language bounds: a SPIFFE ID of 2048 bytes, a host of 253 characters.
MAX_EXPRESSION_SIZE = 32_768
_RUNTIME = Struct.from_dict(
    {"re2.max_program_size.error_level": MAX_EXPRESSION_SIZE, "re2.max_program_size.warn_level": MAX_EXPRESSION_SIZE}
)


def sidecar_bootstrap(spec: SidecarSpec) -> str:
    """Give the bootstrap as JSON, for `envoy -c FILE.json`; equal specs give equal text.

    Raises ProxyError for what a spec must not ask for (two owners of a host, a name that cannot be resolved).
    """
    source = listeners_source(spec)
    return rendered(
        Bootstrap(
            node=Node(id=spec.identity, cluster=spec.service),
            admin=Admin(
                address=socket_address(spec.admin),
                # An operator must be able to look even when no connection more is taken.
                ignore_global_conn_limit=True,
                allow_paths=[StringMatcher(prefix=path) for path in ADMIN_PATHS],
            ),
            layered_runtime=LayeredRuntime(layers=[RuntimeLayer(name="static", static_layer=_RUNTIME)]),
            overload_manager=OverloadManager(
                resource_monitors=[
                    ResourceMonitor(
                        name="envoy.resource_monitors.global_downstream_max_connections",
                        typed_config=packed(
                            DownstreamConnectionsConfig(
                                max_active_downstream_connections=hardening.MAX_DOWNSTREAM_CONNECTIONS
                            )
                        ),
                    )
                ]
            ),
            static_resources=BootstrapStaticResources(
                listeners=listeners(spec) if source is None else [], clusters=clusters(spec)
            ),
            dynamic_resources=None if source is None else BootstrapDynamicResources(lds_config=source),
        )
    )
