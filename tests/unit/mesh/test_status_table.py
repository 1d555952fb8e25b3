"""The table of `mesh status`: whose SVID ends when, and what keeps it from being renewed."""

from __future__ import annotations

from datetime import UTC, datetime

from authz.mesh.state import RunningService
from authz.mesh.status import MeshStatus, PolicyStatus, ServiceStatus
from authz.mesh.status_table import status_table
from authz.sidecar.reported_status import ReportedClock, ReportedDrain, ReportedIdentity, ReportedPeer

_SERVICE = RunningService(
    name="orders",
    identity="spiffe://shop.example/orders",
    app="127.0.0.1:1",
    inbound="127.0.0.1:2",
    outbound="127.0.0.1:3",
    admin="unix:/run/x",
    authz_socket="/run/y",
    decision_log="/s/orders.jsonl",
    certificate="/s/svid.pem",
    key="/s/key.pem",
    bundle="/s/bundle.pem",
    sidecar_state="/s/orders",
)


def table(
    identity: ReportedIdentity | None,
    *,
    issuer: int | None = 4711,
    drain: ReportedDrain | None = None,
    clock: ReportedClock | None = None,
) -> str:
    service = ServiceStatus(
        service=_SERVICE,
        pids={"sidecar": 12},
        policy=PolicyStatus(usable=True, revision="r"),
        not_ready=(),
        identity=identity,
        drain=drain,
        clock=clock,
    )
    return status_table(
        MeshStatus(
            supervisor=4710, policies="policies", services=(service,), third_parties=(), complete=True, issuer=issuer
        )
    )


def identity(*, stale: bool = False, fault: str | None = None) -> ReportedIdentity:
    return ReportedIdentity(
        source="spire:/run/w.sock",
        spiffe_id=_SERVICE.identity,
        not_after=datetime(2026, 11, 23, 15, tzinfo=UTC),
        stale=stale,
        lag_s=0.0,
        fault=fault,
        sds_fault=None,
    )


def test_each_service_has_the_end_of_its_svid_beside_it() -> None:
    text = table(identity())
    assert "2026-11-23T15:00:00Z" in text
    assert "stale" not in text
    assert "2026" not in table(None)


def test_an_identity_whose_source_is_silent_is_stale_and_says_why_on_one_line() -> None:
    text = table(identity(stale=True, fault="gone\n\x1b[2Jforged"))
    assert "2026-11-23T15:00:00Z (stale)" in text
    assert r"orders: `gone\n\x1b[2Jforged`" in text


def test_the_issuer_is_named_or_missed() -> None:
    assert "supervisor 4710, issuer 4711" in table(identity())
    assert "no issuer" in table(identity(), issuer=None)


def test_drains_are_told_with_what_they_ended_and_what_failed() -> None:
    told = table(None, drain=ReportedDrain(drains=3, ended_calls=12, failed=0))
    assert "orders: 3 times, which ended 12 calls" in told
    assert "failed" not in told
    assert "it failed 2 times" in table(None, drain=ReportedDrain(drains=0, ended_calls=0, failed=2))
    assert "drained" not in table(None, drain=ReportedDrain(drains=0, ended_calls=0, failed=0))


def test_the_clock_of_each_service_that_was_called_is_beside_the_callers() -> None:
    def clock(*peers: ReportedPeer) -> ReportedClock:
        return ReportedClock(
            behind=False,
            latest=None,
            steps_forward=0,
            steps_back=0,
            last_step_s=None,
            unsafe=False,
            fault=None,
            peers=peers,
        )

    ahead = ReportedPeer(service="catalog", skew_s=0.0004, within_s=0.0021, seen=datetime(2026, 11, 23, tzinfo=UTC))
    behind = ReportedPeer(service="pay\x1bments", skew_s=-3600.0, within_s=0.4, seen=None)
    told = table(None, clock=clock(ahead, behind)).splitlines()
    assert told[-2] == "clocks of the Services that each has called, beside its own:"
    assert told[-1] == r"orders: `catalog` +0.000 s (within 0.002 s), `pay\x1bments` -3600.000 s (within 0.400 s)"
    assert "called" not in table(None, clock=clock())
