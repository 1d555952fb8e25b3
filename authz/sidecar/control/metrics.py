"""What the sidecar counts, as Prometheus reads it: `GET /metrics` on HOST:PORT.

Labels are words of closed lists and the revision in force, nothing that a caller sends: neither their number nor their
text is anybody else's choice. There is nothing in it that must not be read by who can reach the port: no identities, no
hosts, no paths.

The numbers are read where the main loop writes them, without waiting for it: each is one word, and a line may be of a
moment later than the one above it.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from authz.decision import Reason
from authz.instant import NS_PER_S
from authz.sidecar.control.call_recording import CHECK_US_BUCKETS
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from authz.sidecar.control.control_records import ControlRecords
    from authz.sidecar.control.shipper import Shipper

PATH: Final = "/metrics"
_US_PER_S: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarNow:
    """How the sidecar stands; `lag_s` is for how long newer files could not be used, `refused` checks were shed.

    `skew_s` is that of the clock that is furthest from ours, of all Services that were called; None where none was.
    """

    revision: str | None
    ready: bool
    svid_expires_ns: int | None
    lag_s: float
    refused: int
    skew_s: float | None = None


class SidecarMetrics:
    """Collects the numbers; `now` says how the sidecar stands."""

    def __init__(self, records: ControlRecords, *, shipper: Shipper | None, now: Callable[[], SidecarNow]) -> None:
        self._records = records
        self._shipper = shipper
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Give every metric, as prometheus-client asks for them."""
        yield from self._checks()
        yield from self._records_kept()
        yield from self._standing()

    def _checks(self) -> Iterator[Metric]:
        counted = self._records.recording.checks
        checks = CounterMetricFamily(
            "authz_checks", "Decisions, by direction and reason", labels=["direction", "decision", "reason"]
        )
        by_reason = dict(counted.by_reason)
        for (inbound, text), count in sorted(by_reason.items()):
            reason = Reason(text)
            checks.add_metric(["inbound" if inbound else "outbound", reason.verdict.value, reason.value], count)
        yield checks
        buckets, below = list(counted.check_us), 0
        cumulative: list[tuple[str, float]] = []
        for most, count in zip((*CHECK_US_BUCKETS, None), buckets, strict=True):
            below += count
            cumulative.append(("+Inf" if most is None else repr(most / _US_PER_S), below))
        yield HistogramMetricFamily(
            "authz_check_duration_seconds",
            "What deciding took, from the bytes of the check to those of its answer",
            buckets=cumulative,
            sum_value=counted.check_us_sum / _US_PER_S,
        )

    def _records_kept(self) -> Iterator[Metric]:
        records = self._records
        yield CounterMetricFamily("authz_records_lost", "Decisions without a record, for lack of room", records.lost)
        yield CounterMetricFamily("authz_rings_damaged", "How often a ring was found damaged", records.corrupt)
        yield CounterMetricFamily("authz_calls_unjoined", "Decisions whose call's end never came", records.unjoined)
        joins, shipping, spool = records.recording.joins, records.shipping, records.spool
        if joins is not None:
            yield CounterMetricFamily("authz_calls_joined", "Decisions whose call's end came", joins.joined)
            yield GaugeMetricFamily("authz_calls_pending", "Decisions whose call's end is waited for", joins.pending)
        yield CounterMetricFamily(
            "authz_handshakes_failed", "TLS handshakes that failed", records.journal.failed_handshakes
        )
        if shipping is None or spool is None:
            return
        yield CounterMetricFamily(
            "authz_records_unkept", "Denies that are counted in flows and not shipped in full",
            shipping.keeping.unkept + shipping.kept.refused,
        )  # fmt: skip
        yield CounterMetricFamily(
            "authz_records_dropped", "Decisions in batches that the spool had no room for", records.journal.dropped
        )
        yield GaugeMetricFamily("authz_spool_batches", "Batches that wait for the hub", len(spool))
        yield GaugeMetricFamily("authz_spool_bytes", "What they have", spool.size_bytes)
        refused = records.batches is not None and records.batches.refused
        yield GaugeMetricFamily("authz_spool_refuses", "Whether the spool takes nothing: full, or its disk is", refused)
        if self._shipper is not None:
            yield CounterMetricFamily("authz_batches_shipped", "Batches that the hub has taken", self._shipper.shipped)
            yield CounterMetricFamily(
                "authz_batches_refused", "Batches that the hub refused for good", self._shipper.set_aside
            )

    def _standing(self) -> Iterator[Metric]:
        now = self._now()
        yield GaugeMetricFamily("authz_ready", "Whether the sidecar decides by a usable set", now.ready)
        info = GaugeMetricFamily("authz_policy_info", "The policy set in force", labels=["revision"])
        info.add_metric([now.revision or ""], 1)
        yield info
        yield GaugeMetricFamily("authz_policy_lag_seconds", "For how long newer files could not be used", now.lag_s)
        if now.svid_expires_ns is not None:
            yield GaugeMetricFamily(
                "authz_svid_expiry_timestamp_seconds", "When the SVID ends", now.svid_expires_ns / NS_PER_S
            )
        if now.skew_s is not None:
            yield GaugeMetricFamily(
                "authz_peer_clock_skew_seconds",
                "By how much the clock is ahead that differs most, of the sidecars of all Services called",
                now.skew_s,
            )
        yield CounterMetricFamily("authz_checks_refused", "Checks that were shed, overloaded", now.refused)


class MetricsServer:
    """Serves them over HTTP; for the loop of control's services."""

    name = "metrics"

    def __init__(self, place: str, metrics: SidecarMetrics) -> None:
        self._place = place
        #: where it listens, once it does
        self.port = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(metrics)

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; raises SidecarError where the port cannot be had."""
        host, _, port = self._place.rpartition(":")
        app = web.Application(client_max_size=1)
        app.router.add_get(PATH, self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host.strip("[]"), int(port)).start()
            except OSError as error:
                raise SidecarError(f"--metrics {self._place}: cannot be listened on: {error.strerror}") from error
            self.port = runner.addresses[0][1]
            ready()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "X-Content-Type-Options": "nosniff"},
        )
