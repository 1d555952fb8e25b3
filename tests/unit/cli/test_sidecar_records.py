"""Flags of `authz sidecar` that say where records go: what cannot work is said at the start, with what to do."""

from __future__ import annotations

import pytest

from authz.cli.arguments import USAGE
from authz.cli.main import main

SIDECAR = ("sidecar", "--service", "orders", "--policies", ".", "--socket", "s")
STATE = ("--state", "state")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--hub", "http://127.0.0.1:8080"), "--hub: say with --state where batches wait for it"),
        ((*STATE, "--hub", "http://hub.example:8080"), "http reaches this machine's own loopback only; give https"),
        ((*STATE, "--hub", "http://127.0.0.1.nip.io:80"), "http reaches this machine's own loopback only; give https"),
        ((*STATE, "--hub", "https://hub.example"), "--hub: say with --identity or --hub-token-file how"),
        ((*STATE, "--hub", "hub.example:8443"), "give a URL such as https://hub.example:8443"),
        ((*STATE, "--hub", "https://u:p@hub.example"), "without user, query and fragment"),
        ((*STATE, "--hub", "https://hub.example/?x=1"), "without user, query and fragment"),
        ((*STATE, "--hub", "https://" + "h" * 3000), "a URL has at most 2048 characters"),
        (("--hub-token-file", "t"), "--hub-token-file: say with --hub where the token is shown"),
        ((*STATE, "--hub", "http://[::1]:80", "--hub-token-file", "/nowhere"), "there is no such file"),
        (("--metrics", "9464"), "--metrics `9464`: give HOST:PORT"),
        (("--metrics", "127.0.0.1:70000"), "give HOST:PORT"),
        (("--decision-log-max-bytes", "100000"), "--decision-log-max-bytes: say with --decision-log which file"),
        (("--decision-log", "f", "--decision-log-max-bytes", "1"), "--decision-log-max-bytes 1: give 65536 to"),
        (("--decision-log-files", "-1"), "--decision-log-files -1: give 0 to 1000"),
        (("--spool-max-bytes", "1"), "--spool-max-bytes 1: give 65536 to"),
        (("--access-log-socket", "a"), "--access-log-socket: say with --decision-log or --hub where records go"),
        (("--audit", "strict"), "--audit strict: say with --decision-log or --hub where records go"),
        (("--check-transport", "grpcio", "--metrics", "127.0.0.1:1"), "--metrics: not with --check-transport grpcio"),
        (
            ("--check-transport", "grpcio", "--otlp-endpoint", "http://127.0.0.1:4318"),
            "--otlp-endpoint: not with --check-transport grpcio",
        ),
    ],
)
def test_what_cannot_work_is_refused(flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SIDECAR, *flags]) == USAGE
    assert words in capsys.readouterr().err
