"""What ends long calls on an Envoy, and how parts of it are taken away to see what they cost short ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from authz.proxy.access_log_names import CALLS_LOG
from authz.proxy.header_names import EXT_AUTHZ, EXT_PROC

if TYPE_CHECKING:
    from collections.abc import Collection

#: the parts, and what they are
DEADLINE, CUTS, REPLIES, HOLD, DRAIN = "deadline", "cuts", "replies", "hold", "drain"
PARTS: Final = {
    DEADLINE: "routes obey the deadline and are found again",
    CUTS: "access logs' filters ask of every call whether it was cut, or runs",
    REPLIES: "answers are looked at for one that a cut has made",
    HOLD: "the hold's filter and routes, not taken",
    DRAIN: "a TLS inspector, and a chain for held calls",
}
#: what ends no call, and is there whenever anybody hears of calls: each is told of when it ends
CALLS: Final = "calls"
_HCM: Final = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Final = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def keep(listener: dict[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """Take what ends long calls out of a listener, but for these parts; gives its connection manager."""
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    table = manager["route_config"]
    if DRAIN not in parts:
        del listener["filter_chains"][1:]
        listener.pop("listener_filters", None)
    manager["access_log"] = [
        log for log in manager["access_log"] if (CALLS if _name(log) == CALLS_LOG else CUTS) in parts
    ]
    if REPLIES not in parts:
        manager.pop("local_reply_config", None)
    if DEADLINE not in parts:
        for each in manager["http_filters"]:
            if each["name"] == EXT_AUTHZ:
                each["typed_config"].pop("clear_route_cache")
        for host in table["virtual_hosts"]:
            for route in host["routes"]:
                route.get("route", {}).pop("max_stream_duration", None)
    if HOLD not in parts:
        manager["http_filters"] = [each for each in manager["http_filters"] if each["name"] != EXT_PROC]
        table["typed_per_filter_config"].pop(EXT_PROC, None)
        for host in table["virtual_hosts"]:
            host["routes"] = [
                each for each in host["routes"] if EXT_PROC not in each.get("typed_per_filter_config", {})
            ]
    return manager


def _name(log: dict[str, Any]) -> str:
    name: str = log["typed_config"]["common_config"]["log_name"]
    return name


def app(host: str, port: int) -> dict[str, Any]:
    """Give the listener of an app that answers at once."""
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": _HCM,
        "stat_prefix": "app",
        "route_config": {"name": "app", "virtual_hosts": [{"name": "app", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    return {
        "name": "app",
        "address": {"socket_address": {"address": host, "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
