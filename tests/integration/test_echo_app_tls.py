"""The echo app behind TLS, as the stand-in of a third party: ALPN, versions, and certificates that are replaced."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from authz.identity.authority import Authority, IssuedSvid
from authz.identity.spiffe_id import TrustDomain
from tests.support.echo_process import PATIENCE_S, EchoProcess
from tests.support.http2_client import Http2Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NOW = datetime.now(UTC)
_HOUR = timedelta(hours=1)


class StandIn:
    """A stand-in with the authority that its certificates come from."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.generate(TrustDomain.parse("psp.example"), _NOW, _HOUR)
        self.certificate, self.key = folder / "tls.pem", folder / "tls.key"
        self.replace(self.issue())
        self.app = EchoProcess(
            "--tls-certificate", str(self.certificate), "--tls-key", str(self.key), service="psp", folder=folder
        )

    def issue(self) -> IssuedSvid:
        return self.authority.issue_server_certificate(["api.psp.example"], _NOW, _HOUR)

    def replace(self, issued: IssuedSvid) -> None:
        for file, pem in ((self.certificate, issued.certificate_pem), (self.key, issued.key_pem)):
            fresh = file.with_suffix(".new")
            fresh.write_bytes(pem)
            fresh.replace(file)

    def client_context(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.certificate_pem.decode())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def connect(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        return context.wrap_socket(self.app.connect(), server_hostname="api.psp.example", session=session)

    def shown_certificate(self) -> bytes:
        with self.connect(self.client_context()) as sock:
            shown = sock.getpeercert(binary_form=True)
            assert shown is not None
            return ssl.DER_cert_to_PEM_cert(shown).encode()


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    started = StandIn(tmp_path)
    with started.app as process:
        yield started
        assert process.stop() == 0


def test_alpn_decides_which_protocol_is_spoken(stand_in: StandIn) -> None:
    with Http2Client(stand_in.connect(stand_in.client_context("h2", "http/1.1"))) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.selected_alpn_protocol() == "h2"
        assert json.loads(client.answer(client.request("/a")))["protocol"] == "http/2"
    for alpn in (["http/1.1"], [], ["spdy/3"]):
        with stand_in.connect(stand_in.client_context(*alpn)) as sock:
            sock.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            with sock.makefile("rb") as reader:
                assert b'"service": "psp"' in reader.read()
    assert stand_in.app.complaints == ""


def test_http_2_without_alpn_is_told_by_its_preface(stand_in: StandIn) -> None:
    with Http2Client(stand_in.connect(stand_in.client_context())) as client:
        assert json.loads(client.answer(client.request("/a")))["path"] == "/a"


def test_an_ordinary_https_client_is_served(stand_in: StandIn) -> None:
    with stand_in.connect(stand_in.client_context()) as sock:
        connection = http.client.HTTPConnection("api.psp.example")
        connection.sock = sock
        for _ in range(3):
            connection.request("POST", "/a", body=b"x" * 1_000_000)
            assert json.loads(connection.getresponse().read())["headers"]["content-length"] == "1000000"


def test_grpc_over_tls_gets_its_message_back(stand_in: StandIn) -> None:
    credentials = grpc.ssl_channel_credentials(stand_in.authority.certificate_pem)
    options = [("grpc.ssl_target_name_override", "api.psp.example")]
    with grpc.secure_channel(stand_in.app.target, credentials, options) as channel:
        call = channel.unary_unary("/a.B/C")
        assert call(b"m" * 100_000, timeout=PATIENCE_S) == b"m" * 100_000


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(stand_in: StandIn, version: ssl.TLSVersion) -> None:
    context = stand_in.client_context()
    context.minimum_version = context.maximum_version = version
    with stand_in.connect(context) as sock:
        assert sock.version() == version.name.replace("_", ".")


def test_tls_1_1_is_refused(stand_in: StandIn) -> None:
    context = stand_in.client_context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        stand_in.connect(context)
    assert stand_in.app.complaints == ""


def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(stand_in: StandIn) -> None:
    with Http2Client(stand_in.connect(stand_in.client_context("h2"))) as before:
        before.answer(before.request("/a"))
        for _ in range(2):
            fresh = stand_in.issue()
            stand_in.replace(fresh)
            assert stand_in.shown_certificate() == fresh.certificate_pem
        assert json.loads(before.answer(before.request("/b")))["path"] == "/b"
    assert stand_in.app.complaints == ""


def test_no_session_outlives_its_certificate(stand_in: StandIn) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = stand_in.client_context("http/1.1")
        context.minimum_version = context.maximum_version = version
        with stand_in.connect(context) as sock:
            sock.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(65_536)
            session = sock.session
        if session is not None:
            with stand_in.connect(context, session) as sock:
                assert not sock.session_reused


@pytest.mark.parametrize("broken", ["half", "gone", "garbage"])
def test_files_that_cannot_be_used_leave_the_certificate_before_in_force(stand_in: StandIn, broken: str) -> None:
    before = stand_in.shown_certificate()
    fresh = stand_in.issue()
    match broken:
        case "half":
            stand_in.certificate.write_bytes(fresh.certificate_pem)
        case "gone":
            stand_in.key.unlink()
        case _:
            stand_in.certificate.write_bytes(b"garbage")
    assert [stand_in.shown_certificate() for _ in range(3)] == [before] * 3
    assert stand_in.app.complaints.count("the certificate before stays") == 1
    assert "Traceback" not in stand_in.app.complaints
    stand_in.replace(fresh)
    assert stand_in.shown_certificate() == fresh.certificate_pem


def test_a_half_closed_tls_connection_is_answered(stand_in: StandIn) -> None:
    with stand_in.connect(stand_in.client_context()) as sock:
        sock.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")
        sock.unwrap().close()
    assert stand_in.app.complaints == ""


def test_what_is_no_tls_is_dropped(stand_in: StandIn) -> None:
    for garbage in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(3000), b"\x16", b""):
        with stand_in.app.connect() as sock:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    assert stand_in.shown_certificate()
    assert stand_in.app.complaints == ""


def test_it_ends_with_status_0_in_the_middle_of_handshakes_and_streams(stand_in: StandIn) -> None:
    with stand_in.app.connect(), Http2Client(stand_in.connect(stand_in.client_context("h2"))) as client:
        stream = client.request("/", ("x-echo-stream", "600"))
        client.until(lambda client: client.bodies[stream])
        assert stand_in.app.stop() == 0
        client.until(lambda client: client.goaway == 0)
    assert stand_in.app.complaints == ""


def test_a_key_that_needs_a_password_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    issued = Authority.generate(TrustDomain.parse("a.example"), _NOW, _HOUR).issue_server_certificate(
        ["a.example"], _NOW, _HOUR
    )
    key = serialization.load_pem_private_key(issued.key_pem, None)
    locked = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "tls.pem").write_bytes(issued.certificate_pem)
    (tmp_path / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    )
    command = [sys.executable, "-m", "authz.mesh.echo_app", "--service", "a", "--listen", "127.0.0.1:0"]
    command += ["--tls-certificate", str(tmp_path / "tls.pem"), "--tls-key", str(tmp_path / "tls.key")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "no certificate and key to use" in done.stderr
