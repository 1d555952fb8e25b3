"""The status of a mesh as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.identity.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from authz.mesh.status import MeshStatus, ServiceStatus, ThirdPartyStatus
    from authz.sidecar.reported_status import ReportedClock, ReportedIdentity

_HEADINGS = ("NAME", "STATE", "IDENTITY", "UNTIL", "INBOUND", "OUTBOUND", "APP", "PIDS")
_SHORT_REVISION = 12


def status_table(status: MeshStatus) -> str:
    """Give the lines for a terminal: one for each Service and ThirdParty, then what is wrong."""
    rows = [_HEADINGS, *map(_service_row, status.services), *map(_third_party_row, status.third_parties)]
    revision = "mixed or unknown" if status.revision is None else status.revision[:_SHORT_REVISION]
    how = "ready" if status.ready else "not ready"
    issuer = "no issuer" if status.issuer is None else f"issuer {status.issuer}"
    first = f"mesh {how}, policies `{status.policies}`, revision {revision}, supervisor {status.supervisor}, {issuer}"
    if status.hub_url is not None:
        first += f", hub {status.hub_url}/" + ("" if status.hub is not None else " (does not serve)")
    return "\n".join([first, "", *_aligned(rows), *_remarks(status)])


def _service_row(one: ServiceStatus) -> tuple[str, ...]:
    service = one.service
    state = _state(one.not_ready, stale=one.policy.stale)
    pids = _pids(one.pids)
    until = _until(one.identity)
    return (service.name, state, service.identity, until, service.inbound, service.outbound, service.app, pids)


def _third_party_row(one: ThirdPartyStatus) -> tuple[str, ...]:
    third_party = one.third_party
    name = f"{third_party.name} (third party)"
    address = third_party.address or "-"
    identity = third_party.identity or "-"
    return (name, _state(one.not_ready, stale=False), identity, "-", "-", "-", address, _pids(one.pids))


def _state(not_ready: tuple[str, ...], *, stale: bool) -> str:
    if not_ready:
        return "waits for " + ", ".join(part.replace("_", "-") for part in not_ready)
    return "stale" if stale else "ready"


def _until(identity: ReportedIdentity | None) -> str:
    """Say until when the SVID is good; one whose source says nothing new is used until then, and not renewed."""
    if identity is None or identity.not_after is None:
        return "-"
    return f"{identity.not_after:%Y-%m-%dT%H:%M:%SZ}{' (stale)' if identity.stale else ''}"


def _pids(pids: dict[str, int]) -> str:
    return " ".join(f"{role.replace('_', '-')} {pid}" for role, pid in pids.items()) or "-"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _remarks(status: MeshStatus) -> Iterator[str]:
    """Say once what keeps the newest policies from being used, however many sidecars have found it."""
    faults = sorted({fault for one in status.services for fault in one.policy.faults})
    if faults:
        yield ""
        yield "the newest policies are not used, the last good ones stay in force:"
        yield from faults
    troubles = [
        f"{one.service.name}: {quoted(fault)}"
        for one in status.services
        if one.identity is not None
        for fault in (one.identity.fault, one.identity.sds_fault)
        if fault is not None
    ]
    if troubles:
        yield ""
        yield "identities that are not as they should be:"
        yield from troubles
    drains = [
        f"{one.service.name}: {one.drain.drains} times, which ended {one.drain.ended_calls} calls"
        + (f"; it failed {one.drain.failed} times, its log says why" if one.drain.failed else "")
        for one in status.services
        if one.drain is not None and (one.drain.drains or one.drain.failed)
    ]
    if drains:
        yield ""
        yield "connections were drained, as calls on them had lost their permission:"
        yield from drains
    clocks = [f"{one.service.name}: {text}" for one in status.services for text in _clock_remarks(one.clock)]
    if clocks:
        yield ""
        yield "clocks that are not as they should be:"
        yield from clocks
    peers = [
        f"{one.service.name}: {_peer_clocks(one.clock)}" for one in status.services if one.clock and one.clock.peers
    ]
    if peers:
        yield ""
        yield "clocks of the Services that each has called, beside its own:"
        yield from peers


def _peer_clocks(clock: ReportedClock) -> str:
    return ", ".join(
        f"{quoted(peer.service)} {peer.skew_s:+.3f} s (within {peer.within_s:.3f} s)" for peer in clock.peers
    )


def _clock_remarks(clock: ReportedClock | None) -> Iterator[str]:
    if clock is None:
        return
    if clock.unsafe:
        yield "--unsafe-clock-file says what the time is"
    if clock.latest is not None:
        yield (
            f"behind {clock.latest:%Y-%m-%dT%H:%M:%SZ}, which it has shown before: calls are decided at both;"
            " `authz mesh up --accept-clock` forgets that"
        )
    elif clock.last_step_s is not None:
        times = f"{clock.steps_forward} times forward, {clock.steps_back} times back"
        yield f"set {times}, the last time by {clock.last_step_s:.3f} s"
    if clock.fault is not None:
        yield quoted(clock.fault)
