"""What Envoy and the receiver of its access logs call things; apart, so that the receiver need not load Envoy's API."""

from __future__ import annotations

from typing import Final

#: By this name the receiver knows what the entries of a stream are about.
HANDSHAKES_LOG: Final = "handshakes"
#: Has the milliseconds that the handshake took, and is missing where none succeeded.
HANDSHAKE_TAG: Final = "handshake_ms"

#: Every call, when it ends, and those that run long every while.
CALLS_LOG: Final = "calls"
CUTS_LOG: Final = "cuts"
#: Entries about calls that are under way have this name, those of ends the other one.
RUNNING_LOG: Final = "running"
#: The filter chain that a call's connection came to.
CHAIN_TAG: Final = "chain"
#: The peer's leaf certificate as a check has it, and what the connection's TLS is called there; missing without TLS.
CERTIFICATE_TAG: Final = "certificate"
#: Which listener the call came to: `inbound` or `outbound`.
DIRECTION_TAG: Final = "direction"
#: The SPIFFE ID of the workload whose sidecar it is.
WORKLOAD_TAG: Final = "workload"
#: The serial number of the peer's certificate, in hexadecimal; missing where there is none.
SERIAL_TAG: Final = "serial"
#: Of an outbound call: version and cipher of the TLS connection that Envoy carried it over, with a space between.
UPSTREAM_TLS_TAG: Final = "upstream_tls"
#: The metadata of an outbound call that says when, by its own clock, the callee's sidecar received it, in microseconds.
PEER_CLOCK: Final = "authz.peer_clock"
RECEIVED_US: Final = "received_us"
#: A request's headers that entries of calls bring along, beside what they always have.
METHOD_HEADER: Final = ":method"
CONTENT_TYPE_HEADER: Final = "content-type"
UPGRADE_HEADER: Final = "upgrade"

#: What the clusters are called that lead to a Service, and to a host of a ThirdParty: their names follow.
SERVICE_CLUSTER_PREFIX: Final = "service_"
THIRD_PARTY_CLUSTER_PREFIX: Final = "third_party_"
#: What follows a Service's name in the cluster that its held calls go to; no name has an underscore (RFC 1123 2.1).
HELD_CLUSTER_SUFFIX: Final = "_held"
