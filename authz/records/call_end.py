"""What is known of a call once it has ended, beside its decision: from the proxy that carried it."""

from __future__ import annotations

from typing import NamedTuple

#: version and cipher, as records have them
UpstreamTls = tuple[str, str]


class CallEnd(NamedTuple):
    """The end of one call; a tuple, because it is made for every call.

    `status` is None where there was no answer. `received_bytes` came from the caller and `sent_bytes` went to it, both
    of bodies only. `unreached`: it was let through, and never arrived.
    `is_odd`: something else than an answer from the destination ended it. `tls` is that of the connection by which it
    went on to a third party, None where there was none, or where the destination's own sidecar tells of it.
    """

    ended_ns: int
    duration_us: int
    status: int | None
    received_bytes: int
    sent_bytes: int
    unreached: bool = False
    is_odd: bool = False
    tls: UpstreamTls | None = None


class RunningBytes(NamedTuple):
    """How much of a call that still runs has gone over the wire by `at_ns`, in all."""

    at_ns: int
    received_bytes: int
    sent_bytes: int
