"""The sidecar's own client of the Workload API against the issuer: what it holds follows what the issuer says."""

from __future__ import annotations

import asyncio
import contextlib
import os

from authz.workload_api.client import WorkloadApiClient
from tests.support.issuer_process import MESH, PATIENCE_S, Issuer, service

ME = f"[{{unix: {{uid: {os.getuid()}}}}}]"


class Heard:
    """Keeps what a client was told, in order."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[str, object]] = asyncio.Queue()

    def received(self, value: object) -> None:
        self.told.put_nowait(("received", value))

    def withdrawn(self, why: str) -> None:
        self.told.put_nowait(("withdrawn", why))

    def faulty(self, why: str) -> None:
        self.told.put_nowait(("faulty", why))

    async def next(self, kind: str) -> object:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                told, value = await self.told.get()
                if told == kind:
                    return value


def test_our_client_follows_renewals_a_restart_and_a_withdrawal() -> None:
    async def story() -> None:
        flags = ["--svid-lifetime=4s", "--authority-lifetime=31m"]
        orders = service("orders", attest=ME)
        with Issuer(MESH, orders, arguments=flags, keep=True) as issuer:
            client, heard = WorkloadApiClient(f"unix://{issuer.socket}"), Heard()
            following = asyncio.create_task(client.follow_x509(heard))
            first, renewed = await heard.next("received"), await heard.next("received")
            assert first != renewed
            await asyncio.to_thread(issuer.kill)
            await heard.next("faulty")
            await asyncio.to_thread(issuer.start)
            await heard.next("received")
            issuer.write(MESH, service("orders", attest="[{unix: {uid: 4242}}]"))
            await heard.next("withdrawn")
            issuer.write(MESH, orders)
            await heard.next("received")
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    asyncio.run(story())
