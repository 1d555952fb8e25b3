"""`authz windows --hub`: what a hub counted stands in place of the decision logs."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from authz.cli.main import main
from authz.insight.errors import InsightError
from authz.insight.hub_windows import hub_windows
from tests.support.policy_sets import write
from tests.support.policy_texts import document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "right-token=="  # noqa: S105 of this test alone
CLOSES = "2026-06-01T00:00:00.000Z"
ATTEMPTS = {
    "count": 500, "first": "2026-06-01T00:00:00.001Z", "last": "2026-06-02T00:00:00.000Z",
    "sources": [
        {"identity": None, "service": "orders", "address": "10.0.0.1", "direction": "outbound", "sidecar": "orders",
         "count": 20},
        {"identity": "spiffe://acme.example/x", "service": None, "address": None, "direction": "inbound",
         "sidecar": "catalog", "count": 480},
    ],
}  # fmt: skip


def window(**more: Any) -> dict[str, Any]:
    return {
        "name": "acme", "kind": "third_party", "opens": "2026-01-01T00:00:00.000Z", "closes": CLOSES, "state": "ended",
        "attempts_after": ATTEMPTS, **more,
    }  # fmt: skip


@contextmanager
def hub(content: bytes, status: int = 200, token: str | None = None) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            allowed = token is None or self.headers["authorization"] == f"Bearer {token}"
            self.send_response(status if allowed else 401)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def policies(tmp_path: Path) -> str:
    spec = f"{{hosts: [api.acme.example], window: {{opens: 2026-01-01T00:00:00Z, closes: {CLOSES}}}}}"
    return write(
        tmp_path / "policies",
        document("Mesh", "m", "{trustDomains: [shop.example]}"),
        document("ThirdParty", "acme", spec),
    )


def test_attempts_are_the_hubs(policies: str, capsys: pytest.CaptureFixture[str]) -> None:
    with hub(json.dumps({"windows": [window(), window(name="unknown")]}).encode()) as (url, asked):
        assert main(["windows", "--policies", policies, "--hub", url, "-o", "json"]) == 0
        assert asked == ["/api/v1/windows"]
        (told,) = json.loads(capsys.readouterr().out)["windows"]
        assert main(["windows", "--policies", policies, "--hub", url + "/", "-o", "pretty"]) == 0
        assert "500 attempts since the end" in capsys.readouterr().out
    after = told["attempts_after"]
    assert {name: after[name] for name in ("count", "first", "last")} == {
        name: ATTEMPTS[name] for name in ("count", "first", "last")
    }
    assert [(each["count"], each["sidecar"]) for each in after["sources"]] == [(480, "catalog"), (20, "orders")]


def test_attempts_since_another_end_are_left_out_and_that_is_said(
    policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub(json.dumps({"windows": [window(closes="2026-05-01T00:00:00.000Z")]}).encode()) as (url, _):
        assert main(["windows", "--policies", policies, "--hub", url, "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["windows"][0]["attempts_after"]["count"] == 0
    assert "the hub knows another end of `acme`" in err


@pytest.mark.parametrize(
    ("content", "status", "message"), [(b"{}", 200, "no answer of a hub"), (b"{}", 503, "status 503")]
)
def test_a_hub_that_does_not_answer_so_is_said(
    content: bytes, status: int, message: str, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub(content, status) as (url, _):
        assert main(["windows", "--policies", policies, "--hub", url]) == 2
    assert message in capsys.readouterr().err
    assert main(["windows", "--policies", policies, "--hub", url]) == 2  # it has gone
    assert f"--hub: {url}: " in capsys.readouterr().err
    assert main(["windows", "--policies", policies, "--hub", "http://hub.example"]) == 2
    assert "http is for this machine only" in capsys.readouterr().err


def test_a_hub_that_asks_for_a_token_gets_it_from_a_file_or_the_environment(
    policies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    with hub(json.dumps({"windows": [window()]}).encode(), token=TOKEN) as (url, _):
        words = ["windows", "--policies", policies, "--hub", url, "-o", "json"]
        assert main(words) == 2
        assert "it wants to know who asks (status 401): give --token-file" in capsys.readouterr().err
        assert main([*words, "--token-file", str(file)]) == 0
        assert json.loads(capsys.readouterr().out)["windows"][0]["attempts_after"]["count"] == 500
        monkeypatch.setenv("AUTHZ_HUB_TOKEN", TOKEN)
        assert main(words) == 0
        monkeypatch.setenv("AUTHZ_HUB_TOKEN", "wrong-token")
        capsys.readouterr()
        assert main(words) == 2
        err = capsys.readouterr().err
        assert "it does not take the token for this" in err
        assert "wrong-token" not in err
        # What was named wins; and a file that others may read is said to be one.
        file.chmod(0o644)
        assert main([*words, "--token-file", str(file)]) == 0
        assert "others than its owner may use it" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "two\nlines", "with space", "caf\xe9", "x" * 5000])
def test_what_is_no_token_is_never_sent_and_never_shown(
    content: str, policies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content.encode("latin-1"))
    with hub(b"{}") as (url, asked):
        assert main(["windows", "--policies", policies, "--hub", url, "--token-file", str(file)]) == 2
        assert main(["windows", "--policies", policies, "--hub", url, "--token-file", str(tmp_path / "none")]) == 2
    assert asked == []
    err = capsys.readouterr().err
    assert "a token is one line" in err
    assert "no such file" in err
    assert not content or content not in err


@given(
    content=st.binary(max_size=100)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([CLOSES, "third_party"]),
        lambda below: (
            st.lists(below, max_size=3)
            | st.dictionaries(st.sampled_from([*window(), *ATTEMPTS, "windows", "identity"]), below, max_size=8)
        ),
        max_leaves=20,
    ).map(lambda value: json.dumps({"windows": [value, {**window(), "attempts_after": value}]}).encode())
)
def test_any_answer_is_read_or_refused(content: bytes) -> None:
    try:
        hub_windows(content)
    except InsightError:
        return
    assert content
