"""What is asked: one API call, as the enforcement point saw it.

A :class:`Call` holds what the wire said, unjudged: a path may be malformed, a caller may be unknown. It is
the evaluation's task to judge. `now` is no field: it is passed beside the call, read once per decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.identity.spiffe_id import SpiffeId

#: NIST SP 800-204B calls it the PEP's request context; Envoy sends at most 60 KiB of headers by default.
MAX_HEADERS_BYTES = 64 * 1024


class Direction(StrEnum):
    """Which side of the call the sidecar stands on: before the callee, or after the caller."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class TlsVersion(StrEnum):
    """A TLS protocol version under the name that Envoy gives it; later members are stronger."""

    TLS_1_2 = "TLSv1_2"
    TLS_1_3 = "TLSv1_3"


class HeaderTable(Protocol):
    """Headers that are kept as they came, and read when they are asked for."""

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Give lower-case names with raw values, in order, repeats kept."""
        ...

    def values(self, name: str) -> list[bytes]:
        """Give every value of a header, in order."""
        ...


Headers: TypeAlias = "tuple[tuple[str, bytes], ...] | HeaderTable"


def header_values(headers: Headers, name: str) -> list[bytes]:
    """Give every value of a header, in order."""
    if isinstance(headers, tuple):
        return [value for each, value in headers if each == name]
    return headers.values(name)


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Call:
    """One call between workloads; never changed, though not frozen: that would double what making one costs.

    `caller` is the verified SPIFFE ID, or None where no identity could be verified.
    `service` is the Service whose sidecar asks: the destination of an inbound call, the caller of an outbound one.
    `host` is the Host or :authority header as received; it names the destination of an outbound call and selects
    nothing inbound. `path` is the raw request target: still encoded, with its query. `headers` are in order, with
    lower-case names and repeats kept. `tls` is None where the connection's version is not known. `serial` is the
    serial number, in hex, of the certificate of whoever opened the connection; None where there was none.

    `third_party` names the ThirdParty that a certificate without SPIFFE ID proved; it counts where `caller` is None.
    `presenter` is the X.509 peer of a call whose `caller` is the subject of a verified JWT-SVID; None where the
    caller speaks for itself.
    """

    direction: Direction
    service: str
    caller: SpiffeId | None
    method: str
    path: str
    host: str
    headers: Headers = ()
    tls: TlsVersion | None = None
    address: str = ""
    serial: str | None = None
    third_party: str | None = None
    presenter: SpiffeId | None = None
