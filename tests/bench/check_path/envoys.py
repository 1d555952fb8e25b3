"""The Envoys of a measurement: the sidecar of `s1` as `authz` configures it, and the one that calls it over mTLS.

The first is a sidecar's own bootstrap with three changes. Its routes answer 200 themselves, so that no hop to an app
is measured; in place of the check stands what the variant has; and OPA is asked as its own users ask it, without the
certificate and with the joined map of headers. The second, the caller's sidecar, is no part of what is measured: it
runs beside the load generator and is there because wrk shows no client certificate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authz.proxy.addresses import UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.header_names import EXT_AUTHZ
from authz.proxy.listener_file import listeners_file
from authz.proxy.spec import ServiceDestination, SidecarSpec, TrustBundle
from authz.proxy.tls import svid_secret
from authz.request import Direction
from tests.bench.check_path import closing
from tests.bench.check_path.question import CALLER, DESTINATION, TRUST_DOMAIN, WORKLOAD, asked_rules, identity
from tests.bench.check_path.variants import Guard

if TYPE_CHECKING:
    from pathlib import Path

    from authz.proxy.addresses import TcpAddress
    from tests.bench.check_path.variants import Variant

#: what the sidecar of a variant with an app listens on besides
ACCESS_LOG_SOCKET, HOLD_SOCKET = "access-log.sock", "hold.sock"
_TYPES = "type.googleapis.com/envoy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the sidecar of `s1` listens, and where its caller's does."""

    inbound: TcpAddress
    outbound: TcpAddress
    caller: TcpAddress
    app: TcpAddress | None = None


def guarded(variant: Variant, addresses: Addresses, folder: Path, sockets: tuple[str, ...]) -> str:
    """Give the configuration of the Envoy that is measured."""
    destination = ServiceDestination(name=DESTINATION, identities=(identity(DESTINATION),), address=addresses.caller)
    document = _document(
        WORKLOAD,
        folder,
        addresses.inbound,
        addresses.outbound,
        destination,
        sockets or ("/nobody",),
        app=addresses.app,
        own=None if variant.closes is None else folder.parent,
    )
    for listener in document["static_resources"]["listeners"]:
        if variant.closes is None:
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            for host in manager["route_config"]["virtual_hosts"]:
                for route in host["routes"]:
                    if route.pop("route", None) is not None:
                        route["direct_response"] = {"status": 200}
        else:
            manager = closing.keep(listener, variant.closes)
        _set_guard(manager, variant, Direction(listener["name"]))
    return json.dumps(document)


def calling(addresses: Addresses, folder: Path) -> str:
    """Give the configuration of the caller's Envoy: it asks nobody and goes on to `s1` over mTLS."""
    destination = ServiceDestination(name=WORKLOAD, identities=(identity(WORKLOAD),), address=addresses.inbound)
    document = _document(CALLER, folder, addresses.outbound, addresses.caller, destination, ("/nobody",))
    # Its inbound side would stand where the other's outbound one does: nobody calls `s0`.
    listeners = document["static_resources"]["listeners"]
    listeners[:] = [listener for listener in listeners if listener["name"] == Direction.OUTBOUND.value]
    for listener in listeners:
        _unguard(listener["filter_chains"][0]["filters"][0]["typed_config"])
    if addresses.app is not None:
        listeners.append(closing.app(addresses.app.host, addresses.app.port))
    return json.dumps(document)


def _document(
    service: str,
    folder: Path,
    inbound: TcpAddress,
    outbound: TcpAddress,
    destination: ServiceDestination,
    sockets: tuple[str, ...],
    *,
    app: TcpAddress | None = None,
    own: Path | None = None,
) -> dict[str, Any]:
    """Give a bootstrap with its listeners; `own` is the folder of the sidecar's further sockets, where there are such.

    Where there are, its listeners are those of an Envoy that drains; they stand in no file, as nothing is drained.
    """
    svid = folder / "svid"
    secret = folder / "svid.json"
    secret.write_text(svid_secret(str(svid)))
    spec = SidecarSpec(
        service=service,
        identity=identity(service),
        svid_directory=str(svid),
        svid_secret_file=str(secret),
        trust_domains=(TrustBundle(trust_domain=TRUST_DOMAIN, file=str(svid / "bundle.pem")),),
        inbound=inbound,
        outbound=outbound,
        app=inbound if app is None else app,
        admin=UnixAddress(path=str(folder / "admin")),
        authz_sockets=sockets,
        destinations=(destination,),
        access_log_socket=None if own is None else str(own / ACCESS_LOG_SOCKET),
        hold_socket=None if own is None else str(own / HOLD_SOCKET),
        listeners_directory=None if own is None else str(folder),
    )
    document: dict[str, Any] = json.loads(sidecar_bootstrap(spec))
    if spec.drains:
        del document["dynamic_resources"]
        document["static_resources"]["listeners"] = json.loads(listeners_file(spec))["resources"]
        for listener in document["static_resources"]["listeners"]:
            del listener["@type"]
    return document


def _set_guard(manager: dict[str, Any], variant: Variant, direction: Direction) -> None:
    match variant.guard:
        case Guard.NONE:
            _unguard(manager)
        case Guard.RBAC_LIST:
            _unguard(manager)
            manager["http_filters"].insert(0, _rbac({"rules": _rbac_list(variant.rules, direction)}))
        case Guard.RBAC_MATCHER:
            _unguard(manager)
            manager["http_filters"].insert(0, _rbac({"matcher": _rbac_matcher(variant.rules)}))
        case Guard.OPA:
            check = next(each for each in manager["http_filters"] if each["name"] == EXT_AUTHZ)
            for name in ("include_peer_certificate", "include_tls_session", "encode_raw_headers"):
                check["typed_config"].pop(name)
        case Guard.FLOOR | Guard.PICOSEG:
            pass


def _unguard(manager: dict[str, Any]) -> None:
    manager["http_filters"] = [each for each in manager["http_filters"] if each["name"] != EXT_AUTHZ]
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route.get("typed_per_filter_config", {}).pop(EXT_AUTHZ, None)


def _rbac(by: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {"@type": f"{_TYPES}.extensions.filters.http.rbac.v3.RBAC", **by},
    }


def _rbac_list(count: int, direction: Direction) -> dict[str, Any]:
    """Give a policy a rule: method, path and, where Envoy knows it, the caller's certificate."""
    policies = {}
    for rule in asked_rules(count):
        path = {"url_path": {"path": {"prefix": rule.path.removesuffix("{id}")}}}
        method = {"header": {"name": ":method", "string_match": {"exact": "GET"}}}
        principal: dict[str, Any] = {"any": True}
        if direction is Direction.INBOUND:
            principal = {"authenticated": {"principal_name": {"exact": identity(rule.caller)}}}
        policies[rule.name] = {"permissions": [{"and_rules": {"rules": [method, path]}}], "principals": [principal]}
    return {"action": "ALLOW", "policies": policies}


def _rbac_matcher(count: int) -> dict[str, Any]:
    """Give a tree in which the path is looked up; only exact paths can be."""

    def action(name: str, verdict: str) -> dict[str, Any]:
        typed = {"@type": f"{_TYPES}.config.rbac.v3.Action", "name": name, "action": verdict}
        return {"action": {"name": name, "typed_config": typed}}

    header = {"@type": f"{_TYPES}.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": ":path"}
    return {
        "matcher_tree": {
            "input": {"name": "path", "typed_config": header},
            "exact_match_map": {
                "map": {rule.path.replace("{id}", "42"): action(rule.name, "ALLOW") for rule in asked_rules(count)}
            },
        },
        "on_no_match": action("none", "DENY"),
    }
