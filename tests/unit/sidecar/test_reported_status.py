"""A status file that others read: what a sidecar has written reads back, and nothing else is believed."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from authz.sidecar.control.status_file import StatusFile
from authz.sidecar.reported_status import (
    MAX_STATUS_FILE_BYTES,
    ReportedDrain,
    ReportedPeer,
    ReportedStatus,
    reported_status,
    status_from_json,
)

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY: dict[str, object] = {
    "source": "spire:/run/w.sock",
    "spiffe_id": "spiffe://shop.example/orders",
    "not_after": "2026-11-23T15:00:00.000Z",
    "stale": True,
    "lag": 4.5,
    "fault": "gone",
    "sds_fault": None,
}
PEER: dict[str, object] = {
    "service": "catalog",
    "skew_s": -1.5,
    "within_s": 0.002,
    "seen": "2026-11-23T15:00:00.000Z",
}
CLOCK: dict[str, object] = {
    "behind": False,
    "latest": None,
    "steps_forward": 0,
    "steps_back": 1,
    "last_step": {"seconds": -3600.0, "to": "2026-11-23T15:00:00.000Z"},
    "unsafe": False,
    "fault": None,
    "peers": [PEER],
}
DRAIN: dict[str, object] = {"drains": 3, "ended_calls": 12, "failed": 1}
FEDERATION: dict[str, object] = {
    "trust_domain": "acme.example",
    "origin": None,
    "sequence": None,
    "last_success": None,
    "endpoint_error": "no route",
    "file_error": None,
    "next_poll": "2026-11-23T15:00:00.000Z",
}


def test_what_a_sidecar_has_written_reads_back(tmp_path: Path) -> None:
    file = StatusFile(service="orders", state=tmp_path, pid=os.getpid())
    file.write(ready=True, revision="r", faults=("a",), identity=IDENTITY, federation=[FEDERATION], drain=DRAIN)
    told = reported_status(tmp_path)
    assert told is not None
    assert (told.pid, told.service, told.ready, told.stale, told.faults) == (os.getpid(), "orders", True, True, ("a",))
    assert told.identity is not None
    assert told.identity.not_after == datetime(2026, 11, 23, 15, tzinfo=UTC)
    assert (told.identity.stale, told.identity.lag_s, told.identity.fault) == (True, 4.5, "gone")
    [one] = told.federation
    assert (one.trust_domain, one.origin, one.endpoint_error) == ("acme.example", None, "no route")
    assert told.drain == ReportedDrain(drains=3, ended_calls=12, failed=1)


def test_what_is_known_of_other_clocks_reads_back_and_a_sidecar_that_says_nothing_of_them_knows_none(
    tmp_path: Path,
) -> None:
    file = StatusFile(service="orders", state=tmp_path, pid=os.getpid())
    for clock, peers in (
        (
            CLOCK,
            (
                ReportedPeer(
                    service="catalog", skew_s=-1.5, within_s=0.002, seen=datetime(2026, 11, 23, 15, tzinfo=UTC)
                ),
            ),
        ),
        ({name: value for name, value in CLOCK.items() if name != "peers"}, ()),
    ):
        file.write(ready=True, revision="r", faults=(), clock=clock)
        told = reported_status(tmp_path)
        assert told is not None
        assert told.clock is not None
        assert (told.clock.last_step_s, told.clock.peers) == (-3600.0, peers)


def test_a_folder_without_a_status_file_says_nothing(tmp_path: Path) -> None:
    assert reported_status(tmp_path) is None


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "status.json")
    assert reported_status(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"pid": "1"},
        {"pid": True},
        {"service": None},
        {"revision": 5},
        {"faults": [5]},
        {"identity": "x"},
        {"clock": {**CLOCK, "peers": 5}},
        {"clock": {**CLOCK, "peers": [{**PEER, "skew_s": "much"}]}},
        {"clock": {**CLOCK, "peers": [{**PEER, "skew_s": float("inf")}]}},
        {"clock": {**CLOCK, "peers": [{**PEER, "service": None}]}},
        {"identity": {**IDENTITY, "not_after": "soon"}},
        {"identity": {**IDENTITY, "lag": "x"}},
        {"federation": {}, "faults": 5},
        {"federation": [{}]},
    ],
)
def test_a_damaged_status_is_none(change: dict[str, object]) -> None:
    whole = {"pid": 5, "service": "a", "ready": True, "revision": None, "stale": False, "faults": []}
    assert status_from_json(json.dumps(whole).encode()) is not None
    assert status_from_json(json.dumps({**whole, **change}).encode()) is None


def test_a_status_that_is_too_large_is_none() -> None:
    assert status_from_json(b" " * (MAX_STATUS_FILE_BYTES + 1)) is None


@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["pid", "service", "ready", "revision", "stale", "faults", "identity", "federation"]), x
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_status_or_none(content: bytes) -> None:
    assert isinstance(status_from_json(content), ReportedStatus | None)
