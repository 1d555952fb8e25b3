"""What an OpenTelemetry collector hears of a sidecar, read by OpenTelemetry's own classes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.semconv._incubating.metrics.rpc_metrics import RPC_SERVER_CALL_DURATION
from opentelemetry.semconv.metrics.http_metrics import HTTP_CLIENT_REQUEST_DURATION, HTTP_SERVER_REQUEST_DURATION

from authz.decision import Reason
from authz.instant import NS_PER_S
from authz.records.call_ends import Caller, Destination, Tls
from authz.records.flow import Flow, FlowKey
from authz.records.latency_histogram import MAX_BUCKETS, histogram_of
from authz.request import Direction
from authz.sidecar.control.otlp_export import MOST_WAITING, TRIES, OtlpExport
from authz.sidecar.control.otlp_message import metrics_message
from authz.sidecar.errors import SidecarError
from tests.support.recording_bench import RecordingBench, end_of

if TYPE_CHECKING:
    from pathlib import Path

START_NS = 1_800_000_000 * NS_PER_S


def flow(**key: Any) -> Flow:
    given = {
        "sidecar": "catalog",
        "direction": Direction.INBOUND,
        "caller": Caller(identity="spiffe://shop.example/orders", service="orders"),
        "destination": Destination(service="catalog", host="<script>"),
        "method": "GET",
        "route": "/items/{id}",
        "protocol": "http/2",
        "reason": Reason.ALLOWED,
        "policy": "orders-read-catalog",
        "shadow": None,
        "revision": "a" * 64,
        "tls": Tls(version="TLSv1_3"),
        **key,
    }
    return Flow(
        time_ns=START_NS,
        key=FlowKey(**given),
        count=3,
        statuses=((200, 3),),
        bytes_received=10,
        bytes_sent=20,
        durations=histogram_of([0, 0, 1, 2]),
    )


def scopes(of_resource: Any) -> list[Any]:
    """Give the scopes by whatever name the installed classes have for the field with this number."""
    (field,) = [field for field in of_resource.DESCRIPTOR.fields if field.number == 2]
    return list(getattr(of_resource, field.name))


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in of.attributes}


def metrics(content: bytes) -> dict[str, Any]:
    (of_resource,) = metrics_service_pb2.ExportMetricsServiceRequest.FromString(content).resource_metrics
    assert attributes(of_resource.resource)["service.name"] == "catalog"
    (scope,) = scopes(of_resource)
    return {metric.name: metric for metric in scope.metrics}


def test_flows_are_metrics_with_the_names_of_the_conventions() -> None:
    given = [
        flow(),
        flow(protocol="grpc", route="/shop.Catalog/Get", method="POST"),
        flow(direction=Direction.OUTBOUND, method="BREW<script>", reason=Reason.NO_POLICY, policy=None, route=None),
    ]
    told = metrics(metrics_message(given, service="catalog"))
    assert {HTTP_SERVER_REQUEST_DURATION, RPC_SERVER_CALL_DURATION, HTTP_CLIENT_REQUEST_DURATION} <= set(told)
    (point,) = told[HTTP_SERVER_REQUEST_DURATION].histogram.data_points
    assert told[HTTP_SERVER_REQUEST_DURATION].unit == "s"
    assert (point.count, list(point.bucket_counts)[:5]) == (3, [0, 0, 1, 2, 0])
    assert (len(point.bucket_counts), len(point.explicit_bounds)) == (MAX_BUCKETS, MAX_BUCKETS - 1)
    assert point.explicit_bounds[2] == pytest.approx(8e-6)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (START_NS, START_NS + 10 * NS_PER_S)
    assert attributes(point) == {
        "authz.decision": "allow",
        "http.request.method": "GET",
        "http.route": "/items/{id}",
        "network.protocol.version": "2",
        "server.address": "catalog",
    }
    (denied,) = told[HTTP_CLIENT_REQUEST_DURATION].histogram.data_points
    assert (attributes(denied)["http.request.method"], attributes(denied)["error.type"]) == ("_OTHER", "no_policy")
    (called,) = told[RPC_SERVER_CALL_DURATION].histogram.data_points
    assert attributes(called)["rpc.method"] == "shop.Catalog/Get"
    assert sum(point.as_int for point in told["authz.decisions"].sum.data_points) == 9
    assert told["authz.decisions"].sum.is_monotonic
    assert sum(point.as_int for point in told["authz.call.io"].sum.data_points) == 90
    assert b"script" not in metrics_message(given, service="catalog")


class Collector:
    """A receiver of OTLP over HTTP; `answers` are given before 200s."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.took: list[tuple[str, bytes]] = []
        self.came = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.took.append((request.path, await request.read()))
        self.came.set()
        return web.Response(status=status)

    async def url(self) -> str:
        app = web.Application()
        app.router.add_post("/{path:.*}", self.take)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def took_so_many(self, many: int) -> None:
        async with asyncio.timeout(30):
            while len(self.took) < many:
                self.came.clear()
                await self.came.wait()


def test_a_collector_gets_what_a_sidecar_without_a_hub_counts_and_keeps(tmp_path: Path) -> None:
    async def exported() -> None:
        collector = Collector(503)
        export = OtlpExport(await collector.url(), service="catalog")
        bench = RecordingBench(tmp_path, hub=None)
        control = bench.control(told=export.told)
        ids = [bench.put(reason=reason)[0] for reason in (Reason.ALLOWED, Reason.NO_POLICY)]
        control.look()
        control.recording.heard([end_of(one) for one in ids])
        control.end()
        running = asyncio.create_task(export.run(lambda: None))
        await collector.took_so_many(2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await collector.runner.cleanup()
        took = dict(collector.took)
        told = metrics(took["/v1/metrics"])
        assert sum(point.as_int for point in told["authz.decisions"].sum.data_points) == 2
        (of_resource,) = logs_service_pb2.ExportLogsServiceRequest.FromString(took["/v1/logs"]).resource_logs
        (scope,) = scopes(of_resource)
        (records_field,) = [field for field in scope.DESCRIPTOR.fields if field.number == 2]
        records = list(getattr(scope, records_field.name))
        assert {attributes(record)["authz.decision_id"] for record in records} == set(ids)
        assert {record.severity_text for record in records} == {"INFO", "WARN"}
        assert {attributes(record)["http.response.status_code"] for record in records} == {200}

    asyncio.run(exported())


def test_what_no_collector_takes_is_bounded_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def exported() -> None:
        collector = Collector(*[400] * 200)
        export = OtlpExport(await collector.url(), service="catalog")
        for _ in range(MOST_WAITING + 5):
            export.told([flow()], [])
        assert export.lost == 5
        running = asyncio.create_task(export.run(lambda: None))
        async with asyncio.timeout(30):
            while export.lost < MOST_WAITING + 5:  # noqa: ASYNC110 it tells nobody of what it has lost
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await collector.runner.cleanup()
        assert export.sent == 0

    asyncio.run(exported())
    assert "it answers with status 400" in caplog.text
    assert TRIES > 1


@pytest.mark.parametrize("endpoint", ["", "collector:4318", "ftp://x", "http://", "http://[::1"])
def test_what_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(SidecarError, match="give a URL"):
        OtlpExport(endpoint, service="catalog")
