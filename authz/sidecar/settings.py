"""What a sidecar is told at its start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from authz.sidecar.record_ring import DEFAULT_CAPACITY_BYTES

if TYPE_CHECKING:
    from pathlib import Path

#: two are enough for availability, and one is enough for speed; more than this is a mistake
MAX_WORKERS: Final = 16
#: how often hours are worked out anew; the index is exact for 34 days, and denies from 400 days on
RENEWAL_S: Final = 24 * 3600.0

#: hours of a busy sidecar's batches: one of some hundred flows has about 10 KiB, packed
SPOOL_MAX_BYTES: Final = 64 * 1024 * 1024
#: decision logs that were moved away
DECISION_LOG_FILES: Final = 5


class CheckTransport(StrEnum):
    """Who speaks HTTP/2 with Envoy."""

    #: processes apart: workers that only answer, a compiler, control
    NATIVE = "native"
    #: grpcio, everything in one process; the fallback
    GRPCIO = "grpcio"


class Audit(StrEnum):
    """What becomes of a call whose record finds no room."""

    #: it is answered as it was decided, and the loss is counted
    BEST_EFFORT = "best-effort"
    #: it is denied, `overloaded`
    STRICT = "strict"


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSettings:
    """What a sidecar is told at its start.

    Its identity comes from `identity_directory` (svid.pem, key.pem and bundles as files), from the `workload_api` at
    this socket, or is the Service's first exact one. `sds_socket` is where Envoy gets it, `svid_files` where it is kept
    as files for those who can read nothing else. Long calls are held on `hold_socket`, where there is one.
    `listeners` is the file of Envoy's listeners, which is changed to drain what is not held. On
    `egress_socket` Envoy asks for the addresses of ThirdParties: public ones, or in the private `egress_networks`.
    `authorities` says of files that the policies name (`certificates`) where they are read from instead.

    `unsafe_clock_file` says what is taken for the time, in tests. `accept_clock`: the clock is right, whatever was seen
    before.

    `hub` is where records go, with the token in `hub_token_file`; `metrics` is HOST:PORT. A decision log that has
    `decision_log_max_bytes` is moved away, and so many moved ones are kept.
    """

    service: str
    policies: str
    socket: str
    state: Path | None = None
    decision_log: str | None = None
    identity_directory: str | None = None
    workload_api: str | None = None
    sds_socket: str | None = None
    svid_files: str | None = None
    access_log_socket: str | None = None
    decision_log_max_bytes: int | None = None
    decision_log_files: int = DECISION_LOG_FILES
    hub: str | None = None
    hub_token_file: str | None = None
    spool_max_bytes: int = SPOOL_MAX_BYTES
    metrics: str | None = None
    otlp_endpoint: str | None = None
    hold_socket: str | None = None
    listeners: str | None = None
    egress_socket: str | None = None
    egress_networks: tuple[str, ...] = ()
    authorities: tuple[tuple[str, str], ...] = ()
    workers: int = 1
    audit: Audit = Audit.BEST_EFFORT
    ring_bytes: int = DEFAULT_CAPACITY_BYTES
    renewal_s: float = RENEWAL_S
    unsafe_clock_file: str | None = None
    accept_clock: bool = False

    @property
    def has_services(self) -> bool:
        """Whether control is to speak over sockets."""
        return any(
            each is not None
            for each in (
                self.sds_socket,
                self.workload_api,
                self.access_log_socket,
                self.egress_socket,
                self.hub,
                self.metrics,
                self.otlp_endpoint,
            )
        )

    @property
    def keeps_records(self) -> bool:
        """Whether anybody is told of decisions."""
        return any(each is not None for each in (self.decision_log, self.hub, self.metrics, self.otlp_endpoint))

    @property
    def delivers_identity(self) -> bool:
        """Whether control has more to do with the identity than to read it from files for the workers."""
        return (
            self.workload_api is not None
            or self.sds_socket is not None
            or self.svid_files is not None
            or (self.hub is not None and self.identity_directory is not None)
        )

    @property
    def has_identity_source(self) -> bool:
        """Whether the workload's identity comes from elsewhere than the policy set."""
        return self.identity_directory is not None or self.workload_api is not None


def default_workers() -> int:
    """Give how many workers run where nothing is said: two where there is a core for each of them."""
    return 2 if len(os.sched_getaffinity(0)) > 1 else 1
