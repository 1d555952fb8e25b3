"""A Workload API for tests of those who follow one: real SVIDs of a real authority, one socket for each workload.

It rotates when it is told to, so that a test can wait for what a rotation does.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import grpc

from authz.workload_api.messages import SERVICE, X509SVID
from tests.support.workload_api_messages import authority, der, issued, key_der, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from authz.identity.authority import Authority

PATIENCE_S = 30


@dataclass(slots=True)
class _Workload:
    spiffe_id: str
    message: bytes = b""
    svid: X509SVID | None = None
    streams: set[asyncio.Event] = field(default_factory=set)


class WorkloadApiSource:
    """Serves `spiffe_ids` on `folder`/NAME.sock while it is entered."""

    def __init__(self, folder: Path, spiffe_ids: dict[str, str], *, lifetime: timedelta = timedelta(hours=1)) -> None:
        self._folder = folder
        self._lifetime = lifetime
        self._workloads = {name: _Workload(spiffe_id) for name, spiffe_id in spiffe_ids.items()}
        self.issuing: Authority = authority()
        self.trusted: list[Authority] = [self.issuing]
        self._federated: dict[str, bytes] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[grpc.aio.Server] = []

    def socket(self, name: str) -> str:
        return str(self._folder / f"{name}.sock")

    def rotate(self) -> None:
        """Give every workload a new SVID and key, and the bundle as it is."""
        for workload in self._workloads.values():
            made = issued(self.issuing, workload.spiffe_id, self._lifetime)
            self._give(workload, der(made.certificate_pem), key_der(made.key_pem))

    def tell_bundle(self) -> None:
        """Give every workload the bundle as it is, with the SVID that it has."""
        for workload in self._workloads.values():
            assert workload.svid is not None
            self._give(workload, workload.svid.x509_svid, workload.svid.x509_svid_key)

    def federate(self, trust_domain: str) -> None:
        """Give every workload the bundle of a foreign trust domain besides."""
        self._federated[f"spiffe://{trust_domain}"] = der(authority(trust_domain).certificate_pem)
        self.tell_bundle()

    def stop(self) -> None:
        """End the servers and every stream, as an agent that is killed does."""

        async def stop() -> None:
            for server in self._servers:
                await server.stop(None)
            self._servers.clear()

        self._do(stop())

    def start(self) -> None:
        async def start() -> None:
            for name, workload in self._workloads.items():
                server = grpc.aio.server()

                async def stream(
                    _request: bytes, context: grpc.aio.ServicerContext, workload: _Workload = workload
                ) -> AsyncIterator[bytes]:
                    metadata = dict(context.invocation_metadata() or ())
                    if metadata.get("workload.spiffe.io") != "true":
                        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
                    changed = asyncio.Event()
                    workload.streams.add(changed)
                    try:
                        while True:
                            yield workload.message
                            await changed.wait()
                            changed.clear()
                    finally:
                        workload.streams.discard(changed)

                handlers = {"FetchX509SVID": grpc.unary_stream_rpc_method_handler(stream)}
                server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
                server.add_insecure_port(f"unix:{self.socket(name)}")
                await server.start()
                self._servers.append(server)

        self._do(start())

    def _give(self, workload: _Workload, chain: bytes, key: bytes) -> None:
        bundle = b"".join(der(each.certificate_pem) for each in self.trusted)
        svid = X509SVID(spiffe_id=workload.spiffe_id, x509_svid=chain, x509_svid_key=key, bundle=bundle)

        async def give() -> None:
            workload.svid = svid
            workload.message = response(svid, federated=self._federated).SerializeToString()
            for changed in workload.streams:
                changed.set()

        self._do(give())

    def _do(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        self._thread.start()
        self.rotate()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()
