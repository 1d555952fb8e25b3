"""Who has called a gRPC server behind a peer front: real processes, real sockets, real reuse of a pid."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from authz.unix_socket import UnixSocketError
from authz.workload_api import peer_front
from authz.workload_api.peer import PeerError, boot_ticks, older_pidfd
from authz.workload_api.peer_front import PeerFront

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from authz.workload_api.peer import Peer

#: another process that asks the server who it is, once a line of its standard input, and says what it was told
CALLER = textwrap.dedent("""\
    import grpc, sys
    channel = grpc.insecure_channel("unix:" + sys.argv[1])
    ask = channel.unary_unary("/test.Who/Am")
    for line in sys.stdin:
        try:
            print(ask(b"", timeout=60).decode(), flush=True)
        except grpc.RpcError as error:
            print(error.code().name, flush=True)
    """)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pf-") as directory:
        yield Path(directory)


def unix_sockets() -> set[str]:
    return set(Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").split())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Who:
    """A server that tells each caller the pid, uid and gid that the front knows; `calls` are the peers it has seen."""

    def __init__(self) -> None:
        self.calls: list[Peer | None] = []
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "test.Who",
                    {
                        "Am": grpc.unary_unary_rpc_method_handler(self.am),
                        "Stay": grpc.unary_stream_rpc_method_handler(self.stay),
                        "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
                    },
                ),
            )
        )
        self.front = PeerFront(self.server)
        self.left = asyncio.Event()

    async def am(self, _request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        peer = self.front.peer(context)
        self.calls.append(peer)
        return json.dumps(None if peer is None else [peer.pid, peer.uid, peer.gid, peer.socket]).encode()

    async def stay(self, _request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        self.calls.append(self.front.peer(context))
        try:
            yield b"here"
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def echo(self, request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return request


@contextlib.asynccontextmanager
async def who(path: Path, *, mode: int = 0o600, admit: Callable[[Peer], bool] | None = None) -> AsyncIterator[Who]:
    served = Who()
    try:
        await served.front.start()
        served.front.listen(str(path), mode=mode, admit=admit)
        yield served
    finally:
        await served.front.stop()


@contextlib.asynccontextmanager
async def caller(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CALLER, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def asked(process: asyncio.subprocess.Process) -> object:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    return json.loads(await process.stdout.readline())


def test_two_processes_at_once_are_each_known_as_themselves(folder: Path) -> None:
    async def story() -> None:
        path = folder / "s"
        async with who(path), caller(path) as one, caller(path) as other:
            for _ in range(3):
                told = await asyncio.gather(asked(one), asked(other))
                assert told == [
                    [one.pid, os.getuid(), os.getgid(), str(path)],
                    [other.pid, os.getuid(), os.getgid(), str(path)],
                ]

    asyncio.run(story())


def test_a_connection_ends_with_the_process_that_made_it_whoever_else_holds_it(folder: Path) -> None:
    # The child connects, hands its connection to us, and ends: from then on nobody answers for it.
    hand_over = textwrap.dedent("""\
        import array, socket, sys
        made = socket.socket(socket.AF_UNIX); made.connect(sys.argv[1])
        back = socket.socket(socket.AF_UNIX, fileno=int(sys.argv[2]))
        back.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.fileno()]))])
        sys.stdin.read()
        """)

    async def story() -> None:
        import socket  # noqa: PLC0415 only here

        path = folder / "s"
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        async with who(path):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                hand_over,
                str(path),
                str(theirs.fileno()),
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            ours.setblocking(True)
            _, (fd, *_), _, _ = await asyncio.to_thread(socket.recv_fds, ours, 1, 1)
            ours.close()
            with socket.socket(fileno=fd) as handed:
                reader, writer = await asyncio.open_unix_connection(sock=handed.dup())
                await reader.readexactly(9)  # it lives: the server's SETTINGS have come
                process.kill()
                await process.wait()
                await reader.read()  # comes to its end
                assert reader.at_eof()
                writer.close()
            process._transport.close()  # type: ignore[attr-defined]

    asyncio.run(story())


def test_nothing_but_the_front_reaches_the_grpc_server(folder: Path) -> None:
    async def story() -> None:
        before = unix_sockets()
        async with who(folder / "s") as served:
            async with grpc.aio.insecure_channel(f"unix:{folder}/s") as channel:
                await channel.unary_unary("/test.Who/Am")(b"")
            assert [peer is not None for peer in served.calls] == [True]
            now = unix_sockets()
            listening = {word for word in now - before if word.endswith("/grpc")}
            assert len(listening) == 1  # the kernel remembers the name
            assert not Path(listening.pop()).parent.exists()  # which leads nowhere

    asyncio.run(story())


def test_a_name_that_the_front_did_not_give_is_nobodys(folder: Path) -> None:
    async def story() -> None:
        async with who(folder / "s") as served:
            assert served.front.peer_named("unix-abstract:" + "0" * 32) is None
            assert served.front.peer_named("unix:") is None

    asyncio.run(story())


def test_a_stream_ends_when_its_process_is_killed(folder: Path) -> None:
    stay = textwrap.dedent("""\
        import grpc, sys
        channel = grpc.insecure_channel("unix:" + sys.argv[1])
        for _ in channel.unary_stream("/test.Who/Stay")(b""):
            print(flush=True)
        """)

    async def story() -> None:
        path = folder / "s"
        async with who(path) as served:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", stay, str(path), stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            await process.stdout.readline()
            (peer,) = served.calls
            assert peer is not None
            assert peer.lives()
            process.kill()
            await process.wait()
            await served.left.wait()
            assert not peer.lives()
            process._transport.close()  # type: ignore[attr-defined]

    asyncio.run(story())


@pytest.mark.parametrize("size_bytes", [0, 1, 3_000_000])
def test_every_byte_arrives(folder: Path, size_bytes: int) -> None:
    async def story() -> None:
        async with (
            who(folder / "s"),
            grpc.aio.insecure_channel(f"unix:{folder}/s") as channel,
        ):
            echo = channel.unary_unary("/test.Who/Echo")
            message = os.urandom(size_bytes)
            assert await asyncio.gather(*(echo(message) for _ in range(5))) == [message] * 5

    asyncio.run(story())


def test_whoever_is_not_admitted_is_disconnected(folder: Path) -> None:
    async def story() -> None:
        async with who(folder / "s", admit=lambda peer: peer.uid == os.getuid() + 1) as served:
            reader, writer = await asyncio.open_unix_connection(folder / "s")
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            assert served.front.connections == 0

    asyncio.run(story())


def test_one_process_cannot_take_every_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_front, "MAX_CONNECTIONS_OF_A_PROCESS", 3)

    async def story() -> None:
        path = folder / "s"
        async with who(path) as served:
            writers = []
            for _ in range(3):
                reader, writer = await asyncio.open_unix_connection(path)
                await reader.readexactly(9)
                writers.append(writer)
            reader, one_too_many = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            assert served.front.refused == 1
            async with caller(path) as another:
                assert await asked(another) == [another.pid, os.getuid(), os.getgid(), str(path)]
            for writer in (*writers, one_too_many):
                writer.close()

    asyncio.run(story())


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Have nothing tidied up by a garbage collection."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_a_connection_that_has_ended_holds_no_descriptor(folder: Path) -> None:
    async def story() -> None:
        async with who(folder / "s") as served, caller(folder / "s") as another:
            await asked(another)
            before = open_descriptors()
            for _ in range(20):
                reader, writer = await asyncio.open_unix_connection(folder / "s")
                await reader.readexactly(9)
                writer.close()
                await writer.wait_closed()
            while served.front.connections > 1:
                await asked(another)
            # Those of the last connection may be about to be closed; gRPC has some of its own at times.
            await asked(another)
            assert open_descriptors() < before + 20

    asyncio.run(story())


def test_the_socket_has_its_mode_and_goes_with_the_front(folder: Path) -> None:
    async def story() -> None:
        before = os.umask(0)
        try:
            async with who(folder / "s", mode=0o660):
                assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o660
                with pytest.raises(UnixSocketError, match="another server answers"):
                    async with who(folder / "s"):
                        pass
            assert not (folder / "s").exists()
        finally:
            os.umask(before)

    asyncio.run(story())


def test_without_so_peerpidfd_only_a_process_older_than_the_connection_is_taken_for_who_made_it() -> None:
    assert older_pidfd(os.getpid(), not_before_ticks=boot_ticks()).pid() == os.getpid()
    now = boot_ticks()
    with subprocess.Popen(["sleep", "100"]) as younger:
        try:
            with pytest.raises(PeerError, match="younger"):
                older_pidfd(younger.pid, not_before_ticks=now)
        finally:
            younger.kill()
    with pytest.raises(PeerError, match="gone"):
        older_pidfd(younger.pid, not_before_ticks=boot_ticks() + 1000)
