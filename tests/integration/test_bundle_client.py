"""Bundles fetched over real TLS: who is believed to be the endpoint, and what a server can do to who asks."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from authz.federation.bundle_client import MAX_REDIRECTS, BundleClient
from authz.federation.errors import FederationError
from authz.federation.relationship import Endpoint
from authz.identity.authority import Authority
from authz.identity.bundle import MAX_BUNDLE_BYTES, Bundle
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from tests.integration.test_peer_certificates import signed_by
from tests.support.bundle_site import Site, ok, redirect, server_tls, svid_of, web_certificate
from tests.support.partner import ACME, ACME_SERVER, PATIENCE_S, bundle_of, new_authority

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

WEB = new_authority(TrustDomain.parse("web-pki.example"))
AUTHORITY = new_authority()
TRUST = Trust.of([bundle_of(AUTHORITY)])
BODY = bundle_of(AUTHORITY, sequence=7).to_json()


def run(story: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(story, PATIENCE_S))


@pytest.fixture
def client(tmp_path: Path) -> BundleClient:
    (tmp_path / "web.pem").write_bytes(WEB.certificate_pem)
    return BundleClient(web_roots=tmp_path / "web.pem")


async def fetched_from_web(client: BundleClient, site: Site) -> bytes:
    return await client.fetch(Endpoint(url=site.url), Trust.of(()))


async def fetched_from_server(client: BundleClient, site: Site, trust: Trust = TRUST) -> bytes:
    return await client.fetch(Endpoint(url=site.url, server=ACME_SERVER), trust)


# --- https_web -------------------------------------------------------------------------------------------------------


def test_a_server_with_a_trusted_certificate_of_its_name_is_asked_by_one_get(client: BundleClient) -> None:
    async def story() -> None:
        async with Site(server_tls(web_certificate(WEB)), ok(BODY, "Content-Type: text/plain")).running() as site:
            assert await fetched_from_web(client, site) == BODY
            assert site.asked == ["GET /bundle HTTP/1.1"]
            # nothing that says who asks, nothing that makes the answer depend on it
            names = {line.split(b":")[0].lower() for line in site.headers[0].split(b"\r\n") if line}
            assert names == {b"host", b"accept", b"accept-encoding", b"user-agent", b"connection"}

    run(story())


@pytest.mark.parametrize(
    ("authority", "names", "age"),
    [
        (new_authority(), ("localhost",), timedelta()),
        (WEB, ("other.example",), timedelta()),
        (WEB, ("localhost",), timedelta(hours=2)),
    ],
    ids=["of an authority that is not trusted", "for another name", "that has expired"],
)
def test_a_server_with_a_certificate_that_proves_nothing_is_asked_nothing(
    client: BundleClient, authority: Authority, names: tuple[str, ...], age: timedelta
) -> None:
    async def story() -> None:
        # 5.2.1.4: MUST be issued by a trusted authority, MUST match the host
        authority_then = Authority.generate(
            authority.trust_domain, datetime.now(UTC) - timedelta(days=1), timedelta(days=2)
        )
        signer = authority if not age else authority_then
        async with Site(server_tls(web_certificate(signer, *names, age=age)), ok(BODY)).running() as site:
            with pytest.raises(FederationError, match="certificate"):
                await fetched_from_web(client, site)
            assert site.asked == []

    run(story())


def test_the_web_profile_does_not_take_an_svid_instead(client: BundleClient) -> None:
    async def story() -> None:
        # 7.2: no profile stands in for the other
        async with Site(
            server_tls(svid_of(WEB, SpiffeId.parse("spiffe://web-pki.example/x"))), ok(BODY)
        ).running() as site:
            with pytest.raises(FederationError):
                await client.fetch(Endpoint(url=site.url), TRUST)
            assert site.asked == []

    run(story())


# --- https_spiffe ----------------------------------------------------------------------------------------------------


def test_a_server_with_the_svid_that_was_configured_is_believed_whatever_its_host_is_called(
    client: BundleClient,
) -> None:
    async def story() -> None:
        async with Site(server_tls(svid_of(AUTHORITY, ACME_SERVER)), ok(BODY)).running() as site:
            assert await fetched_from_server(client, site) == BODY

    run(story())


def test_a_server_with_another_identity_is_asked_nothing(client: BundleClient) -> None:
    async def story() -> None:
        then = Authority.generate(ACME, datetime.now(UTC) - timedelta(days=1), timedelta(days=2))
        trust = Trust.of([bundle_of(AUTHORITY, then)])
        for certificate in (
            svid_of(AUTHORITY, SpiffeId.parse("spiffe://acme.example/workload")),
            svid_of(AUTHORITY, SpiffeId.parse("spiffe://acme.example/bundle-server/2")),
            svid_of(new_authority(), ACME_SERVER),  # of the right name, by another authority
            svid_of(then, ACME_SERVER, age=timedelta(hours=2)),  # expired
            web_certificate(AUTHORITY),  # the right authority and the right host name: no SVID
        ):
            async with Site(server_tls(certificate), ok(BODY)).running() as site:
                with pytest.raises(FederationError) as refused:
                    await fetched_from_server(client, site, trust)
                assert site.asked == []
                assert "PRIVATE KEY" not in str(refused.value)

    run(story())


def test_what_openssl_takes_and_is_no_svid_is_asked_nothing(client: BundleClient) -> None:
    async def story() -> None:
        # INVARIANT (two verifiers): signed by the right authority, the right ID first, and one more
        twice = signed_by(AUTHORITY, (str(ACME_SERVER), "spiffe://acme.example/other"))
        once = signed_by(AUTHORITY, (str(ACME_SERVER),))
        async with Site(server_tls(once), ok(BODY)).running() as site:
            assert await fetched_from_server(client, site) == BODY
        async with Site(server_tls(twice), ok(BODY)).running() as site:
            with pytest.raises(FederationError, match="exactly one URI SAN"):
                await fetched_from_server(client, site)
            assert site.asked == []

    run(story())


def test_an_authority_of_another_trust_domain_proves_no_server_of_this_one(client: BundleClient) -> None:
    async def story() -> None:
        # INVARIANT (never merged): both bundles are known; each counts for its own trust domain only.
        other = new_authority(TrustDomain.parse("other.example"))
        trust = Trust.of([bundle_of(AUTHORITY), bundle_of(other, trust_domain=other.trust_domain)])
        forged = replace(other, trust_domain=ACME)
        async with Site(server_tls(svid_of(forged, ACME_SERVER)), ok(BODY)).running() as site:
            with pytest.raises(FederationError):
                await fetched_from_server(client, site, trust)
            assert site.asked == []

    run(story())


def test_an_endpoint_of_another_trust_domain_is_verified_by_that_ones_bundle(client: BundleClient) -> None:
    async def story() -> None:
        # 5.2.2.4: non-self-serving
        hub = new_authority(TrustDomain.parse("hub.example"))
        server = SpiffeId.parse("spiffe://hub.example/bundles")
        async with Site(server_tls(svid_of(hub, server)), ok(BODY)).running() as site:
            endpoint = Endpoint(url=site.url, server=server)
            assert await client.fetch(endpoint, Trust.of([bundle_of(hub, trust_domain=hub.trust_domain)])) == BODY
            with pytest.raises(FederationError, match=r"no bundle of `hub\.example` is known"):
                await client.fetch(endpoint, TRUST)

    run(story())


def test_a_server_is_not_verified_by_an_empty_bundle(client: BundleClient) -> None:
    async def story() -> None:
        async with Site(server_tls(svid_of(AUTHORITY, ACME_SERVER)), ok(BODY)).running() as site:
            with pytest.raises(FederationError, match="has no authority"):
                await fetched_from_server(client, site, Trust.of([Bundle(trust_domain=ACME)]))
            assert site.handshakes == 0

    run(story())


# --- redirects: 5.2.1.4, 5.2.2.4, 7.5.1 ------------------------------------------------------------------------------


def test_a_redirect_is_followed_each_time_anew_however_permanent_it_calls_itself(client: BundleClient) -> None:
    async def story() -> None:
        tls = server_tls(web_certificate(WEB))
        async with Site(tls, ok(BODY)).running() as target, Site(tls, b"").running() as first:
            for status in (301, 302, 303, 307, 308):
                first.answer = redirect(target.url, status)
                assert await fetched_from_web(client, first) == BODY
            assert len(first.asked) == len(target.asked) == 5

    run(story())


def test_a_redirect_to_what_is_no_url_of_a_bundle_is_not_followed(client: BundleClient) -> None:
    async def story() -> None:
        tls = server_tls(web_certificate(WEB))
        async with Site(tls, ok(BODY)).running() as target, Site(tls, b"").running() as first:
            for location in (
                f"http://localhost:{target.port}/",
                f"https://user@localhost:{target.port}/",
                f"https://@localhost:{target.port}/",
                f"https://user:secret@localhost:{target.port}/",
                f"//user@localhost:{target.port}/",
                "file:///etc/passwd",
                "https://",
                "https:///",
                "https://localhost:99999/",
                f"https://localhost:{target.port}/\\@x",
                "",
                "https://" + "a" * 3000,
            ):
                first.answer = redirect(location)
                with pytest.raises(FederationError):
                    await fetched_from_web(client, first)
            first.answer = b"HTTP/1.1 302 Elsewhere\r\nContent-Length: 0\r\n\r\n"
            with pytest.raises(FederationError, match="without a place"):
                await fetched_from_web(client, first)
            assert target.asked == []

    run(story())


def test_a_redirect_is_followed_only_to_a_server_that_proves_the_same(client: BundleClient) -> None:
    async def story() -> None:
        good, other = svid_of(AUTHORITY, ACME_SERVER), svid_of(AUTHORITY, SpiffeId.parse("spiffe://acme.example/cdn"))
        async with (
            Site(server_tls(good), ok(BODY)).running() as same,
            Site(server_tls(other), ok(BODY)).running() as cdn,
            Site(server_tls(good), redirect(same.url)).running() as first,
        ):
            assert await fetched_from_server(client, first) == BODY
            first.answer = redirect(cdn.url)
            with pytest.raises(FederationError, match=r"spiffe://acme\.example/cdn"):
                await fetched_from_server(client, first)
            assert cdn.asked == []

    run(story())


def test_redirects_in_a_circle_end(client: BundleClient) -> None:
    async def story() -> None:
        async with Site(server_tls(web_certificate(WEB)), redirect("/bundle")).running() as site:
            with pytest.raises(FederationError, match="redirects"):
                await fetched_from_web(client, site)
            assert len(site.asked) == MAX_REDIRECTS + 1

    run(story())


# --- servers that are broken, or hostile -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\xff garbage",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 401 Who\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=range(11),
)
def test_an_answer_that_is_none_is_an_error_of_ours(client: BundleClient, answer: bytes) -> None:
    async def story() -> None:
        async with Site(server_tls(web_certificate(WEB)), answer).running() as site:
            with pytest.raises(FederationError) as refused:
                await fetched_from_web(client, site)
            assert str(refused.value).isprintable()
            assert len(str(refused.value)) < 500

    run(story())


def test_a_bundle_larger_than_the_limit_is_not_read_to_its_end(client: BundleClient) -> None:
    async def story() -> None:
        async def endless(_: str, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while not writer.is_closing():
                writer.write(b" " * 65536)
                await writer.drain()
                await asyncio.sleep(0)  # what asyncio's TLS writes after the peer has gone never waits

        async with Site(server_tls(web_certificate(WEB)), endless).running() as site:
            with pytest.raises(FederationError, match=f"more than {MAX_BUNDLE_BYTES} bytes"):
                await fetched_from_web(client, site)
        async with Site(server_tls(web_certificate(WEB)), ok(b" " * MAX_BUNDLE_BYTES)).running() as site:
            assert len(await fetched_from_web(client, site)) == MAX_BUNDLE_BYTES

    run(story())


def test_nothing_is_decompressed(client: BundleClient) -> None:
    async def story() -> None:
        bomb = gzip.compress(b" " * 100_000_000)
        async with Site(server_tls(web_certificate(WEB)), ok(bomb, "Content-Encoding: gzip")).running() as site:
            assert await fetched_from_web(client, site) == bomb

    run(story())


def test_a_server_that_is_slow_is_given_up(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "web.pem").write_bytes(WEB.certificate_pem)
        client = BundleClient(web_roots=tmp_path / "web.pem", fetch_s=1.0)

        async def silent(_: str, _writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        async def dripping(_: str, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

        for answer in (silent, dripping):
            async with Site(server_tls(web_certificate(WEB)), answer).running() as site:
                with pytest.raises(FederationError, match="no bundle within 1 s"):
                    await fetched_from_web(client, site)

    run(story())


def test_a_server_that_never_shakes_hands_or_is_not_there_is_given_up(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "web.pem").write_bytes(WEB.certificate_pem)
        client = BundleClient(web_roots=tmp_path / "web.pem", fetch_s=1.0)
        held: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(FederationError, match="no bundle within 1 s"):
            await client.fetch(Endpoint(url=f"https://localhost:{port}/"), Trust.of(()))
        server.close()
        for writer in held:
            writer.transport.abort()
        with pytest.raises(FederationError, match="Connect call failed"):
            await client.fetch(Endpoint(url=f"https://localhost:{port}/"), Trust.of(()))

    run(story())


def test_proxies_and_passwords_of_the_environment_have_no_part_in_it(
    client: BundleClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def story() -> None:
        (tmp_path / "netrc").write_text("default login user password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        async with Site(server_tls(web_certificate(WEB)), ok(BODY)).running() as site:
            assert await fetched_from_web(client, site) == BODY
            assert b"authorization" not in site.headers[0].lower()

    run(story())


def test_roots_that_cannot_be_read_let_nothing_through(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "empty").write_bytes(b"")
        for roots in (tmp_path / "absent", tmp_path / "empty"):
            async with Site(server_tls(web_certificate(WEB)), ok(BODY)).running() as site:
                with pytest.raises(FederationError):
                    await fetched_from_web(BundleClient(web_roots=roots), site)
                assert site.asked == []

    run(story())
