"""What a sidecar's status file says, read by others: `mesh status` and `doctor`.

A file is another process's word: one that is damaged, or too large, is none. Texts in it come from peers and policy
files, and are escaped by who shows them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, Final

from authz.svid_files import SvidFilesError, read_public_file

FILE_NAME: Final = "status.json"
#: a status file lists every fault of a policy set
MAX_STATUS_FILE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedIdentity:
    """The identity that a sidecar has from its source; `stale` for `lag_s`: the source says nothing new."""

    source: str
    spiffe_id: str | None
    not_after: datetime | None
    stale: bool
    lag_s: float
    fault: str | None
    sds_fault: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedFederation:
    """How it stands with one federated trust domain; `origin` None: there is no bundle of it."""

    trust_domain: str
    origin: str | None
    sequence: int | None
    last_success: datetime | None
    endpoint_error: str | None
    file_error: str | None
    next_poll: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedPeer:
    """By how much the clock of a Service's sidecar is ahead, to within how much, as seen then."""

    service: str
    skew_s: float
    within_s: float
    seen: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedClock:
    """How it stands with a sidecar's clock; `latest` is None unless the clock is behind it."""

    behind: bool
    latest: datetime | None
    steps_forward: int
    steps_back: int
    #: by how much it was set the last time, None where it never was
    last_step_s: float | None
    unsafe: bool
    fault: str | None
    peers: tuple[ReportedPeer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedDrain:
    """How often a sidecar had connections drained, how many calls that ended, and how often it failed."""

    drains: int
    ended_calls: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedStatus:
    """A whole status file; `identity` is None without a source, `federation` empty where nothing is followed."""

    pid: int
    service: str
    ready: bool
    revision: str | None
    stale: bool
    faults: tuple[str, ...]
    identity: ReportedIdentity | None = None
    federation: tuple[ReportedFederation, ...] = ()
    clock: ReportedClock | None = None
    drain: ReportedDrain | None = None


def reported_status(state: str | Path) -> ReportedStatus | None:
    """Read the status file in a sidecar's state folder; None where there is none that can be read."""
    try:
        content = read_public_file(Path(state, FILE_NAME), max_bytes=MAX_STATUS_FILE_BYTES)
    except SvidFilesError:
        return None
    return status_from_json(content)


def status_from_json(content: bytes) -> ReportedStatus | None:
    """Read what a sidecar has written; None for anything else."""
    if len(content) > MAX_STATUS_FILE_BYTES:
        return None
    try:
        data = json.loads(content)
        identity, clock, drain = data.get("identity"), data.get("clock"), data.get("drain")
        return ReportedStatus(
            pid=_number(data["pid"]),
            service=_text(data["service"]),
            ready=data["ready"] is True,
            revision=_optional(data["revision"]),
            stale=data["stale"] is True,
            faults=tuple(map(_text, data["faults"])),
            identity=None if identity is None else _identity(identity),
            federation=tuple(map(_federation, data.get("federation", ()))),
            clock=None if clock is None else _clock(clock),
            drain=None if drain is None else _drain(drain),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _identity(data: Any) -> ReportedIdentity:
    return ReportedIdentity(
        source=_text(data["source"]),
        spiffe_id=_optional(data["spiffe_id"]),
        not_after=_instant(data["not_after"]),
        stale=data["stale"] is True,
        lag_s=float(data["lag"]),
        fault=_optional(data["fault"]),
        sds_fault=_optional(data["sds_fault"]),
    )


def _federation(data: Any) -> ReportedFederation:
    return ReportedFederation(
        trust_domain=_text(data["trust_domain"]),
        origin=_optional(data["origin"]),
        sequence=None if data["sequence"] is None else _number(data["sequence"]),
        last_success=_instant(data["last_success"]),
        endpoint_error=_optional(data["endpoint_error"]),
        file_error=_optional(data["file_error"]),
        next_poll=_instant(data["next_poll"]),
    )


def _clock(data: Any) -> ReportedClock:
    step = data["last_step"]
    return ReportedClock(
        behind=data["behind"] is True,
        latest=_instant(data["latest"]),
        steps_forward=_number(data["steps_forward"]),
        steps_back=_number(data["steps_back"]),
        last_step_s=None if step is None else float(step["seconds"]),
        unsafe=data["unsafe"] is True,
        fault=_optional(data["fault"]),
        peers=tuple(map(_peer, data.get("peers", ()))),
    )


def _peer(data: Any) -> ReportedPeer:
    return ReportedPeer(
        service=_text(data["service"]),
        skew_s=_finite(data["skew_s"]),
        within_s=_finite(data["within_s"]),
        seen=_instant(data["seen"]),
    )


def _drain(data: Any) -> ReportedDrain:
    return ReportedDrain(
        drains=_number(data["drains"]), ended_calls=_number(data["ended_calls"]), failed=_number(data["failed"])
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _optional(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _finite(value: Any) -> float:
    number = float(value)
    if not isfinite(number):
        raise ValueError
    return number


def _instant(value: Any) -> datetime | None:
    if value is None:
        return None
    instant = datetime.fromisoformat(_text(value))
    return instant.astimezone(UTC) if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
