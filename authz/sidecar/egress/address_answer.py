"""Where an allowed call to a ThirdParty goes on the network: one address of its host, judged, and Envoy is held to it.

Envoy asks after the call was allowed and before it connects. What is answered is the very address that it then connects
to, so no second look at the name, by whomever, can lead elsewhere (DNS rebinding; a second address behind a first one
that is dead). A name with any address that must not be reached is refused as a whole: who answers so is wrong or lies.

A refusal is told as a decision is, `unknown_destination`, under the id of the decision that had allowed the call, and
becomes a record with `cut: true`: no policy was wrong about it, and nothing was sent.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from typing import TYPE_CHECKING, Final

from envoy.service.auth.v3 import external_auth_pb2

from authz.decision import Decision, Reason
from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId
from authz.instant import NS_PER_S
from authz.policy.host import HostError, ThirdPartyHost, requested_host
from authz.proxy.header_names import EXT_AUTHZ, UPSTREAM_ADDRESS, X_REQUEST_ID
from authz.records.cut_call import CutCall
from authz.request import Direction
from authz.sidecar.check.answer import answer_bytes
from authz.sidecar.check.question import protocol_of
from authz.sidecar.errors import CheckMessageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext

    from authz.sidecar.egress.networks import IpAddress, ReachableNetworks
    from authz.sidecar.egress.resolution import Addresses, NameResolution

_log = logging.getLogger(__name__)

#: What a route says of its destination: the ThirdParty, its one host ("" for a wildcard's: the call's own), the port.
THIRD_PARTY_KEY: Final = "third_party"
HOST_KEY: Final = "host"
PORT_KEY: Final = "port"
WORKLOAD_KEY: Final = "workload"

_DECISION_ID_CHARS: Final = 32
_FORBIDDEN: Final = 403
_LOG_INTERVAL_S: Final = 10.0
_GRPC: Final = "grpc"
_VERSIONS: Final = {"HTTP/1.0": b"HTTP/1.0", "HTTP/1.1": b"HTTP/1.1", "HTTP/2": b"HTTP/2"}


class AddressAnswers:
    """Answers for one sidecar; `refused` gets each call that may not go where its host's name leads."""

    def __init__(
        self,
        *,
        resolution: NameResolution,
        networks: ReachableNetworks,
        refused: Callable[[CutCall], None],
        is_own: Callable[[IpAddress], bool] | None = None,
    ) -> None:
        self._resolution = resolution
        self._networks = networks
        self._refused = refused
        self._is_own = is_this_machines if is_own is None else is_own
        self._turn = 0
        self._said_s = -_LOG_INTERVAL_S
        #: how many calls were refused
        self.refusals = 0

    async def answer(self, request: external_auth_pb2.CheckRequest) -> bytes:
        """Give an allow that names the address, or a deny.

        Raises CheckMessageError where the route does not say whose host it is, and ResolutionError where the name has
        no address now: Envoy is told that there is no answer, and refuses the call with a bare 503.
        """
        attributes = request.attributes
        name, port = _target(attributes)
        if name is None:
            return self._refuse(attributes, "its host is no name")
        addresses = await self._resolution.addresses(name)
        for address in addresses:
            what = self._networks.refusal(address)
            if what is None and self._is_own(address):
                what = "this machine's own"
            if what is not None:
                return self._refuse(attributes, f"`{name}` leads to {address}, {what}")
        return _allow(self._next(addresses), port)

    def _next(self, addresses: Addresses) -> IpAddress:
        """Choose one of the family that the resolver puts first (RFC 6724), each in its turn."""
        preferred = [address for address in addresses if address.version == addresses[0].version]
        self._turn += 1
        return preferred[self._turn % len(preferred)]

    def _refuse(self, attributes: AttributeContext, why: str) -> bytes:
        self.refusals += 1
        third_party = attributes.context_extensions.get(THIRD_PARTY_KEY, "")
        if time.monotonic() - self._said_s >= _LOG_INTERVAL_S:
            self._said_s = time.monotonic()
            _log.warning(
                "a call to ThirdParty `%s` is refused: %s (%d so far)", third_party[:64], why[:512], self.refusals
            )
        call = _call(attributes, third_party)
        self._refused(call)
        decision = Decision(reason=Reason.UNKNOWN_DESTINATION, policy=None, revision="")
        return answer_bytes(decision=decision, decision_id=call.decision_id, call=None, is_grpc=call.protocol == _GRPC)


def is_this_machines(address: IpAddress) -> bool:
    """Whether an address is one of the network namespace that this process is in: only such a one can be bound to."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004 IP has two versions
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))
        return True
    return False


def _target(attributes: AttributeContext) -> tuple[str | None, int]:
    """Give the name and the port to connect to; no name where the call's host is none of a wildcard's."""
    said = attributes.context_extensions
    port_text = said.get(PORT_KEY, "")
    if HOST_KEY not in said or not port_text.isdecimal() or not port_text.isascii():
        raise CheckMessageError("context_extensions do not say whose address is asked for")
    name = said[HOST_KEY]
    if not name:
        asked = requested_host(attributes.request.http.host)
        name = "" if asked is None else asked[0]
    with contextlib.suppress(HostError):
        host = ThirdPartyHost.parse(name)
        if not host.wildcard and host.port is None:
            return host.name, int(port_text)
    return None, int(port_text)


def _allow(address: IpAddress, port: int) -> bytes:
    text = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"  # noqa: PLR2004 as above
    response = external_auth_pb2.CheckResponse()
    response.status.code = 0
    response.ok_response.SetInParent()
    response.dynamic_metadata.update({UPSTREAM_ADDRESS: text})
    answer: bytes = response.SerializeToString()
    return answer


def _call(attributes: AttributeContext, third_party: str) -> CutCall:
    """Give what is recorded of a call that ends here."""
    http, began = attributes.request.http, attributes.request.time
    headers = {header.key: header.raw_value.decode("latin-1") for header in http.header_map.headers}
    protocol = protocol_of(_VERSIONS.get(http.protocol, b""), headers.get("content-type"), headers.get("upgrade"))
    said = attributes.metadata_context.filter_metadata.get(EXT_AUTHZ)
    fields = {} if said is None else {key: value.string_value for key, value in said.fields.items()}
    now_ns = time.time_ns()
    at = attributes.source.address.socket_address
    return CutCall(
        decision_id=fields.get("decision_id", "")[:_DECISION_ID_CHARS],
        request_id=headers.get(X_REQUEST_ID),
        direction=Direction.OUTBOUND,
        ended_ns=now_ns,
        duration_ns=max(0, now_ns - began.seconds * NS_PER_S - began.nanos),
        reason=Reason.UNKNOWN_DESTINATION,
        policy=fields.get("policy") or None,
        caller=_workload(attributes.context_extensions.get(WORKLOAD_KEY, "")),
        presenter=None,
        address=f"{at.address}:{at.port_value}" if at.address else "",
        service=None,
        third_party=third_party or None,
        host=http.host,
        method=http.method,
        path=http.path,
        protocol=protocol,
        tls_version=None,
        tls_cipher=None,
        serial=None,
        status=_FORBIDDEN,
        received_bytes=0,
        sent_bytes=0,
    )


def _workload(text: str) -> SpiffeId | None:
    try:
        return SpiffeId.parse(text) if text else None
    except IdentityError:
        return None
