"""`authz windows watch --hub`: the first attempt after an end is told from what a real hub knows of all sidecars."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from authz.cli.main import main
from tests.support.hub_process import Hub, batch, record
from tests.support.webhook_receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 60
CALLER = {"service": None, "third_party": "acme", "presented_by": None, "address": "10.9.8.7:4000"}


def attempt(number: int, **more: Any) -> dict[str, Any]:
    """Give the record of a call of acme, `number` milliseconds after the rest."""
    caller = {**CALLER, "identity": f"spiffe://acme.example/{number}"}
    return record(number, caller=caller, reason="decommissioned", policy="acme", **more)


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    end = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    (folder / "set.yaml").write_text(
        "apiVersion: authz/v1\nkind: Mesh\nmetadata: {name: m}\nspec: {trustDomains: [shop.example]}\n---\n"
        "apiVersion: authz/v1\nkind: ThirdParty\nmetadata: {name: acme}\n"
        f"spec: {{hosts: [acme.example], window: {{opens: 2026-01-01T00:00:00Z, closes: {end}}}}}\n"
    )
    (tmp_path / "state").mkdir()
    return folder


@contextmanager
def watching(policies: Path, hub: Hub, receiver: Receiver) -> Iterator[subprocess.Popen[str]]:
    words = [
        "windows", "watch", "--notify", receiver.url, "--policies", str(policies), "-o", "json",
        "--state", str(policies.parent / "state"), "--hub", hub.url,
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "authz", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("warning: without --secret-file")
            assert f"asking {hub.url}" in process.stderr.readline()
            yield process
        finally:
            process.kill()


def test_the_first_attempt_that_a_hub_knows_is_told_once_whichever_sidecar_saw_it(policies: Path) -> None:
    with Hub("--policies", str(policies)) as hub, Receiver().serving() as receiver:
        cut, first = attempt(1, cut=True), attempt(2)
        assert hub.send(batch(1, [], [attempt(3, sidecar="orders")], sidecar="orders"))[0] == 200
        assert hub.send(batch(1, [], [cut, first, attempt(4)]))[0] == 200
        with watching(policies, hub, receiver) as process:
            told = receiver.next().told
            assert (told["type"], told["window"]["name"]) == ("window.attempt", "acme")
            assert told["attempt"] == {
                "time": first["time"], "decision_id": f"{2:032x}", "request_id": "request-2",
                "identity": "spiffe://acme.example/2", "service": None, "address": "10.9.8.7", "direction": "inbound",
                "sidecar": "catalog",
            }  # fmt: skip
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0
            assert [json.loads(each)["type"] for each in out.splitlines()] == ["window.attempt"]
        # The next watch knows that it was told; something else is told, so that nothing before it is on its way.
        with watching(policies, hub, receiver):
            text = (policies / "set.yaml").read_text()
            soon = wall(datetime.now(UTC) + timedelta(minutes=30))
            (policies / "set.yaml").write_text(text + "---\n" + text.split("---\n")[1].replace("acme", "other"))
            assert main(["windows", "close", "other", "--at", soon, "--extend", "--policies", str(policies)]) == 0
            assert receiver.next().told["window"]["name"] == "other"
        assert receiver.received.empty()


def test_what_came_while_the_hub_was_away_is_told_when_it_is_back(policies: Path, tmp_path: Path) -> None:
    with Receiver().serving() as receiver, Hub("--policies", str(policies), folder=tmp_path) as hub:
        port = hub.port
        with watching(policies, hub, receiver) as process:
            hub.kill()
            assert process.stderr is not None
            assert "attempts may be missed: --hub" in process.stderr.readline()
            hub.start(port)
            assert hub.send(batch(1, [], [attempt(1)]))[0] == 200
            assert receiver.next().told["attempt"]["identity"] == "spiffe://acme.example/1"


def test_a_role_that_may_not_read_single_calls_is_said_at_the_start(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "viewers-token"  # noqa: S105 of this test alone
    access = tmp_path / "access.json"
    digest = hashlib.sha256(token.encode()).hexdigest()
    access.write_text(json.dumps({"tokens": [{"name": "v", "role": "viewer", "sha256": digest}]}))
    monkeypatch.setenv("AUTHZ_HUB_TOKEN", token)
    with Hub("--policies", str(policies), "--access", str(access)) as hub:
        words = ["windows", "watch", "--notify", "http://127.0.0.1:9/", "--policies", str(policies), "--hub", hub.url]
        assert main([*words, "--state", str(tmp_path / "state")]) == 2
    err = capsys.readouterr().err
    assert "status 403" in err
    assert token not in err


def wall(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
