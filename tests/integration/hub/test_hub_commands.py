"""`authz observe`, `map`, `status`, `windows`: what a real hub knows, on a terminal and as JSON."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz.cli.main import main
from authz.cli.map import table
from authz.cli.map_graph import dot, mermaid, parties
from authz.cli.observe import encryption
from authz.instant import rfc3339_from_ns
from tests.support.hub_process import PATIENCE_S, Hub, batch, flow, record

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = '<b>\x1b[2J\x1b]0;owned\x07"]; click n0 "javascript:alert(1)"\nx -> y'


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        caller = {**flow()["caller"], "service": HOSTILE}
        flows = [
            flow(count=5),
            flow(decision="deny", reason="no_policy", policy=None, route=None, count=2),
            flow(caller=caller, count=1),
        ]
        records = [
            record(1),
            record(2, "orders", reason="closed", policy="q"),
            record(3, path=HOSTILE, caller={**record()["caller"], "service": HOSTILE}),
        ]
        assert running.send(batch(1, flows, records))[0] == 200
        yield running


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


class TestObserve:
    def test_shows_what_is_kept_the_oldest_first(self, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        lines = said(capsys, "observe", "--hub", hub.url, "-o", "json").splitlines()
        assert [json.loads(line)["decision_id"] for line in lines] == [f"{number:032x}" for number in (1, 2, 3)]
        assert len(said(capsys, "observe", "--hub", hub.url, "-o", "json", "--last", "1").splitlines()) == 1

    def test_shows_what_it_is_asked_for(self, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        filters = ("--decision", "deny", "--reason", "closed", "--from", "orders", "--to", "catalog", "--since", "1h")
        (line,) = said(capsys, "observe", "--hub", hub.url, "-o", "pretty", *filters).splitlines()
        assert "deny   closed by q  orders -> catalog  (in at catalog)  DELETE /items/42 http/2  403" in line
        assert said(capsys, "observe", "--hub", hub.url, "-o", "json", "--from", "nobody") == ""

    def test_follows_what_comes(self, hub: Hub) -> None:
        command = [
            sys.executable,
            "-m",
            "authz",
            "observe",
            "--hub",
            hub.url,
            "--follow",
            "--to",
            "followed",
            "-o",
            "json",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
            try:
                assert process.stdout is not None
                for number in (50, 51):
                    sent = batch(number, [], [record(number, target="followed")], sidecar="followed")
                    assert hub.send(sent)[0] == 200
                    assert json.loads(process.stdout.readline())["decision_id"] == f"{number:032x}"
            finally:
                process.terminate()
                process.wait(PATIENCE_S)

    def test_follows_nothing_that_was_there_before_and_not_asked_for(self, hub: Hub) -> None:
        now_ns = time.time_ns()
        times = [rfc3339_from_ns(now_ns - (10 - each) * 1_000_000_000) for each in range(4)]
        sent = [record(60 + each, target="late", time=times[each]) for each in range(4)]
        assert hub.send(batch(60, [], sent[:3], sidecar="late"))[0] == 200
        command = [sys.executable, "-m", "authz", "observe", "--hub", hub.url]
        command += ["--follow", "--to", "late", "--last", "1", "-o", "json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
            try:
                assert process.stdout is not None
                assert json.loads(process.stdout.readline())["decision_id"] == sent[2]["decision_id"]
                assert hub.send(batch(61, [], sent[3:], sidecar="late"))[0] == 200
                assert json.loads(process.stdout.readline())["decision_id"] == sent[3]["decision_id"]
            finally:
                process.terminate()
                process.wait(PATIENCE_S)

    def test_follows_on_when_the_hub_begins_anew(self, tmp_path: Path) -> None:
        hub = Hub(folder=tmp_path)
        with hub:
            assert hub.send(batch(1, [], [record(1)]))[0] == 200
            command = [sys.executable, "-m", "authz", "observe", "--hub", hub.url, "--follow", "-o", "json"]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3]
            ) as process:
                try:
                    assert process.stdout is not None
                    assert process.stderr is not None
                    assert json.loads(process.stdout.readline())["decision_id"] == record(1)["decision_id"]
                    port = hub.port
                    hub.kill()
                    assert b"nothing listens at " in process.stderr.readline()
                    hub.start(port)
                    assert hub.send(batch(2, [], [record(2)]))[0] == 200
                    assert json.loads(process.stdout.readline())["decision_id"] == record(2)["decision_id"]
                finally:
                    process.terminate()
                    process.wait(PATIENCE_S)

    def test_a_parameter_that_the_hub_refuses_is_said(self, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["observe", "--hub", hub.url, "--reason", "because"]) == 2
        assert "`reason`: give one of allowed, observed" in capsys.readouterr().err
        assert main(["map", "--hub", hub.url, "--since", "1h", "--compare", "yesterday"]) == 2
        assert "`compare`: give a time (" in capsys.readouterr().err

    @pytest.mark.parametrize("last", ["-1", "100001", "9" * 5000, "x", "\u0665"])
    def test_a_number_that_is_none_or_too_large_is_said_with_what_is_taken(
        self, hub: Hub, capsys: pytest.CaptureFixture[str], last: str
    ) -> None:
        assert main(["observe", "--hub", hub.url, "--last", last]) == 2
        assert capsys.readouterr().err.endswith("is no number from 0 to 100000\n")

    def test_a_call_that_was_cut_is_not_said_not_to_have_been_sent(self) -> None:
        plain = {"version": None, "cipher": None, "peer_serial": None}
        party = {"service": None, "third_party": "acme", "host": "api.acme.example"}
        refused = record(direction="outbound", destination=party, tls=plain)
        assert encryption(refused) == "not sent"
        assert encryption({**refused, "cut": True, "status": 200, "bytes_sent": 390}) == "tls by envoy"


class TestMap:
    def test_shows_edges_as_a_table_and_as_the_api_says(self, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        edges = json.loads(said(capsys, "map", "--hub", hub.url, "-o", "json"))["edges"]
        edge = next(each for each in edges if each["from"] == "storefront")
        assert (edge["to"], edge["calls"], edge["denied"]) == ("catalog", 7, 2)
        table = said(capsys, "map", "--hub", hub.url, "-o", "pretty", "--compare", "1d").splitlines()
        assert table[0].split()[:4] == ["FROM", "TO", "CALLS", "DENIED"]
        assert next(line for line in table if line.startswith("storefront")).split()[1:4] == ["catalog", "7", "2"]
        assert "new (was 0)" in table[1]

    def test_is_a_graph_for_graphviz_and_for_mermaid(self, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        dot = said(capsys, "map", "--hub", hub.url, "-o", "dot")
        assert dot.startswith("digraph calls {")
        assert '[label="7 calls, 2 denied", color="red"' in dot
        mermaid = said(capsys, "map", "--hub", hub.url, "-o", "mermaid")
        assert mermaid.startswith("flowchart LR")
        assert '-- "7 calls, 2 denied" -->' in mermaid
        assert "linkStyle" in mermaid


WINDOW = {"opens": "2026-01-01T00:00:00.000Z", "closes": "2026-06-01T00:00:00.000Z"}
SERVICES = [
    {"name": "orders", "kind": "service", "window": None},
    {"name": "acme", "kind": "third_party", "window": WINDOW},
]
EDGE = {
    "calls": 4, "allowed": 3, "denied": 1, "observed": 0, "cut": 2, "unreached": 0, "p50_ms": 1.0, "p99_ms": None,
    "routes": 1, "last_seen": "2026-05-01T00:00:00.000Z",
}  # fmt: skip
EDGES = [
    {**EDGE, "from": "acme", "to": "orders", "tls": {"TLSv1_3": 4}},
    {**EDGE, "from": "orders", "to": "acme", "tls": {"none": 4}},
    {**EDGE, "from": "orders", "to": "tracker.example", "allowed": 0, "denied": 4, "tls": {"none": 4}},
    {**EDGE, "from": "orders", "to": "plain", "denied": 0, "tls": {"none": 4}},
]


class TestParties:
    def test_a_third_party_has_its_window_as_it_was_at_the_maps_instant(self) -> None:
        for at, window in (
            ("2025-12-31T00:00:00.000Z", "opens 2026-01-01"),
            ("2026-01-01T00:00:00.000Z", "open until 2026-06-01"),
            ("2026-06-01T00:00:00.000Z", "ended 2026-06-01"),
        ):
            known = parties(SERVICES, at)
            assert f'n0{{{{"acme<br/>{window}"}}}}' in "\n".join(mermaid(EDGES, known))
            assert f'n0 [label="acme\\n{window}", shape="octagon"' in "\n".join(dot(EDGES, known))

    def test_a_host_that_is_nobodys_is_dashed_and_cut_calls_are_counted(self) -> None:
        known = parties(SERVICES, "2026-03-01T00:00:00.000Z")
        graph = "\n".join(mermaid(EDGES, known))
        assert 'n3(["tracker.example"])' in graph
        assert "class n2,n3 unknown" in graph
        assert '-- "4 calls, 1 denied, 2 cut" -->' in graph
        assert 'n3 [label="tracker.example", style="dashed"]' in "\n".join(dot(EDGES, known))

    def test_the_table_says_of_calls_without_a_version_what_is_known(self) -> None:
        lines = list(table(EDGES, parties(SERVICES, "2026-03-01T00:00:00.000Z")))
        at = lines[0].index("TLS")
        assert [line[at:].split("  ")[0] for line in lines[1:]] == ["1.3", "by envoy", "not sent", "not recorded"]


@pytest.mark.parametrize("words", [("observe",), ("map",), ("map", "-o", "dot"), ("map", "-o", "mermaid")])
def test_what_callers_sent_reaches_the_terminal_inert(
    hub: Hub, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    output = () if "-o" in words else ("-o", "pretty")
    out = said(capsys, *words, *output, "--hub", hub.url)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "owned" in out
    if "mermaid" in words:
        assert '"javascript' not in out
        assert "<b>" not in out
    if "dot" in words:
        assert '\\"]; click' in out


class TestStatus:
    def test_shows_every_sidecar_and_what_is_wrong(self, capsys: pytest.CaptureFixture[str]) -> None:
        with Hub() as hub:
            hub.send(batch(1))
            hub.send(batch(1, sidecar="orders"))
            good = said(capsys, "status", "--hub", hub.url, "-o", "pretty")
            assert [line.split()[:2] for line in good.splitlines()[3:]] == [["catalog", "ready"], ["orders", "ready"]]
            status = {
                **batch()["status"],
                "lost": 3,
                "dropped": 9,
                "ready": False,
                "svid_expires": "2026-01-01T00:00:00.000Z",
            }
            hub.send(batch(2, sidecar="orders", status=status))
            assert main(["status", "--hub", hub.url, "-o", "json"]) == 1
            troubles = json.loads(capsys.readouterr().out)["troubles"]
            assert troubles == [
                "orders has no usable policies",
                "orders: its SVID has ended",
                "orders has lost 3 records and dropped 9",
            ]


def test_a_token_is_read_from_a_file_or_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    access, token = tmp_path / "access.json", tmp_path / "token"
    entry = {"name": "ops", "role": "viewer", "sha256": hashlib.sha256(b"secret-token").hexdigest()}
    access.write_text(json.dumps({"tokens": [entry]}))
    token.write_text("secret-token\n")
    with Hub("--access", str(access)) as hub:
        assert main(["map", "--hub", hub.url]) == 2
        assert "say who asks" in capsys.readouterr().err
        assert main(["map", "--hub", hub.url, "--token-file", str(token)]) == 0
        monkeypatch.setenv("AUTHZ_HUB_TOKEN", "secret-token")
        monkeypatch.setenv("AUTHZ_HUB", hub.url)
        assert main(["map", "--state", str(tmp_path)]) == 0
        assert main(["observe", "--state", str(tmp_path)]) == 2
        assert "the role `security` is needed" in capsys.readouterr().err


def test_without_a_hub_it_is_said_how_to_name_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTHZ_HUB", raising=False)
    for command in ("observe", "map", "status"):
        assert main([command, "--state", str(tmp_path)]) == 2
        assert "--hub: name the hub" in capsys.readouterr().err
