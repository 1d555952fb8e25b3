"""A call as a person or a tool asks about it, in the words of PolicyTest and `authz check`, and which Call it is.

`from` and `to` are names of the set, SPIFFE IDs or hosts; what is left out is filled in as the language says. Whether
the call is allowed is not decided here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId
from authz.policy.errors import PolicyError, nearest, quoted
from authz.policy.host import is_well_formed, requested_host
from authz.policy.route import GrpcMethod, RouteError
from authz.request import MAX_HEADERS_BYTES, Call, Direction, TlsVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.policy.schema import Service, ThirdParty

_SPIFFE: Final = "spiffe://"
_NAME_LIKE: Final = re.compile(r"[a-z0-9-]{1,63}")
# RFC 9110 5.1: a field name is a token.
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class AskedCallError(PolicyError):
    """A call cannot be understood as it was asked."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        #: the field that is at fault, where it is one
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCall:
    """A call in the words that it was asked in; None is what was left out."""

    caller: str | None = None
    destination: str | None = None
    method: str | None = None
    path: str | None = None
    grpc: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    tls: TlsVersion | None = None
    direction: Direction | None = None
    host: str | None = None


class Directory:
    """The names of a set, and the hosts that stand for them: what a call's `from` and `to` are looked up in."""

    __slots__ = ("_service_hosts", "services", "third_parties")

    def __init__(self, services: Mapping[str, Service], third_parties: Mapping[str, ThirdParty]) -> None:
        self.services = services
        self.third_parties = third_parties
        self._service_hosts = {host: service.name for service in services.values() for host in service.hosts}

    def call(self, asked: AskedCall) -> Call:
        """Give the Call that was asked about; raises AskedCallError that says what to give instead."""
        caller, third_party = self._caller(asked.caller)
        method, path, headers = _operation(asked)
        service, direction, host = self._destination(asked)
        if direction is Direction.OUTBOUND:
            if asked.caller in self.third_parties and asked.destination in self.third_parties:
                raise AskedCallError(
                    f"{quoted(asked.caller or '')} and {quoted(asked.destination or '')} are both ThirdParties: "
                    "no sidecar stands between them",
                    field="to",
                )
            service = asked.caller if asked.caller in self.services else ""
        return Call(
            direction=direction,
            service=service or "",
            caller=caller,
            method=method,
            path=path,
            host=host,
            headers=headers,
            # The version of an outbound call is the destination's, whatever was asked.
            tls=(asked.tls or TlsVersion.TLS_1_3) if direction is Direction.INBOUND else None,
            third_party=third_party,
        )

    def _caller(self, name: str | None) -> tuple[SpiffeId | None, str | None]:
        """Give the SPIFFE ID of the caller, or the name of a ThirdParty that has none and is known by certificates."""
        if not name:
            return None, None
        if name.startswith(_SPIFFE):
            try:
                return SpiffeId.parse(name), None
            except IdentityError as error:
                raise AskedCallError(str(error), field="from") from error
        third_party = self.third_parties.get(name)
        owner = self.services.get(name) or third_party
        if owner is None:
            hint = nearest(name, [*self.services, *self.third_parties])
            raise AskedCallError(f"there is no Service or ThirdParty {quoted(name)}{hint}", field="from")
        for pattern in owner.identities:
            if pattern.exact is not None:
                return pattern.exact, None
        if third_party is not None and third_party.certificates:
            return None, third_party.name
        example = f", such as {quoted(str(owner.identities[0]))} with a value for each `*`" if owner.identities else ""
        raise AskedCallError(f"{quoted(name)} has no exact identity; give a SPIFFE ID{example}", field="from")

    def _destination(self, asked: AskedCall) -> tuple[str | None, Direction, str]:
        """Give the destination Service (None for none), the direction, and the Host header."""
        to = asked.destination
        if not to:
            raise AskedCallError("`to` is required: a Service, a ThirdParty or a host", field="to")
        third_party = self.third_parties.get(to)
        if third_party is not None:
            if asked.direction is Direction.INBOUND:
                raise AskedCallError(
                    f"{quoted(to)} is a ThirdParty: calls to it are outbound, never inbound", field="direction"
                )
            return None, Direction.OUTBOUND, _exact_host(third_party) if asked.host is None else asked.host
        if to in self.services:
            return to, asked.direction or Direction.INBOUND, to if asked.host is None else asked.host
        service = self._service_at(to)
        if service is None and _NAME_LIKE.fullmatch(to):
            hint = nearest(to, [*self.services, *self.third_parties])
            raise AskedCallError(
                f"there is no Service or ThirdParty {quoted(to)}{hint} (a host has a dot or a port)", field="to"
            )
        if asked.direction is Direction.INBOUND:
            return service or to, Direction.INBOUND, to if asked.host is None else asked.host
        return None, Direction.OUTBOUND, to if asked.host is None else asked.host

    def _service_at(self, host: str) -> str | None:
        """Give the Service that a host addresses, if any."""
        requested = requested_host(host) if is_well_formed(host) else None
        if requested is None:
            return None
        name = requested[0]
        return name if name in self.services else self._service_hosts.get(name)


def _exact_host(third_party: ThirdParty) -> str:
    for host in third_party.hosts:
        if not host.wildcard:
            return str(host)
    if third_party.hosts:
        raise AskedCallError(
            f"{quoted(third_party.name)} has no exact host; give one that `{third_party.hosts[0]}` stands for",
            field="to",
        )
    raise AskedCallError(
        f"{quoted(third_party.name)} has no hosts, so it is never called; give a ThirdParty with hosts, or a host",
        field="to",
    )


def _operation(asked: AskedCall) -> tuple[str, str, tuple[tuple[str, bytes], ...]]:
    """Give method, path and headers."""
    headers = _headers(asked.headers)
    if asked.grpc is None:
        for field, value in (("method", asked.method), ("path", asked.path)):
            if value is None:
                raise AskedCallError(f"`{field}` is required; give `method` and `path`, or `grpc`")
        return asked.method or "", asked.path or "", headers
    for field, value in (("method", asked.method), ("path", asked.path)):
        if value is not None:
            raise AskedCallError(f"`grpc` stands for method and path; leave `{field}` out", field=field)
    try:
        method = GrpcMethod.parse(asked.grpc)
    except RouteError as error:
        raise AskedCallError(str(error), field="grpc") from error
    if method.method is None:
        raise AskedCallError(f"{quoted(asked.grpc)}: a call has one method; name it", field="grpc")
    if all(name != "content-type" for name, _ in headers):
        headers = (*headers, ("content-type", b"application/grpc"))
    return "POST", f"/{method}", headers


def _headers(given: tuple[tuple[str, str], ...]) -> tuple[tuple[str, bytes], ...]:
    headers = []
    size_bytes = 0
    for name, value in given:
        if not _HEADER_NAME.fullmatch(name):
            raise AskedCallError(f"{quoted(name)} is no header name", field="headers")
        try:
            content = value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise AskedCallError(f"the header {quoted(name)} has a value that is no text", field="headers") from error
        size_bytes += len(name) + len(content)
        headers.append((name.lower(), content))
    if size_bytes > MAX_HEADERS_BYTES:
        raise AskedCallError(f"the headers have {size_bytes} bytes; {MAX_HEADERS_BYTES} are allowed", field="headers")
    return tuple(headers)
