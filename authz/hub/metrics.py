"""`GET /metrics`: how the hub and those that report to it are, in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric

    from authz.hub.answers import Status
    from authz.hub.intake import IntakeCounts


class HubMetrics(Collector):
    """Asks for everything anew at each scrape; nothing is kept."""

    def __init__(
        self,
        status: Callable[[], Status],
        counts: IntakeCounts,
        listeners: Callable[[], int],
        refused: Callable[[], int],
    ) -> None:
        self._status = status
        self._counts = counts
        self._listeners = listeners
        self._refused = refused
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Give the text."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Name nothing beforehand: registering asks for nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give the metrics of now."""
        status, counts = self._status(), self._counts
        batches = CounterMetricFamily("authz_hub_batches", "batches that came", labels=["result"])
        for result, number in (
            ("stored", counts.batches),
            ("duplicate", counts.duplicates),
            ("refused", counts.refused),
        ):
            batches.add_metric([result], number)
        yield batches
        yield CounterMetricFamily("authz_hub_flows", "flows that were stored", value=counts.flows)
        yield CounterMetricFamily("authz_hub_records", "records that were stored", value=counts.records)
        yield CounterMetricFamily(
            "authz_hub_ahead", "decisions dated too far ahead, kept as of now", value=counts.ahead
        )
        yield CounterMetricFamily("authz_hub_too_old", "decisions too old to be kept", value=counts.too_old)
        yield CounterMetricFamily("authz_hub_foreign", "decisions of another Service's", value=counts.foreign)
        yield CounterMetricFamily("authz_hub_requests_refused", "requests that nobody may make", value=self._refused())
        yield GaugeMetricFamily("authz_hub_listeners", "who listens to events", value=self._listeners())
        yield GaugeMetricFamily("authz_hub_store_bytes", "size of the store", value=status["store"]["size_bytes"])
        gauges = {
            "lag_s": GaugeMetricFamily("authz_sidecar_lag_seconds", "age of its last batch", labels=["sidecar"]),
            "spooled": GaugeMetricFamily(
                "authz_sidecar_spooled_batches", "batches that wait there", labels=["sidecar"]
            ),
            "lost": GaugeMetricFamily("authz_sidecar_lost_records", "decisions without a record", labels=["sidecar"]),
            "unjoined": GaugeMetricFamily("authz_sidecar_unjoined", "decisions without an end", labels=["sidecar"]),
            "dropped": GaugeMetricFamily(
                "authz_sidecar_dropped_records", "decisions in batches without room", labels=["sidecar"]
            ),
            "ready": GaugeMetricFamily("authz_sidecar_ready", "whether it has a usable set", labels=["sidecar"]),
        }
        for sidecar in status["sidecars"]:
            values = {
                "lag_s": sidecar["lag_s"],
                "spooled": sidecar["spooled"],
                "lost": sidecar["lost"],
                "unjoined": sidecar["unjoined"],
                "dropped": sidecar["dropped"],
                "ready": float(sidecar["ready"]),
            }
            for name, value in values.items():
                gauges[name].add_metric([sidecar["name"]], value)
        yield from gauges.values()
