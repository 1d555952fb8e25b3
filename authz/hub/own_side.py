"""What a sidecar whose Service is proven may tell: calls that its Service received, and calls that it made. Pure.

A sidecar that somebody has taken over can write anything about its own Service. It cannot write that another one was
called, or called: such flows and records are left out, and counted. The others of the batch are kept.

# INVARIANT (own side): inbound the destination, outbound the caller is the sender's own Service, or has no name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.hub.kept_record import unpacked
from authz.hub.series import SERVICE, UNKNOWN
from authz.identity.spiffe_id import SpiffeId
from authz.request import Direction

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.hub.arrival import Arrival
    from authz.hub.kept_record import KeptRecord
    from authz.hub.series import Series

_COUNT: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A sidecar by its proven identity: the Service that the policies say it is, and whose other identities are."""

    service: str
    identity: SpiffeId
    owner_of: Callable[[SpiffeId], str | None]

    def tells_of_its_own(self, direction: str, side: str, kind: str, identity: str | None) -> bool:
        """Whether the own side of a call is the sender's; one without a name is nobody else's."""
        if kind not in {SERVICE, UNKNOWN} or (kind == SERVICE and side != self.service):
            return False
        return direction == Direction.INBOUND.value or identity is None or self._is_own(identity)

    def _is_own(self, text: str) -> bool:
        try:
            identity = SpiffeId.parse(text)
        except AuthzError:
            return False
        return identity == self.identity or self.owner_of(identity) == self.service


def own_side(arrival: Arrival, sender: Sender) -> tuple[Arrival, int]:
    """Leave out what is not the sender's to tell, and say how many decisions and records that were."""
    foreign = {number for number, each in arrival.series.items() if not _is_own(each, sender)}
    records = [each for each in arrival.records if _is_own_record(each, sender)]
    left_out = len(arrival.records) - len(records)
    if not foreign and not left_out:
        return arrival, 0
    left_out += sum(row[_COUNT] for row in arrival.rows if row[1] in foreign)
    return replace(
        arrival,
        series={number: each for number, each in arrival.series.items() if number not in foreign},
        rows=[row for row in arrival.rows if row[1] not in foreign],
        records=records,
    ), left_out


def _is_own(series: Series, sender: Sender) -> bool:
    inbound = series.direction == Direction.INBOUND.value
    side, kind = (series.target, series.target_kind) if inbound else (series.source, series.source_kind)
    return sender.tells_of_its_own(series.direction, side, kind, series.identity)


def _is_own_record(kept: KeptRecord, sender: Sender) -> bool:
    record = unpacked(kept.body)
    side = record["destination"] if record["direction"] == Direction.INBOUND.value else record["caller"]
    service, third_party = side["service"], side["third_party"]
    kind = SERVICE if service else "third_party" if third_party else UNKNOWN
    return sender.tells_of_its_own(record["direction"], service or "", kind, record["caller"]["identity"])
