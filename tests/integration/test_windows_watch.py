"""`authz windows watch` as it runs: beside edits, growing logs, receivers that fail, and kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from authz.cli.main import main
from authz.identity.authority import Authority
from authz.identity.spiffe_id import TrustDomain
from authz.insight.announcement import parse_leads_ns
from authz.mesh.state_directory import StateDirectory
from authz.window_watch.memory_file import MemoryFile
from authz.window_watch.watch import Said, WatchSettings, WindowWatch
from authz.window_watch.webhook import NotifyUrl
from tests.support.local_mesh import authz
from tests.support.refusals import line
from tests.support.webhook_receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = b"0123456789abcdef0123456789abcdef"
PATIENCE_S = 60


def wall(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def policy_set(**closes: datetime) -> str:
    documents = ["apiVersion: authz/v1\nkind: Mesh\nmetadata: {name: m}\nspec: {trustDomains: [shop.example]}\n"]
    documents += [
        f"apiVersion: authz/v1\nkind: ThirdParty\nmetadata: {{name: {name}}}\n"
        f"spec: {{hosts: [{name}.example], window: {{opens: 2026-01-01T00:00:00Z, closes: {wall(end)}}}}}\n"
        for name, end in closes.items()
    ]
    return "---\n".join(documents)


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.policies = path / "policies"
        self.log = path / "state" / "decisions" / "orders.jsonl"
        self.policies.mkdir()
        self.log.parent.mkdir(parents=True)
        self.log.touch()
        (path / "secret").write_bytes(KEY + b"\n")
        (path / "secret").chmod(0o600)

    def write(self, text: str) -> None:
        draft = self.policies / ".draft"
        draft.write_text(text)
        draft.replace(self.policies / "set.yaml")

    def refuse(self, name: str, **more: str) -> None:
        """Write what a sidecar writes when it refuses a call."""
        with self.log.open("ab") as file:
            file.write(line(wall(datetime.now(UTC)), policy=name, **more))

    def words(self, receiver: Receiver) -> list[str]:
        return [
            "windows", "watch", "--notify", receiver.url, "--secret-file", str(self.path / "secret"),
            "--policies", str(self.policies), "--state", str(self.path / "state"), "--lead", "2d,1h",
        ]  # fmt: skip

    @contextlib.contextmanager
    def watching(self, receiver: Receiver, **environment: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-m", "authz", *self.words(receiver), "-o", environment.pop("output", "json")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        ) as process:  # fmt: skip
            try:
                assert process.stderr is not None
                assert process.stderr.readline().startswith("watching ")
                yield process
            finally:
                process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """End a watch as a supervisor does, and give its status and what it announced."""
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, [json.loads(each)["type"] for each in out.splitlines()]


def test_a_close_ahead_the_close_by_command_and_the_first_attempt_are_told_once_and_signed(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write(policy_set(acme=datetime.now(UTC) + timedelta(days=1), later=datetime.now(UTC) + timedelta(days=90)))
    with Receiver().serving() as receiver, folder.watching(receiver) as process:
        closing = receiver.next()
        assert (closing.told["type"], closing.told["lead_s"], closing.told["window"]["name"]) == (
            "window.closing", 2 * 86_400, "acme",
        )  # fmt: skip
        assert main(["windows", "close", "acme", "--now", "--policies", str(folder.policies), "-o", "json"]) == 0
        closed = receiver.next()
        assert closed.told["type"] == "window.closed"
        assert closed.told["window"]["closes"] == json.loads(capsys.readouterr().out)["closes"]
        folder.refuse("later", reason="no_policy")
        folder.refuse("acme", address="10.0.0.9:1")
        folder.refuse("acme", address="10.0.0.10:1")
        attempt = receiver.next()
        assert attempt.told["type"] == "window.attempt"
        assert (attempt.told["attempt"]["identity"], attempt.told["attempt"]["address"]) == (
            "spiffe://acme.example/pull", "10.0.0.9",
        )  # fmt: skip
        for each in (closing, closed, attempt):
            assert each.is_signed_with(KEY)
            assert each.headers["webhook-id"] == each.told["id"]
        assert ended(process) == (0, ["window.closing", "window.closed", "window.attempt"])
        assert receiver.received.empty()


def test_an_end_comes_by_itself(folder: Folder) -> None:
    closes = datetime.now(UTC) + timedelta(seconds=10)
    with Receiver().serving() as receiver:
        folder.write(policy_set(acme=closes))
        with folder.watching(receiver) as process:
            assert receiver.next().told["type"] == "window.closing"
            told = receiver.next().told
            assert (told["type"], told["window"]["closes"]) == ("window.closed", wall(closes))
            assert told["time"] >= wall(closes)
            assert ended(process)[0] == 0


def test_what_is_not_taken_is_sent_again_with_its_id_also_by_the_next_watch_and_never_after_it_was_taken(
    folder: Folder,
) -> None:
    folder.write(policy_set(acme=datetime.now(UTC) + timedelta(days=1)))
    with Receiver().serving() as receiver:
        for _ in range(2):
            receiver.answer(500)
        with folder.watching(receiver) as process:
            first, again = receiver.next(), receiver.next()
            process.kill()
            process.wait(PATIENCE_S)
        with folder.watching(receiver) as process:
            taken = receiver.next()
            # Something else is told, so that nothing before it is still on its way.
            assert main(["windows", "close", "acme", "--policies", str(folder.policies)]) == 0
            assert receiver.next().told["type"] == "window.closed"
            assert ended(process) == (0, ["window.closing", "window.closed"])
        with folder.watching(receiver) as process:
            folder.refuse("acme")
            assert receiver.next().told["type"] == "window.attempt"
            assert ended(process) == (0, ["window.attempt"])
        assert receiver.received.empty()
    assert first.told == again.told == taken.told
    assert int(taken.headers["webhook-timestamp"]) >= int(first.headers["webhook-timestamp"])


def test_an_attempt_while_nobody_watched_is_told_by_the_next_watch(folder: Folder) -> None:
    folder.write(policy_set(acme=datetime.now(UTC) - timedelta(days=1)))
    folder.refuse("acme")
    folder.log.rename(folder.log.with_suffix(".jsonl.1"))
    with Receiver().serving() as receiver, folder.watching(receiver, output="pretty") as process:
        assert receiver.next().told["type"] == "window.attempt"
        assert process.stdout is not None
        assert process.stdout.readline().startswith("window.attempt acme (closes 20")


def test_a_broken_file_changes_nothing_and_is_said(folder: Folder) -> None:
    whole = policy_set(acme=datetime.now(UTC) - timedelta(days=1))
    folder.write(whole)
    with Receiver().serving() as receiver, folder.watching(receiver) as process:
        folder.write("kind: [\n")
        assert process.stderr is not None
        assert "set.yaml:" in process.stderr.readline()
        folder.refuse("acme")
        assert receiver.next().told["type"] == "window.attempt"
        folder.write(whole + "---\n" + policy_set(other=datetime.now(UTC) + timedelta(hours=30)).split("---\n")[1])
        assert receiver.next().told["window"]["name"] == "other"


def test_a_disk_that_takes_nothing_more_does_not_keep_it_from_telling(folder: Folder) -> None:
    folder.write(policy_set(acme=datetime.now(UTC) + timedelta(days=1)))
    with Receiver().serving() as receiver, folder.watching(receiver) as process:
        assert receiver.next().told["type"] == "window.closing"
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "window.closing"  # and that is on disk
        (memory,) = (folder.path / "state" / "windows").glob("*/memory.json")
        memory.with_name("memory.json.draft").mkdir()  # nothing can be written there any more, whoever we are
        folder.refuse("other")
        assert main(["windows", "close", "acme", "--policies", str(folder.policies)]) == 0
        assert receiver.next().told["type"] == "window.closed"
        assert process.stderr is not None
        assert "what is told cannot be remembered" in process.stderr.readline()


def test_a_clock_that_is_set_forward_tells_each_lead_and_one_that_is_set_back_nothing_again(folder: Folder) -> None:
    closes = datetime.now(UTC) + timedelta(days=90)
    folder.write(policy_set(acme=closes, other=closes + timedelta(days=300)))
    now = {"ns": int((closes - timedelta(days=60)).timestamp() * 10**9)}

    async def story(receiver: Receiver) -> list[dict[str, Any]]:
        settings = WatchSettings(
            policies=str(folder.policies), state=folder.path / "state", url=NotifyUrl.parse(receiver.url), secrets=(),
            leads_ns=parse_leads_ns("14d,1d"),
        )  # fmt: skip
        said: list[Said] = []
        memory = MemoryFile(folder.path / "state", receiver.url)
        with memory.locked():
            watching = asyncio.create_task(
                WindowWatch(settings, memory, clock=lambda: now["ns"], say=said.append).run()
            )
            told = []
            for before in (timedelta(days=13), timedelta(hours=2), timedelta(0)):
                now["ns"] = int((closes - before).timestamp() * 10**9)
                told.append((await asyncio.to_thread(receiver.next)).told)
            now["ns"] = int((closes - timedelta(days=13)).timestamp() * 10**9)
            # Something that is told after the clock was seen to be back.
            folder.write(policy_set(acme=closes, other=closes))
            told.append((await asyncio.to_thread(receiver.next)).told)
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        assert not [each for each in said if each.fault]
        return told

    with Receiver().serving() as receiver:
        told = asyncio.run(story(receiver))
        assert receiver.received.empty()
    assert [(each["type"], each["lead_s"], each["window"]["name"]) for each in told] == [
        ("window.closing", 14 * 86_400, "acme"), ("window.closing", 86_400, "acme"), ("window.closed", None, "acme"),
        ("window.closing", 14 * 86_400, "other"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "why"), [("localhost", None), ("elsewhere.example", "not taken by https://localhost")]
)
def test_a_receiver_has_to_prove_its_name_by_an_authority_that_is_trusted(
    host: str, why: str | None, folder: Folder
) -> None:
    now = datetime.now(UTC)
    authority = Authority.generate(TrustDomain.parse("hooks.invalid"), now, timedelta(days=1))
    issued = authority.issue_server_certificate([host], now, timedelta(hours=1))
    (folder.path / "ca.pem").write_bytes(authority.certificate_pem)
    (folder.path / "server.pem").write_bytes(issued.certificate_pem + issued.key_pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder.path / "server.pem")
    folder.write(policy_set(acme=now + timedelta(days=1)))
    with Receiver().serving(tls) as receiver:
        with folder.watching(receiver) as process:  # the authority is none of this machine's
            assert process.stderr is not None
            assert "not taken by https://localhost" in process.stderr.readline()
        with folder.watching(receiver, SSL_CERT_FILE=str(folder.path / "ca.pem")) as process:
            if why is None:
                assert receiver.next().told["type"] == "window.closing"
            else:
                assert process.stderr is not None
                assert why in process.stderr.readline()
        assert receiver.received.empty()


def test_one_watch_a_url_is_enough_for_the_whole_mesh(folder: Folder) -> None:
    folder.write(policy_set(acme=datetime.now(UTC) + timedelta(days=90)))
    with Receiver().serving() as receiver, folder.watching(receiver):
        second = authz(*folder.words(receiver))
        assert second.returncode == 2
        assert "another `authz windows watch` runs for this URL" in second.stderr


def test_a_mesh_starts_beside_what_a_watch_has_kept(folder: Folder, tmp_path: Path) -> None:
    folder.write(policy_set(acme=datetime.now(UTC) + timedelta(days=90)))
    state = tmp_path / "fresh"
    state.mkdir()
    words = folder.words(Receiver())
    words[words.index("--state") + 1], words[words.index("--notify") + 1] = str(state), "https://hooks.invalid/"
    with subprocess.Popen([sys.executable, "-m", "authz", *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("watching ")
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert [each.name for each in state.iterdir()] == ["windows"]
    with StateDirectory(str(state)).locked():
        pass


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--notify", "http://hooks.example/"), "--notify: http is for this machine only"),
        (("--notify", "https://h.example/", "--lead", "soon"), "--lead: `soon` is no time"),
        (("--notify", "https://h.example/", "--secret-file", "nowhere"), "--secret-file: nowhere: no such file"),
    ],
)
def test_what_cannot_be_watched_is_said_before_anything_is(
    words: tuple[str, ...], message: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write(policy_set(acme=datetime.now(UTC)))
    assert main(["windows", "watch", *words, "--policies", str(folder.policies), "--state", str(folder.path)]) == 2
    assert message in capsys.readouterr().err
