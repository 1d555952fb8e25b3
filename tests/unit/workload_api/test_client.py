"""The client against a gRPC server that answers as a script says: what is tried again, given up, withdrawn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from authz.workload_api.client import WorkloadApiClient
from authz.workload_api.errors import WorkloadApiError
from authz.workload_api.messages import SERVICE, JWTBundlesResponse, X509SVIDResponse
from tests.support.workload_api_messages import ORDERS, authority, response, svid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

PATIENCE_S = 30
SHOP = authority()

#: what one call does: send messages, then end, fail with a code, or stay
Step = tuple[list[bytes], "grpc.StatusCode | str | None"]


class Told:
    """A follower that keeps what it is told."""

    def __init__(self, enough: Callable[[list[tuple[str, object]]], bool]) -> None:
        self.said: list[tuple[str, object]] = []
        self._enough = enough
        self.done = asyncio.Event()

    def _take(self, kind: str, what: object) -> None:
        self.said.append((kind, what))
        if self._enough(self.said):
            self.done.set()

    def received(self, value: object) -> None:
        self._take("received", value)

    def withdrawn(self, why: str) -> None:
        self._take("withdrawn", why)

    def faulty(self, why: str) -> None:
        self._take("faulty", why)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.said]


class Script:
    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = iter(steps)
        self.metadata: list[dict[str, str]] = []
        self.calls = 0

    async def answer(self, _request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        self.calls += 1
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata() or ()})
        messages, end = next(self._steps, ([], "stay"))
        for message in messages:
            yield message
        if end == "stay":
            await asyncio.Event().wait()
        elif isinstance(end, grpc.StatusCode):
            await context.abort(end, "as the script says")


async def _played(tmp_path: Path, steps: list[Step], told: Told, *, jwt: bool = False) -> Script:
    script = Script(steps)
    server = grpc.aio.server()
    handlers = {
        name: grpc.unary_stream_rpc_method_handler(script.answer) for name in ("FetchX509SVID", "FetchJWTBundles")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    client = WorkloadApiClient(f"unix://{tmp_path}/s", chance=lambda: 0.0)
    following = asyncio.ensure_future(client.follow_jwt_bundles(told) if jwt else client.follow_x509(told))
    done = asyncio.ensure_future(told.done.wait())
    try:
        await asyncio.wait([following, done], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            await following
        assert done.done(), told.said
    finally:
        following.cancel()
        done.cancel()
        await asyncio.gather(following, done, return_exceptions=True)
        await server.stop(None)
    return script


def good(name: str = ORDERS) -> bytes:
    content: bytes = response(svid(SHOP, name)).SerializeToString()
    return content


def test_each_message_is_told_as_it_comes_with_the_security_header(tmp_path: Path) -> None:
    async def run() -> None:
        told = Told(lambda said: len(said) == 2)
        script = await _played(tmp_path, [([good(), good(ORDERS + "-b")], "stay")], told)
        names = [str(value.svids[0].spiffe_id) for _, value in told.said]  # type: ignore[attr-defined]
        assert names == [ORDERS, ORDERS + "-b"]
        assert script.metadata[0]["workload.spiffe.io"] == "true"

    asyncio.run(run())


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED])
def test_a_source_that_fails_is_asked_again(tmp_path: Path, code: grpc.StatusCode) -> None:
    async def run() -> None:
        told = Told(lambda said: said[-1][0] == "received")
        await _played(tmp_path, [([], code), ([], code), ([good()], "stay")], told)
        assert told.kinds == ["faulty", "faulty", "received"]

    asyncio.run(run())


def test_a_stream_that_ends_is_opened_again(tmp_path: Path) -> None:
    async def run() -> None:
        told = Told(lambda said: len(said) == 3)
        await _played(tmp_path, [([good()], None), ([good()], "stay")], told)
        assert told.kinds == ["received", "faulty", "received"]

    asyncio.run(run())


def test_permission_denied_withdraws_and_is_asked_again(tmp_path: Path) -> None:
    async def run() -> None:
        told = Told(lambda said: len(said) == 3)
        await _played(tmp_path, [([good()], grpc.StatusCode.PERMISSION_DENIED), ([good()], "stay")], told)
        assert told.kinds == ["received", "withdrawn", "received"]

    asyncio.run(run())


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED])
def test_what_will_never_be_answered_is_not_asked_again(tmp_path: Path, code: grpc.StatusCode) -> None:
    async def run() -> None:
        told = Told(bool)
        with pytest.raises(WorkloadApiError, match=code.name):
            await _played(tmp_path, [([], code)], told)
        assert told.said == []

    asyncio.run(run())


def test_a_message_that_is_no_good_is_a_fault_and_the_next_one_counts(tmp_path: Path) -> None:
    async def run() -> None:
        told = Told(lambda said: said[-1][0] == "received")
        empty = X509SVIDResponse().SerializeToString()
        broken = svid(SHOP, x509_svid=b"\x30")
        await _played(tmp_path, [([empty, b"\xff\xff", response(broken).SerializeToString(), good()], "stay")], told)
        assert told.kinds == ["faulty", "faulty", "faulty", "received"]

    asyncio.run(run())


def test_jwt_bundles_are_followed_likewise(tmp_path: Path) -> None:
    async def run() -> None:
        told = Told(bool)
        message = JWTBundlesResponse(bundles={"spiffe://shop.example": b'{"keys": []}'})
        await _played(tmp_path, [([message.SerializeToString()], "stay")], told, jwt=True)
        assert told.kinds == ["received"]

    asyncio.run(run())


def test_a_socket_that_nobody_listens_on_is_a_fault_until_somebody_does(tmp_path: Path) -> None:
    async def run() -> None:
        told = Told(bool)
        client = WorkloadApiClient(f"unix://{tmp_path}/nobody", chance=lambda: 0.0)
        following = asyncio.ensure_future(client.follow_x509(told))
        await asyncio.wait_for(told.done.wait(), PATIENCE_S)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert told.kinds[0] == "faulty"
        assert "UNAVAILABLE" in str(told.said[0][1])

    asyncio.run(run())


def test_a_stream_that_waits_is_asked_again_as_soon_as_another_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz.workload_api.client.FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr("authz.workload_api.client.LONGEST_PAUSE_S", 3600.0)
    bundles = JWTBundlesResponse(bundles={"spiffe://shop.example": b'{"keys": []}'}).SerializeToString()

    async def run() -> None:
        scripts = {
            "FetchX509SVID": Script([([good()], "stay")]),
            "FetchJWTBundles": Script([([], grpc.StatusCode.UNAVAILABLE), ([bundles], "stay")]),
        }
        server = grpc.aio.server()
        handlers = {name: grpc.unary_stream_rpc_method_handler(script.answer) for name, script in scripts.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_insecure_port(f"unix:{tmp_path}/s")
        await server.start()
        client = WorkloadApiClient(f"unix://{tmp_path}/s", chance=lambda: 0.0)
        failed, answered = Told(bool), Told(lambda said: said[-1][0] == "received")

        class Both(Told):
            def _take(self, kind: str, what: object) -> None:
                failed._take(kind, what)
                answered._take(kind, what)

        followings = [asyncio.ensure_future(client.follow_jwt_bundles(Both(bool)))]
        try:
            await asyncio.wait_for(failed.done.wait(), PATIENCE_S)
            followings.append(asyncio.ensure_future(client.follow_x509(Told(bool))))
            await asyncio.wait_for(answered.done.wait(), PATIENCE_S)
            assert answered.kinds == ["faulty", "received"]
        finally:
            for following in followings:
                following.cancel()
            await asyncio.gather(*followings, return_exceptions=True)
            await server.stop(None)

    asyncio.run(run())
