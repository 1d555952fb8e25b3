"""A mesh laid out on paper: places for everything in a policy set, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.mesh.layout import (
    Layout,
    ServicePlaces,
    ThirdPartyPlaces,
    caller_authority_files,
    lay_out,
    trust_domain_names,
)
from authz.policy.index import compile_index
from authz.proxy.addresses import TcpAddress, UnixAddress

if TYPE_CHECKING:
    from authz.policy.policy_set import PolicySet


def laid_out(policy_set: PolicySet, *, state: str = "/state") -> Layout:
    ports = iter(range(10_000, 20_000))

    def address() -> TcpAddress:
        return TcpAddress(host="127.0.0.1", port=next(ports))

    return lay_out(
        policy_set,
        owner=compile_index(policy_set).identity_owner,
        services={
            one.name: ServicePlaces(
                app=address(),
                inbound=address(),
                outbound=address(),
                admin=UnixAddress(path=f"/run/{one.name}.admin"),
                authz_socket=f"/run/{one.name}.authz",
                authz_workers=2,
                access_log_socket=f"/run/{one.name}.access-log",
                hold_socket=f"/run/{one.name}.hold",
                listeners_directory=f"{state}/envoy/{one.name}.listeners",
                sds_socket=f"/run/{one.name}.sds",
                svid_directory=f"{state}/svids/{one.name}",
                decision_log=f"{state}/decisions/{one.name}.jsonl",
                sidecar_state=f"{state}/sidecars/{one.name}",
            )
            for one in policy_set.services
        },
        third_parties={
            one.name: ThirdPartyPlaces(
                address=address(),
                svid_directory=f"{state}/svids/{one.name}",
                tls_directory=f"{state}/svids/{one.name}.tls",
                authority_file=f"{state}/{one.name}.third-party.pem",
            )
            for one in policy_set.third_parties
        },
        bundle_files={name: f"{state}/{name}.pem" for name in trust_domain_names(policy_set)},
        caller_authorities={
            name: f"{state}/callers-{number}.pem" for number, name in enumerate(caller_authority_files(policy_set))
        },
    )
