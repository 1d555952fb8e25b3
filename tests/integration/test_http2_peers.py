"""Programs of others against the check path's HTTP/2: h2spec's cases, grpcurl and ghz. Run by `make test-peers`.

What h2spec cannot be run against, and why, stands in docs/http2.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.http2_frames import CHECK
from tests.support.http2_process import Http2Process

if TYPE_CHECKING:
    from collections.abc import Iterator

PEERS = Path(__file__).parents[2] / ".cache/peers"
#: h2spec's encoder ignores SETTINGS_HEADER_TABLE_SIZE, which RFC 9113 4.3.1 has us refuse
H2SPEC_TABLE_BYTES = 4096
#: how many cases h2spec 2.2.1 has, the strict ones included
H2SPEC_CASES = 146
PROTO = """\
syntax = "proto3";
package envoy.service.auth.v3;
service Authorization { rpc Check(Blob) returns (Blob); }
message Blob { string text = 1; }
"""
HEALTH_PROTO = """\
syntax = "proto3";
package grpc.health.v1;
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse { enum Status { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; } Status status = 1; }
service Health {
  rpc Check(HealthCheckRequest) returns (HealthCheckResponse);
  rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse);
}
"""

pytestmark = pytest.mark.peers


def peer(name: str) -> str:
    found = shutil.which(name, path=str(PEERS)) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: make test-peers builds it, with Go")
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Http2Process]:
    with Http2Process() as process:
        yield process
        process.drain()
        assert process.ended() == (0, "")


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protos")
    (folder / "check.proto").write_text(PROTO, "utf-8")
    (folder / "health.proto").write_text(HEALTH_PROTO, "utf-8")
    return folder


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)


def test_h2spec_finds_no_fault() -> None:
    with Http2Process(table_bytes=H2SPEC_TABLE_BYTES) as process:
        command = [peer("h2spec"), "--strict", "--host", "127.0.0.1", "--port", str(process.port), "--timeout", "2"]
        done = run(*command)
        process.drain()
        assert process.ended() == (0, "")
    assert re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done.stdout), done.stdout
    assert f"{H2SPEC_CASES} tests, {H2SPEC_CASES} passed, 0 skipped, 0 failed" in done.stdout, done.stdout
    assert done.returncode == 0


def grpcurl(
    server: Http2Process, proto: Path, given: str, method: str, *options: str
) -> subprocess.CompletedProcess[str]:
    where = ["-plaintext", "-import-path", str(proto.parent), "-proto", proto.name, "-d", given, *options]
    return run(peer("grpcurl"), *where, server.address, method)


def test_grpcurl_checks_and_asks_for_health(server: Http2Process, protos: Path) -> None:
    done = grpcurl(server, protos / "check.proto", '{"text": "hello"}', CHECK.removeprefix("/"), "-max-time", "5")
    assert json.loads(done.stdout) == {"text": "hello"}, done.stderr
    done = grpcurl(server, protos / "health.proto", "{}", "grpc.health.v1.Health/Check")
    assert json.loads(done.stdout) == {"status": "SERVING"}, done.stderr


def test_grpcurl_is_told_what_there_is_not(server: Http2Process, protos: Path) -> None:
    for given, method, code in (
        ('{"service": "x"}', "grpc.health.v1.Health/Check", "NotFound"),
        ("{}", "grpc.health.v1.Health/Watch", "Unimplemented"),
    ):
        done = grpcurl(server, protos / "health.proto", given, method)
        assert f"Code: {code}" in done.stderr
    reflection = run(peer("grpcurl"), "-plaintext", "-max-time", "5", server.address, "list")
    assert "does not support the reflection API" in reflection.stderr


@pytest.mark.parametrize("compressed", [False, True])
def test_ghz_gets_an_answer_to_every_call(server: Http2Process, protos: Path, compressed: bool) -> None:  # noqa: FBT001
    where = ["--insecure", "--proto", str(protos / "check.proto"), "--call", CHECK.removeprefix("/").replace("/", ".")]
    load = ["-n", "5000", "-c", "50", "--connections", "4", "-d", json.dumps({"text": "x" * 1800}), "-O", "json"]
    done = run(peer("ghz"), *where, *load, *(["--enable-compression"] if compressed else []), server.address)
    codes = json.loads(done.stdout)["statusCodeDistribution"]
    assert codes == ({"Unimplemented": 5000} if compressed else {"OK": 5000})
