"""The check path's HTTP/2 on real sockets: grpcio as the client, a peer that does not read, the drain."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from authz.sidecar.check.http2.grpc import Service
from authz.sidecar.check.http2.limits import HANDSHAKE_TIMEOUT_S, WRITE_TIMEOUT_S
from authz.sidecar.check.http2.server import MAX_CONNECTIONS, Http2Server
from tests.support.http2_frames import (
    CHECK,
    EMPTY_TABLE,
    HANDSHAKE,
    PREFACE,
    SETTINGS_ACK,
    Heard,
    block,
    call,
    data,
    frames_in,
    grpc_fields,
    headers,
    heard,
    message,
    ping,
    settings,
    window_update,
)
from tests.support.http2_process import Http2Process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

FIRST = headers(1, raw=EMPTY_TABLE + block(grpc_fields())) + data(1, message(b"first"), end=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Http2Process]:
    with Http2Process() as process:
        yield process
        process.drain()
        assert process.ended() == (0, "")


@pytest.fixture
def channel(server: Http2Process) -> Iterator[grpc.Channel]:
    sizes = [("grpc.max_receive_message_length", 2**24), ("grpc.max_send_message_length", 2**24)]
    with grpc.insecure_channel(server.address, options=[*sizes, ("grpc.use_local_subchannel_pool", 1)]) as made:
        yield made


def test_grpcio_gets_every_size_of_message_back(channel: grpc.Channel) -> None:
    check = channel.unary_unary(CHECK)
    for size in (0, 1, 5, 16_379, 16_380, 65_531, 65_536, 262_144, 1024 * 1024):
        content = hashlib.shake_128(b"%d" % size).digest(size)
        assert check(content, timeout=20) == content


def test_grpcio_gets_its_own_answers_on_concurrent_streams(channel: grpc.Channel) -> None:
    check = channel.unary_unary(CHECK)
    contents = [hashlib.shake_128(b"%d" % number).digest(number * 37 % 50_000) for number in range(400)]
    futures = [check.future(content, timeout=30) for content in contents]
    assert [future.result() for future in futures] == contents


def test_grpcio_from_many_connections(server: Http2Process) -> None:
    def calls(number: int) -> bool:
        with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as own:
            check = own.unary_unary(CHECK)
            return all(check(b"%d-%d" % (number, each), timeout=20) == b"%d-%d" % (number, each) for each in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(calls, range(16)))


def test_grpcio_is_told_what_it_may_not(channel: grpc.Channel) -> None:
    def status(path: str, content: bytes, **how: object) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(path)(content, timeout=20, **how)
        return raised.value.code()

    assert status("/other/Method", b"x") is grpc.StatusCode.UNIMPLEMENTED
    assert status(CHECK, bytes(1024 * 1024 + 1)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status(CHECK, bytes(1000), compression=grpc.Compression.Gzip) is grpc.StatusCode.UNIMPLEMENTED
    assert status("/grpc.health.v1.Health/Check", b"\x0a\x05other") is grpc.StatusCode.NOT_FOUND
    assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"
    assert channel.unary_unary(CHECK)(b"still here", timeout=20) == b"still here"


def test_grpcio_that_streams_is_refused_for_more_than_one_message(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.stream_unary(CHECK)(iter([b"one", b"two"]), timeout=20)
    assert raised.value.code() is grpc.StatusCode.INTERNAL


def test_grpcio_that_ends_no_stream_gets_its_deadline_and_may_cancel(channel: grpc.Channel) -> None:
    ended = threading.Event()

    def one_and_no_end() -> Iterator[bytes]:
        yield b"one"
        ended.wait(20)

    held = channel.stream_unary(CHECK).future(one_and_no_end(), timeout=0.3)
    with pytest.raises(grpc.RpcError) as raised:
        held.result()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    cancelled = channel.stream_unary(CHECK).future(one_and_no_end(), timeout=20)
    assert cancelled.cancel()
    assert channel.unary_unary(CHECK)(b"still here", timeout=20) == b"still here"
    ended.set()


# --- bytes on a socket


def of_echo(
    ask: Callable[[Http2Server, str], Awaitable[None]], path: str, *, answer: int | None = None
) -> list[Exception]:
    """Serve an echo on a unix socket while `ask` runs; give what failed."""
    failures: list[Exception] = []

    async def serve() -> None:
        service = Service(
            {CHECK: lambda content: content if answer is None else bytes(answer)}, max_message_bytes=1024 * 1024
        )
        served = Http2Server(service, failed=failures.append)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        await served.serve(listening)
        await ask(served, path)
        await served.drain(within_s=5)
        assert served.connections == 0

    with asyncio.Runner(loop_factory=HurriedLoop) as runner:
        runner.run(serve())
    return failures


async def said_until(reader: asyncio.StreamReader, done: Callable[[Heard], object]) -> Heard:
    said = b""
    while True:
        piece = await reader.read(65_536)
        said += piece
        try:
            result = heard(said)
        except AssertionError:  # cut inside of a frame
            assert piece
            continue
        if done(result) or not piece:
            return result


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("s") / "s")


def test_a_drain_answers_what_is_under_way_and_says_both_goaways(path: str) -> None:
    async def ask(served: Http2Server, where: str) -> None:
        reader, writer = await asyncio.open_unix_connection(where)
        writer.write(HANDSHAKE + FIRST + headers(3))
        await said_until(reader, lambda result: result.of(1).ended)
        draining = asyncio.create_task(served.drain(within_s=5))
        noticed = await said_until_frames(reader, 2)
        assert [(each.kind, each.stream_id) for each in noticed] == [(7, 0), (6, 0)]
        writer.write(ping(noticed[1].payload, ack=True))
        (last,) = await said_until_frames(reader, 1)
        assert int.from_bytes(last.payload[:4], "big") == 3
        writer.write(data(3, message(b"under way"), end=True))
        frames = frames_in(await reader.read())  # until it closes
        assert frames[1].payload == message(b"under way")
        writer.close()
        await draining
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(where)

    assert of_echo(ask, path) == []


async def said_until_frames(reader: asyncio.StreamReader, count: int) -> list[object]:
    frames = []
    for _ in range(count):
        head = await reader.readexactly(9)
        frames += frames_in(head + await reader.readexactly(int.from_bytes(head[:3], "big")))
    return frames


def test_a_drain_cuts_who_does_not_end_in_time(path: str) -> None:
    async def ask(served: Http2Server, where: str) -> None:
        reader, writer = await asyncio.open_unix_connection(where)
        writer.write(HANDSHAKE + FIRST + headers(3))
        await said_until(reader, lambda result: result.of(1).ended)
        await served.drain(within_s=0.05)
        assert served.connections == 0
        await reader.read()
        writer.close()

    assert of_echo(ask, path) == []


def test_a_broken_peer_can_read_why_it_is_refused_even_if_it_goes_on_sending(path: str) -> None:
    async def ask(_served: Http2Server, where: str) -> None:
        reader, writer = await asyncio.open_unix_connection(where)
        writer.write(HANDSHAKE + FIRST + ping(b"short") + call(3, b"too late") * 1000)
        result = heard(await reader.read())
        assert result.goaways == [(1, 6, "PING of 5 bytes, not 8")]
        assert set(result.streams) == {1}
        writer.close()

    assert of_echo(ask, path) == []


def test_a_peer_that_does_not_read_holds_up_itself_alone(path: str) -> None:
    calls = 3000

    async def ask(_served: Http2Server, where: str) -> None:
        deaf = socket.socket(socket.AF_UNIX)
        deaf.connect(where)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        opened = PREFACE + settings({4: 2**30}) + SETTINGS_ACK + window_update(0, 2**30)
        said = opened + FIRST + b"".join(call(3 + 2 * number, b"x") for number in range(calls))
        sending = loop.create_task(loop.sock_sendall(deaf, said))
        # another connection is answered while the first does not read
        reader, writer = await asyncio.open_unix_connection(where)
        for number in range(5):
            writer.write(opened + FIRST if not number else call(1 + 2 * number, b"x"))
            frames = []
            while not frames or not (frames[-1].kind == 1 and frames[-1].flags & 1):
                frames += await said_until_frames(reader, 1)
        # what the server holds for the deaf one is far below the 300 MB that it would make
        gc.collect()
        held = sum(
            transport.get_write_buffer_size()
            for transport in gc.get_objects()
            if isinstance(transport, asyncio.Transport) and hasattr(transport, "get_write_buffer_size")
        )
        assert 0 < held < 2_000_000
        received = 0
        tail = b""
        while not (tail.endswith(b"grpc-status\x010") and received > calls * 100_000):
            piece = await loop.sock_recv(deaf, 2**20)
            assert piece
            received += len(piece)
            tail = (tail + piece)[-100:]
        await sending
        deaf.close()
        writer.close()

    assert of_echo(ask, path, answer=100_000) == []


class HurriedLoop(asyncio.SelectorEventLoop):
    """A loop whose clock is put forward by hand."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s

    def put_forward(self, seconds: float) -> None:
        self.ahead_s += seconds
        self.call_soon(lambda: None)


