"""Our own bundle endpoint over real TLS: what it serves, by what it proves itself, and what a client can cost."""

from __future__ import annotations

import asyncio
import logging
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from authz.federation.bundle_client import BundleClient
from authz.federation.endpoint_certificate import CertificateFiles, SvidCertificate
from authz.federation.errors import FederationError
from authz.federation.relationship import Endpoint
from authz.identity.bundle import bundle_from_json
from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from tests.support.bundle_site import serving, svid_of, web_certificate
from tests.support.partner import ACME, ACME_SERVER, PATIENCE_S, bundle_of, new_authority, replace_file

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

WEB = new_authority(TrustDomain.parse("web-pki.example"))
AUTHORITY = new_authority()
BUNDLE = bundle_of(AUTHORITY, sequence=7, refresh_hint=timedelta(seconds=60))
TRUST = Trust.of([BUNDLE])


def run(story: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(story, PATIENCE_S))


async def exchange(url: str, sent: bytes, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> bytes:
    """Send bytes over TLS that verifies nothing, and give all that comes back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = minimum
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection("127.0.0.1", parts.port, ssl=context, server_hostname="localhost")
    writer.write(sent)
    answer = await reader.read()
    writer.transport.abort()
    return answer


def test_our_bundle_is_served_by_our_svid_to_those_who_know_our_trust_domain() -> None:
    async def story() -> None:
        svid = svid_of(AUTHORITY, ACME_SERVER)
        async with serving(lambda: BUNDLE, SvidCertificate(lambda: svid)) as url:
            document = await BundleClient().fetch(Endpoint(url=url, server=ACME_SERVER), TRUST)
            assert bundle_from_json(document, ACME) == BUNDLE
            with pytest.raises(FederationError):
                await BundleClient().fetch(Endpoint(url=url), TRUST)

    run(story())


def test_our_bundle_is_served_by_a_certificate_of_the_web_that_may_be_renewed(tmp_path: Path) -> None:
    async def story() -> None:
        other_web = new_authority(TrustDomain.parse("web-pki.example"))
        certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
        for authority in (WEB, other_web):
            roots = tmp_path / f"{id(authority)}.pem"
            roots.write_bytes(authority.certificate_pem)
        first, second = web_certificate(WEB), web_certificate(other_web)
        certificate.write_bytes(first.certificate_pem)
        key.write_bytes(first.key_pem)
        async with serving(lambda: BUNDLE, CertificateFiles(certificate, key)) as url:

            async def fetched(authority: object) -> bytes:
                return await BundleClient(web_roots=tmp_path / f"{id(authority)}.pem").fetch(
                    Endpoint(url=url), Trust.of(())
                )

            assert bundle_from_json(await fetched(WEB), ACME) == BUNDLE
            # Half of a renewal proves nothing new, and the pair before stays.
            replace_file(certificate, second.certificate_pem)
            assert await fetched(WEB)
            replace_file(key, second.key_pem)
            assert await fetched(other_web)
            with pytest.raises(FederationError):
                await fetched(WEB)

    run(story())


def test_each_request_gets_the_bundle_and_the_svid_of_now() -> None:
    async def story() -> None:
        later = new_authority()
        served, svid = BUNDLE, svid_of(AUTHORITY, ACME_SERVER)
        async with serving(lambda: served, SvidCertificate(lambda: svid)) as url:
            endpoint = Endpoint(url=url, server=ACME_SERVER)
            await BundleClient().fetch(endpoint, TRUST)
            served, svid = bundle_of(AUTHORITY, later, sequence=8), svid_of(later, ACME_SERVER)
            with pytest.raises(FederationError):
                await BundleClient().fetch(endpoint, TRUST)
            document = await BundleClient().fetch(endpoint, Trust.of([served]))
            assert bundle_from_json(document, ACME) == served

    run(story())


def test_get_of_one_path_is_answered_and_nothing_else() -> None:
    async def story() -> None:
        svid = svid_of(AUTHORITY, ACME_SERVER)
        async with serving(lambda: BUNDLE, SvidCertificate(lambda: svid), path="/bundle.json") as url:
            for line, status in (
                ("GET /bundle.json HTTP/1.1", 200),
                ("GET /bundle.json?a=b HTTP/1.1", 200),
                ("GET /bundle.json HTTP/1.0", 200),
                ("GET / HTTP/1.1", 404),
                ("GET /bundle.json/ HTTP/1.1", 404),
                ("GET /%62undle.json HTTP/1.1", 404),
                ("POST /bundle.json HTTP/1.1", 405),
                ("HEAD /bundle.json HTTP/1.1", 405),
                ("DELETE /bundle.json HTTP/1.1", 405),
                ("nonsense", 400),
            ):
                answer = await exchange(url, f"{line}\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
                head, _, body = answer.partition(b"\r\n\r\n")
                assert int(head.split()[1]) == status, line
                assert (b"application/json" in head) == (status == 200)
                assert body == (BUNDLE.to_json() if status == 200 else b"")

    run(story())


def test_no_client_is_asked_who_it_is_and_none_speaks_less_than_tls_1_2() -> None:
    # SPIFFE Federation 5.2.1.3, 5.2.2.3: MUST NOT require client authentication; 5.2: intermediate compatibility
    context = SvidCertificate(lambda: svid_of(AUTHORITY, ACME_SERVER))()
    assert context.verify_mode is ssl.CERT_NONE
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_clients_that_are_slow_or_large_are_given_up_and_others_are_served_meanwhile() -> None:
    async def story() -> None:
        svid = svid_of(AUTHORITY, ACME_SERVER)
        async with serving(lambda: BUNDLE, SvidCertificate(lambda: svid), connection_s=2.0, max_connections=4) as url:
            port = urlsplit(url).port
            # three that say nothing at all, not even hello
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            assert b"200" in await exchange(url, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            # more than there are places: they wait, and are served when those before are given up
            silent += [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
            assert b"200" in await exchange(url, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            for reader, writer in silent[:3]:
                assert await reader.read() == b""
                writer.close()
            # a head without end, slowly or at once
            assert await exchange(url, b"GET / HTTP/1.1\r\nHost: x\r\n") == b""
            too_large = await exchange(url, b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n")
            assert too_large == b"" or too_large.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
            for _, writer in silent:
                writer.transport.abort()

    run(story())


def test_bytes_that_are_no_request_or_no_handshake_end_the_connection_alone() -> None:
    async def story() -> None:
        svid = svid_of(AUTHORITY, ACME_SERVER)
        async with serving(lambda: BUNDLE, SvidCertificate(lambda: svid)) as url:
            for garbage in (
                b"\0" * 100,
                b"GET / HTTP/9.9\r\n\r\n",
                b"\r\n\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ):
                await exchange(url, garbage + b"\r\n\r\n")
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" not in await reader.read()
            writer.close()
            assert b"200" in await exchange(url, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    run(story())


def test_an_endpoint_that_cannot_prove_itself_serves_nobody_and_shows_no_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    svid, other = web_certificate(WEB), web_certificate(WEB)
    both = tmp_path / "both.pem"
    for content in (
        b"",
        svid.certificate_pem,
        svid.key_pem,
        svid.certificate_pem + other.key_pem,
        svid.certificate_pem + b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    ):
        both.write_bytes(content)
        with pytest.raises(FederationError, match=r"both\.pem: "):
            CertificateFiles(both)()
    both.write_bytes(svid.certificate_pem + svid.key_pem)
    certificate = CertificateFiles(both)
    certificate()
    shown = caplog.text + repr(certificate) + repr(vars(certificate))
    secret = b"".join(svid.key_pem.splitlines()[1:-1]).decode()
    assert secret[:40] not in shown
    assert "PRIVATE KEY" not in shown
