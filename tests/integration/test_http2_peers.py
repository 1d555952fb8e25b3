"""Programs of others against our HTTP/2, the check's and the hold's: h2spec, grpcurl, ghz. Run by `make test-peers`.

What h2spec cannot be run against, and why, stands in docs/http2.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.held_service import UNKNOWN
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
PROCESS = "envoy.service.ext_proc.v3.ExternalProcessor/Process"
HOLD = "tests.support.held_service"
#: of Envoy's messages as much as a held call has; the numbers are Envoy's
PROCESS_PROTO = """\
syntax = "proto3";
package envoy.service.ext_proc.v3;
message HeaderValue { string key = 1; bytes raw_value = 3; }
message HeaderMap { repeated HeaderValue headers = 1; }
message HttpHeaders { HeaderMap headers = 1; }
message HttpTrailers { HeaderMap trailers = 1; }
message HttpStatus { int32 code = 1; }
message ImmediateResponse { HttpStatus status = 1; string details = 5; }
message Said { }
message ProcessingRequest {
  oneof request { HttpHeaders request_headers = 2; HttpTrailers response_trailers = 7; }
}
message ProcessingResponse {
  oneof response { Said request_headers = 1; Said response_trailers = 6; ImmediateResponse immediate_response = 7; }
}
service ExternalProcessor { rpc Process(stream ProcessingRequest) returns (stream ProcessingResponse); }
"""
TRAILERS = {"response_trailers": {}}

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
def hold() -> Iterator[Http2Process]:
    with Http2Process(module=HOLD) as process:
        yield process
        process.drain()
        assert process.ended() == (0, ""), "every call that was held has ended"


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protos")
    (folder / "check.proto").write_text(PROTO, "utf-8")
    (folder / "health.proto").write_text(HEALTH_PROTO, "utf-8")
    (folder / "process.proto").write_text(PROCESS_PROTO, "utf-8")
    return folder


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)


@pytest.mark.parametrize("module", ["tests.support.http2_server", HOLD])
def test_h2spec_finds_no_fault(module: str) -> None:
    with Http2Process(table_bytes=H2SPEC_TABLE_BYTES, module=module) as process:
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


def begins(decision_id: bytes) -> dict[str, object]:
    header = {"key": "x-authz-hold", "rawValue": b64encode(decision_id).decode()}
    return {"request_headers": {"headers": {"headers": [header]}}}


def test_grpcurl_has_a_call_held_and_is_told_of_one_that_nobody_knows(hold: Http2Process, protos: Path) -> None:
    proto = protos / "process.proto"
    messages = "".join(map(json.dumps, (begins(b"d" * 32), TRAILERS)))
    done = grpcurl(hold, proto, messages, PROCESS, "-max-time", "5")
    assert done.returncode == 0, done.stderr
    assert "".join(done.stdout.split()) == '{"requestHeaders":{}}{"responseTrailers":{}}'
    done = grpcurl(hold, proto, json.dumps(begins(UNKNOWN)), PROCESS, "-max-time", "5")
    assert json.loads(done.stdout)["immediateResponse"]["status"] == {"code": 503}
    assert "Code: PermissionDenied" in done.stderr


def test_ghz_has_thousands_of_calls_held(hold: Http2Process, protos: Path) -> None:
    where = ["--insecure", "--proto", str(protos / "process.proto"), "--call", PROCESS.replace("/", ".")]
    load = [
        "-n",
        "3000",
        "-c",
        "50",
        "--connections",
        "4",
        "-d",
        json.dumps([begins(b"d" * 32), TRAILERS]),
        "-O",
        "json",
    ]
    done = run(peer("ghz"), *where, *load, hold.address)
    assert json.loads(done.stdout)["statusCodeDistribution"] == {"OK": 3000}, done.stdout[:2000]
