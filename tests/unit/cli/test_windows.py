"""`authz windows list` and `authz windows close`, as they are typed."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from authz.cli.main import main
from authz.insight import attempt_tally
from authz.policy_folder import load_policy_folder
from tests.support.icalendar import read
from tests.support.refusals import line

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC)


def wall(days: float) -> str:
    return (NOW + timedelta(days=days)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def document(kind: str, name: str, spec: str) -> str:
    return f"apiVersion: authz/v1\nkind: {kind}\nmetadata: {{name: {name}, owner: insights}}\nspec: {spec}\n"


def third_party(name: str, opens: float, closes: float) -> str:
    window = f"window: {{opens: {wall(opens)}, closes: {wall(closes)}}}"
    return document("ThirdParty", name, f"{{hosts: [api.{name}.example], {window}}}")


def rule(name: str, window: str, to: str = "thirdParties: [acme]") -> str:
    return document(
        "MicroPolicy", name, f"{{from: [{{services: [orders]}}], to: [{{{to}, operations: all}}], window: {window}}}"
    )


HOURS = '{during: [{days: [mon], from: "08:00", until: "18:00", timezone: Europe/Berlin}]}'
SET = "---\n".join(
    [
        document("Mesh", "shop", "{trustDomains: [shop.example]}"),
        document("Service", "orders", "{identities: [spiffe://shop.example/orders]}"),
        third_party("acme", -100, -10),
        third_party("soon", -100, 13),
        third_party("later", -100, 15),
        third_party("to-come", 5, 15),
        rule("acme", f"{{closes: {wall(-20)}}}"),
        rule("hours", HOURS),
    ]
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "set.yaml").write_text(SET)
    (tmp_path / "state" / "decisions").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["windows", *words, "--policies", "policies", "--state", "state", "-o", "json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_every_window_is_told_with_its_state(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.is_dir()
    told = listed(capsys, "list")
    assert {(each["kind"], each["name"]): each["state"] for each in told["windows"]} == {
        ("third_party", "acme"): "ended",
        ("third_party", "later"): "open",
        ("third_party", "soon"): "closing",
        ("third_party", "to-come"): "opening",
        ("micro_policy", "acme"): "ended",
        ("micro_policy", "hours"): "open",
    }
    hours = told["windows"][-1]
    assert (hours["opens"], hours["closes"]) == (None, None)
    assert "Europe/Berlin" in hours["hours"]
    assert told["windows"][0]["attempts_after"] == {
        "count": 0, "records": 0, "first": None, "last": None, "sources": [],
    }  # fmt: skip
    assert listed(capsys) == told  # alone, it lists


def test_attempts_are_told_by_source_from_the_decision_logs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = [
        line(wall(-9), request_id="1"),
        line(wall(-8), request_id="2", address="10.0.0.7:9"),
        line(wall(-7), request_id="3", identity="spiffe://shop.example/orders", service="orders",
             direction="outbound", address="127.0.0.1:5"),
        line(wall(-30), request_id="4"),
        line(wall(-6), reason="allowed"),
    ]  # fmt: skip
    (folder / "state/decisions/orders.jsonl").write_bytes(b"".join(refused))
    (folder / "state/decisions/catalog.jsonl").write_bytes(line(wall(-1), policy="to-come", reason="not_commissioned"))
    told = listed(capsys)
    assert told["windows"][0]["attempts_after"] == {
        "count": 3, "records": 3, "first": wall(-9), "last": wall(-7),
        "sources": [
            {"identity": "spiffe://acme.example/pull", "service": None, "address": "10.0.0.7",
             "direction": "inbound", "sidecar": "orders", "count": 2},
            {"identity": "spiffe://shop.example/orders", "service": "orders", "address": "127.0.0.1",
             "direction": "outbound", "sidecar": "orders", "count": 1},
        ],
    }  # fmt: skip
    (to_come,) = (each for each in told["windows"] if each["name"] == "to-come")
    assert (to_come["attempts_before"]["count"], to_come["attempts_after"]["count"]) == (1, 0)
    assert told["logs"] == {"files": 2, "lines": 6, "damaged": 0, "partial": 0, "unreadable": []}


def test_damage_is_said_on_standard_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "state/decisions/orders.jsonl").write_bytes(b"x\n" + line(wall(-9)) + line(wall(-9))[:80])
    assert main(["windows", "--policies", "policies", "--state", "state", "-o", "pretty"]) == 0
    out, err = capsys.readouterr()
    assert "1 attempt since the end, all refused" in out
    assert err.splitlines() == [
        "1 damaged line is left out of the count",
        "1 unfinished last line is left out of the count",
    ]


def test_nothing_that_an_attacker_sent_reaches_the_terminal_unescaped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\n\u202e\ud800"
    record = json.loads(line(wall(-9), request_id="1"))
    record["sidecar"] = record["caller"]["address"] = record["caller"]["service"] = evil
    (folder / "state/decisions/orders.jsonl").write_text(json.dumps(record) + "\n")
    assert main(["windows", "--policies", "policies", "--state", "state", "-o", "pretty"]) == 0
    out = capsys.readouterr().out
    assert all(each.isprintable() for each in out.split("\n"))
    assert r"\x1b[2J\n\u202e\ud800" in out
    for output in ("json", "ics"):
        assert main(["windows", "--policies", "policies", "--state", "state", "-o", output]) == 0
        assert capsys.readouterr().out.isascii()


def test_many_sources_are_cut_short_for_people_only(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_tally, "MAX_SOURCES", 11)
    (folder / "state/decisions/orders.jsonl").write_bytes(
        b"".join(line(wall(-9), request_id=str(each), address=f"10.0.0.{each}:1") for each in range(20))
    )
    assert main(["windows", "--policies", "policies", "--state", "state", "-o", "pretty"]) == 0
    out = capsys.readouterr().out
    assert "9  (other sources) inbound at the sidecar of orders" in out
    assert "and 2 sources more; `-o json` has them all" in out
    assert len(listed(capsys)["windows"][0]["attempts_after"]["sources"]) == 12


def on_a_terminal(*words: str, **environment: str) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "authz", *words], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, **environment},
    ):  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux answers EIO where the last process has let go of a terminal
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    return shown.decode()


def test_colours_are_for_terminals_only_and_not_where_nobody_wants_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("windows", "--policies", str(folder / "policies"), "--state", str(folder / "state"))
    assert "\x1b[31mended" in on_a_terminal(*words)
    assert "\x1b" not in on_a_terminal(*words, NO_COLOR="1")
    assert main([*words, "-o", "pretty"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_calendar_has_every_date(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.is_dir()
    assert main(["windows", "--policies", "policies", "-o", "ics"]) == 0
    feed = read(capsys.readouterr().out.encode())
    assert sorted(each.properties["UID"] for each in feed.components) == sorted(
        [f"{word}.third_party.{name}.shop@shop.example" for word in ("opens", "closes")
         for name in ("acme", "soon", "later", "to-come")] + ["closes.micro_policy.acme.shop@shop.example"]
    )  # fmt: skip


def test_a_folder_that_is_not_there_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.is_dir()
    assert main(["windows", "--policies", "policies", "--state", "nowhere"]) == 2
    assert capsys.readouterr().err == "--state: nowhere: there is no such folder\n"
    before = (folder / "policies").stat().st_mtime_ns
    assert main(["windows", "close", "acme", "--now", "--policies", "policies", "--state", "nowhere"]) == 2
    assert capsys.readouterr().err == "--state: nowhere: there is no such folder\n"
    assert (folder / "policies").stat().st_mtime_ns == before
    assert main(["windows", "--state", "state"]) == 2
    assert "--policies: name the policy folder" in capsys.readouterr().err


# --- close


def close(*words: str) -> int:
    return main(["windows", "close", *words, "--policies", "policies"])


def test_closing_now_changes_the_date_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert close("soon", "--now", "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)
    after = (folder / "policies/set.yaml").read_text()
    assert after == SET.replace(wall(13), told["new"])
    assert (told["name"], told["kind"], told["changed"], told["old"]) == ("soon", "third_party", True, wall(13))
    assert after.splitlines()[told["line"] - 1][told["column"] - 1 :].startswith(told["new"])
    assert listed(capsys)["windows"][2]["state"] == "ended"
    assert close("soon", "-o", "json") == 0  # once more changes nothing
    assert json.loads(capsys.readouterr().out)["changed"] is False
    assert (folder / "policies/set.yaml").read_text() == after


def test_the_same_end_in_other_words_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert close("soon", "--at", wall(13).replace("Z", "-00:00"), "-o", "pretty") == 0
    assert capsys.readouterr().out == f"`soon` ends then already, at {wall(13)}; nothing was changed\n"
    assert close("acme", "--kind", "third_party", "-o", "pretty") == 0
    assert "`acme` ended 10 days ago, at " in capsys.readouterr().out
    assert (folder / "policies/set.yaml").read_text() == SET


def test_what_ends_with_a_third_party_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "policies/more.yaml").write_text(
        "---\n".join([
            rule("ends", "{opens: 2020-01-01T00:00:00Z}", "thirdParties: [soon]"),
            rule("goes-on", "{opens: 2020-01-01T00:00:00Z}", "thirdParties: [soon, later]"),
        ])
    )  # fmt: skip
    assert close("soon", "--at", wall(1), "-o", "pretty") == 0
    out = capsys.readouterr().out.splitlines()
    assert f"closes: {wall(13)} -> {wall(1)}" in out[0]
    assert out[1].startswith("the ThirdParty `soon` is decommissioned in ")
    assert out[2:] == ["with it end: `ends`", "these go on for others: `goes-on`"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("soon", "--at", wall(14)), "say --extend if that is meant"),
        (("acme", "--at", wall(1), "--kind", "third_party"), "`acme` ended at "),
        (("to-come", "--now"), "`to-come` has not opened: it opens at "),
        (("to-come",), "remove the ThirdParty, or move its `opens`"),
        (("soon", "--at", wall(-101)), "it closes after that, or --now"),
        (("acme", "--now"), "say --kind third_party or --kind micro_policy"),
        (("sonn", "--now"), "there is no ThirdParty, and no MicroPolicy with a window, `sonn`; did you mean `soon`?"),
        (("soon", "--at", "tomorrow"), "--at: `tomorrow` is no time of RFC 3339"),
        (("soon", "--at", wall(1), "--now"), "--now and --at: give one of them"),
        (("soon", "--kind", "guardrail"), "--kind: `guardrail` is neither"),
    ],
)
def test_what_is_not_meant_or_cannot_be_is_refused_and_changes_nothing(
    words: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert close(*words) == 2
    assert message in capsys.readouterr().err
    assert (folder / "policies/set.yaml").read_text() == SET


def test_a_rule_without_an_end_gets_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert close("hours", "--at", "2099-01-01T00:00:00Z", "-o", "pretty") == 0
    out = capsys.readouterr().out
    assert "closes: without end -> 2099-01-01T00:00:00Z" in out
    assert "the MicroPolicy `hours` ends in" in out
    after = (folder / "policies/set.yaml").read_text()
    assert after == SET.replace("{during:", "{closes: 2099-01-01T00:00:00Z, during:")


def test_an_end_is_moved_further_away_by_extend_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert close("soon", "--at", "2099-01-01T00:00:00+01:00", "--extend") == 0
    assert (folder / "policies/set.yaml").read_text() == SET.replace(wall(13), "2099-01-01T00:00:00+01:00")
    assert json.loads(capsys.readouterr().out)["closes"] == "2098-12-31T23:00:00.000Z"


def test_a_set_with_a_fault_is_not_touched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "policies/broken.yaml").write_text("kind: [\n")
    assert close("soon") == 2
    assert "policies/broken.yaml:" in capsys.readouterr().err
    assert (folder / "policies/set.yaml").read_text() == SET


def test_a_link_stays_a_link_and_the_file_keeps_its_mode_and_owner(folder: Path) -> None:
    elsewhere = folder / "elsewhere.txt"
    (folder / "policies/set.yaml").rename(elsewhere)
    (folder / "policies/set.yaml").symlink_to("../elsewhere.txt")
    elsewhere.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(elsewhere, 4711, 4712)
    before = elsewhere.stat()
    assert close("soon") == 0
    after = elsewhere.stat()
    assert (folder / "policies/set.yaml").is_symlink()
    assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)
    assert before.st_ino != after.st_ino  # replaced as a whole, never half written
    assert sorted(each.name for each in folder.iterdir()) == ["elsewhere.txt", "policies", "state"]
    (soon,) = (each for each in load_policy_folder("policies").third_parties if each.name == "soon")
    assert soon.window.closes_ns is not None
    assert soon.window.closes_ns <= datetime.now(UTC).timestamp() * 10**9
