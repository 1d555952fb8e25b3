"""What Prometheus reads of a sidecar: its numbers, and nothing that a caller has sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from authz.decision import Reason
from authz.sidecar.control.metrics import MetricsServer, SidecarMetrics, SidecarNow
from authz.sidecar.errors import SidecarError
from tests.support.recording_bench import RecordingBench, end_of

if TYPE_CHECKING:
    from pathlib import Path

NOW = SidecarNow(
    revision="a" * 64, ready=True, svid_expires_ns=1_800_000_000 * 10**9, lag_s=2.5, refused=7, skew_s=-1.5
)


def told(metrics: SidecarMetrics) -> dict[str, float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    text = generate_latest(registry).decode()
    return {
        sample.name + "".join(f",{label}={value}" for label, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_number_is_told(tmp_path: Path) -> None:
    bench = RecordingBench(tmp_path)
    control = bench.control()
    ids = [bench.put(reason=reason)[0] for reason in (Reason.ALLOWED, Reason.ALLOWED, Reason.NO_POLICY)]
    control.look()
    control.recording.heard([end_of(one) for one in ids[:2]])
    control.end()
    numbers = told(SidecarMetrics(control, shipper=None, now=lambda: NOW))
    assert numbers["authz_checks_total,decision=allow,direction=inbound,reason=allowed"] == 2
    assert numbers["authz_checks_total,decision=deny,direction=inbound,reason=no_policy"] == 1
    assert numbers["authz_check_duration_seconds_count"] == 3
    assert numbers["authz_check_duration_seconds_bucket,le=2.5e-05"] == 0
    assert numbers["authz_check_duration_seconds_bucket,le=5e-05"] == 3
    assert numbers["authz_check_duration_seconds_sum"] == pytest.approx(90e-6)
    assert (numbers["authz_calls_joined_total"], numbers["authz_calls_pending"]) == (2, 1)
    assert (numbers["authz_records_lost_total"], numbers["authz_records_dropped_total"]) == (0, 0)
    assert numbers["authz_spool_batches"] == 2
    assert numbers["authz_spool_bytes"] > 0
    assert numbers["authz_handshakes_failed_total"] == 0
    assert (numbers["authz_ready"], numbers["authz_policy_lag_seconds"]) == (1, 2.5)
    assert numbers[f"authz_policy_info,revision={'a' * 64}"] == 1
    assert numbers["authz_svid_expiry_timestamp_seconds"] == 1_800_000_000
    assert numbers["authz_checks_refused_total"] == 7
    assert numbers["authz_peer_clock_skew_seconds"] == -1.5


def test_no_caller_chooses_a_label_or_how_many_there_are(tmp_path: Path) -> None:
    bench = RecordingBench(tmp_path, joins=False)
    control = bench.control()
    before = None
    for number in range(50):
        bench.put(
            reason=Reason.MALFORMED,
            method=f"<script>{number}\x1b[2J",
            path="/" + "p" * 8000,
            host=f'h"{number}\n',
            caller=None,
            address=f"10.0.0.{number}:1",
        )
        control.look()
        names = set(told(SidecarMetrics(control, shipper=None, now=lambda: NOW)))
        before = before or names
        assert names == before
    assert not any(word in name for name in names for word in ("script", "\x1b", "10.0.0", "ppp"))
    control.end()


def test_it_is_served_over_http_and_nothing_else_is(tmp_path: Path) -> None:
    async def asked() -> None:
        server = MetricsServer(
            "127.0.0.1:0", SidecarMetrics(RecordingBench(tmp_path).control(), shipper=None, now=lambda: NOW)
        )
        ready = asyncio.Event()
        running = asyncio.create_task(server.run(ready.set))
        await ready.wait()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
            async with session.get("/metrics") as answer:
                assert answer.status == 200
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                assert "authz_ready 1.0" in await answer.text()
            for method, path in (("POST", "/metrics"), ("GET", "/"), ("GET", "/metrics/../x")):
                async with session.request(method, path) as answer:
                    assert answer.status in {404, 405}
        taken = MetricsServer(
            f"127.0.0.1:{server.port}",
            SidecarMetrics(RecordingBench(tmp_path / "2").control(), shipper=None, now=lambda: NOW),
        )
        with pytest.raises(SidecarError, match="cannot be listened on"):
            await taken.run(lambda: None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    (tmp_path / "2").mkdir()
    asyncio.run(asked())