def test_a_peer_that_says_nothing_is_told_so_and_closed(path: str) -> None:
    async def ask(served: Http2Server, where: str) -> None:
        reader, writer = await asyncio.open_unix_connection(where)
        await reader.readexactly(9)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HurriedLoop)
        loop.put_forward(HANDSHAKE_TIMEOUT_S)
        assert (await reader.read()).endswith(b"no acknowledgement of our settings")
        writer.close()
        await asyncio.wait_for(served._all_closed.wait(), 5)

    assert of_echo(ask, path) == []


def test_a_peer_that_never_reads_is_cut(path: str) -> None:
    async def ask(served: Http2Server, where: str) -> None:
        deaf = socket.socket(socket.AF_UNIX)
        deaf.connect(where)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HurriedLoop)
        opened = PREFACE + settings({4: 2**30}) + SETTINGS_ACK + window_update(0, 2**30)
        await loop.sock_sendall(deaf, opened + FIRST + b"".join(call(3 + 2 * number, b"x") for number in range(100)))
        while served.connections == 0 or next(iter(served._connections))._is_writable:  # noqa: ASYNC110 no event tells
            await asyncio.sleep(0)
        loop.put_forward(WRITE_TIMEOUT_S - 1)
        await asyncio.sleep(0)
        assert served.connections == 1
        loop.put_forward(1)
        await asyncio.wait_for(served._all_closed.wait(), 5)
        deaf.close()

    assert of_echo(ask, path, answer=100_000) == []


def test_connections_beyond_the_limit_are_closed_at_once(path: str) -> None:
    async def ask(served: Http2Server, where: str) -> None:
        opened = [await asyncio.open_unix_connection(where) for _ in range(MAX_CONNECTIONS)]
        for reader, _ in opened:
            await reader.readexactly(9)
        assert served.connections == MAX_CONNECTIONS
        reader, writer = await asyncio.open_unix_connection(where)
        assert await reader.read() == b""
        writer.close()
        for _, each in opened:
            each.close()

    assert of_echo(ask, path) == []


def test_a_client_that_closes_is_forgotten(path: str) -> None:
    async def ask(served: Http2Server, where: str) -> None:
        reader, writer = await asyncio.open_unix_connection(where)
        writer.write(HANDSHAKE + FIRST + headers(3))
        await said_until(reader, lambda result: result.of(1).ended)
        assert served.connections == 1
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(served._all_closed.wait(), 5)

    assert of_echo(ask, path) == []
