"""What flows of one kind have in common: who calls whom, what, and how it was answered. Pure.

A series has the same id wherever it is seen first: a hash of what it says, so that a store need not be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from authz.decision import Verdict
from authz.insight.attempt import without_port
from authz.request import Direction

if TYPE_CHECKING:
    from authz.records.call_ends import Caller, Destination
    from authz.records.flow import FlowKey

#: who has neither a name nor an identity nor an address
NOBODY: Final = "(nobody)"

SERVICE, THIRD_PARTY, UNKNOWN = "service", "third_party", "unknown"


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of flow; `source` and `target` are the ends of its edge, by the names under which they stand.

    `counted`: each of its calls is one call of the edge; otherwise only those that never arrived are.
    """

    id: int
    sidecar: str
    direction: str
    source: str
    source_kind: str
    target: str
    target_kind: str
    identity: str | None
    presented_by: str | None
    address: str | None
    host: str
    method: str
    route: str | None
    protocol: str | None
    decision: str
    reason: str
    policy: str | None
    shadow_reason: str | None
    shadow_policy: str | None
    tls_version: str | None
    tls_cipher: str | None
    counted: bool


def series_of(key: FlowKey) -> Series:
    """Give the series of flows with this key, whatever the revision."""
    caller, destination, shadow = key.caller, key.destination, key.shadow
    source, source_kind = source_of(caller)
    target, target_kind = target_of(destination)
    verdict = key.reason.verdict
    said = (
        key.sidecar,
        key.direction.value,
        source,
        source_kind,
        target,
        target_kind,
        caller.identity,
        caller.presented_by,
        caller.address,
        destination.host,
        key.method,
        key.route,
        key.protocol,
        verdict.value,
        key.reason.value,
        key.policy,
        None if shadow is None else shadow.reason.value,
        None if shadow is None else shadow.policy,
        key.tls.version,
        key.tls.cipher,
        key.direction is Direction.INBOUND or verdict is Verdict.DENY or destination.service is None,
    )
    return Series(_id(said), *said)


def source_of(caller: Caller) -> tuple[str, str]:
    """Give the name under which a caller stands, and its kind: without a name its SPIFFE ID, else its address."""
    if caller.service:
        return caller.service, SERVICE
    if caller.third_party:
        return caller.third_party, THIRD_PARTY
    if caller.identity:
        return caller.identity, UNKNOWN
    return (without_port(caller.address) if caller.address else "") or NOBODY, UNKNOWN


def target_of(destination: Destination) -> tuple[str, str]:
    """Give the name under which a destination stands, and its kind: without a name its host."""
    if destination.service:
        return destination.service, SERVICE
    if destination.third_party:
        return destination.third_party, THIRD_PARTY
    return destination.host or NOBODY, UNKNOWN


def _id(values: tuple[Any, ...]) -> int:
    """Give 63 bits of a hash: a signed number of eight bytes, above 0."""
    digest = blake2b(repr(values).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 or 1
