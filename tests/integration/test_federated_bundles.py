"""Federated bundles that are followed at real endpoints: what supersedes what, and what stays when nothing answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from authz.federation.bundle_client import BundleClient
from authz.federation.endpoint_certificate import SvidCertificate
from authz.federation.federated_bundles import FederatedBundles
from authz.federation.followed_bundle import Origin
from authz.federation.kept_bundles import FOLDER
from authz.federation.poll_times import PollTimes
from authz.federation.relationship import Endpoint, Relationship
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from tests.support.bundle_site import Site, ok, server_tls, serving, svid_of, web_certificate
from tests.support.partner import ACME, ACME_SERVER, PATIENCE_S, Heard, bundle_of, new_authority, replace_file, trusts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from authz.federation.followed_bundle import FederationStatus
    from authz.identity.bundle import Bundle

WEB = new_authority(TrustDomain.parse("web-pki.example"))
OLD, NEW, FORGED = new_authority(), new_authority(), new_authority()
#: as a test waits: a tenth of a second where people wait for minutes
QUICK = PollTimes(
    unhinted=timedelta(seconds=0.1),
    shortest=timedelta(seconds=0.1),
    longest=timedelta(seconds=0.1),
    patience=timedelta(seconds=0.1),
)


def run(story: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 2 * PATIENCE_S))


class Here:
    """Our side: a state folder, the partner's file, and what we are told."""

    def __init__(self, tmp_path: Path) -> None:
        self.state, self.file = tmp_path / "state", tmp_path / "acme.json"
        (tmp_path / "web.pem").write_bytes(WEB.certificate_pem)
        self._client = BundleClient(web_roots=tmp_path / "web.pem", fetch_s=5.0)
        self.heard = Heard()
        self._reported = asyncio.Event()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; it is looked at whenever there is something to report."""
        while not holds():
            self._reported.clear()
            await self._reported.wait()

    async def failed(self, bundles: FederatedBundles, words: str) -> FederationStatus:
        """Wait until a poll has failed for this reason."""
        await self.until(lambda: words in (bundles.status()[0].endpoint_error or ""))
        return bundles.status()[0]

    def kept(self) -> list[str]:
        return sorted(each.name for each in (self.state / FOLDER).glob("*"))

    @contextlib.asynccontextmanager
    async def following(
        self, *relationships: Relationship, own: Trust | None = None
    ) -> AsyncIterator[FederatedBundles]:
        """Follow from a process that has just been started."""
        self.heard = Heard()
        bundles = FederatedBundles(
            changed=self.heard,
            reported=self._reported.set,
            state=self.state,
            client=self._client,
            times=QUICK,
            own=None if own is None else lambda: own,
        )
        await bundles.configure(relationships)
        task = asyncio.create_task(bundles.run())
        try:
            yield bundles
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def web_site(bundle: Bundle) -> Site:
    return Site(server_tls(web_certificate(WEB)), ok(bundle.to_json()))


def of_web(site: Site, trust_domain: TrustDomain = ACME) -> Relationship:
    return Relationship(trust_domain=trust_domain, endpoint=Endpoint(url=site.url))


def test_a_rotation_of_the_partners_bundle_is_followed_on_the_web(here: Here) -> None:
    async def story() -> None:
        async with web_site(bundle_of(OLD, sequence=1)).running() as site, here.following(of_web(site)) as bundles:
            await here.heard.until(lambda trust: trusts(trust, OLD))
            site.answer = ok(bundle_of(OLD, NEW, sequence=2).to_json())
            await here.heard.until(lambda trust: trusts(trust, OLD, NEW))
            site.answer = ok(bundle_of(NEW, sequence=3).to_json())
            await here.heard.until(lambda trust: trusts(trust, NEW))
            [status] = bundles.status()
            assert (status.origin, status.sequence, status.endpoint_error) == (Origin.ENDPOINT, 3, None)
            assert status.next_poll is not None
            json.dumps(status.as_fields())

    run(story())


def test_the_keys_of_the_endpoint_itself_roll_over_by_the_bundle_fetched_last(here: Here) -> None:
    async def story() -> None:
        here.file.write_bytes(OLD.certificate_pem)
        served, svid = bundle_of(OLD, sequence=1), svid_of(OLD, ACME_SERVER)
        async with serving(lambda: served, SvidCertificate(lambda: svid)) as url:
            acme = Relationship(
                trust_domain=ACME, bundle_file=here.file, endpoint=Endpoint(url=url, server=ACME_SERVER)
            )
            async with here.following(acme) as bundles:
                # The new authority is fetched by the old trust, and only then is the old one given up.
                served = bundle_of(OLD, NEW, sequence=2)
                await here.heard.until(lambda trust: trusts(trust, OLD, NEW))
                svid, served = svid_of(NEW, ACME_SERVER), bundle_of(NEW, sequence=3)
                await here.heard.until(lambda trust: trusts(trust, NEW))
                # A server that has leapt over that step is not believed: its authority was never told.
                svid = svid_of(FORGED, ACME_SERVER)
                await here.failed(bundles, "certificate")
                served = bundle_of(FORGED, sequence=4)
                assert trusts(bundles.trust, NEW)
                # The operator gives the new roots on another way: Federation 4.2.
                replace_file(here.file, FORGED.certificate_pem)
                await here.heard.until(lambda trust: trusts(trust, FORGED))
                await here.until(lambda: bundles.status()[0].sequence == 4)
            # After a restart it is the one fetched last, not the file, by which the server is verified.
            svid, served = svid_of(FORGED, ACME_SERVER), bundle_of(FORGED, NEW, sequence=5)
            async with here.following(acme):
                await here.heard.until(lambda trust: trusts(trust, FORGED, NEW))
            svid = svid_of(NEW, ACME_SERVER)
            served = bundle_of(NEW, sequence=6)
            async with here.following(acme):
                await here.heard.until(lambda trust: trusts(trust, NEW))

    run(story())


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (bundle_of(FORGED, sequence=4), "has sequence 4, and 5 is known"),
        (bundle_of(OLD, sequence=0), "has sequence 0, and 5 is known"),
        (bundle_of(FORGED, sequence=5), "other keys under the same sequence 5"),
        (bundle_of(sequence=5), "other keys under the same sequence 5"),
    ],
    ids=["lower", "lowest", "the same with others", "the same with none"],
)
def test_a_bundle_that_is_older_or_contradicts_is_refused_and_said(here: Here, later: Bundle, words: str) -> None:
    async def story() -> None:
        async with web_site(bundle_of(OLD, sequence=5)).running() as site, here.following(of_web(site)) as bundles:
            await here.heard.until(lambda trust: trusts(trust, OLD))
            site.answer = ok(later.to_json())
            status = await here.failed(bundles, words)
            assert (status.sequence, status.origin) == (5, Origin.ENDPOINT)
            assert trusts(bundles.trust, OLD)
        # nor does a restart forget what was known
        async with site.running(), here.following(of_web(site)) as bundles:
            assert trusts(bundles.trust, OLD)
            await here.failed(bundles, words)
            assert trusts(bundles.trust, OLD)

    run(story())


def test_what_was_fetched_last_is_in_force_after_a_restart_while_the_endpoint_is_down(here: Here) -> None:
    async def story() -> None:
        async with web_site(bundle_of(OLD, sequence=5)).running() as site, here.following(of_web(site)):
            await here.heard.until(lambda trust: trusts(trust, OLD))
            await here.until(lambda: here.kept() == ["acme.example.json"])
        [copy] = (here.state / FOLDER).iterdir()
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
        async with here.following(of_web(site)) as bundles:
            assert trusts(bundles.trust, OLD)
            status = await here.failed(bundles, "Connect call failed")
            assert status.last_success is not None
            assert trusts(bundles.trust, OLD)

    run(story())


def test_an_empty_bundle_takes_all_trust_away(here: Here) -> None:
    async def story() -> None:
        # Trust Domain and Bundle 4.1.3
        async with web_site(bundle_of(OLD, sequence=1)).running() as site, here.following(of_web(site)):
            await here.heard.until(lambda trust: trusts(trust, OLD))
            site.answer = ok(b'{"keys": [], "spiffe_sequence": 2}')
            trust = await here.heard.until(lambda trust: not trusts(trust, OLD))
            bundle = trust.bundle(ACME)
            assert bundle is not None
            assert bundle.is_empty

    run(story())


@pytest.mark.parametrize(
    "answer",
    [
        ok(b""),
        ok(b"{}"),
        ok(b"[]"),
        ok(b'{"keys": {}}'),
        ok(b"\xff"),
        ok(b'{"keys": [], "keys": []}'),
        ok(b"{" * 10000),
    ],
    ids=range(7),
)
def test_garbage_leaves_the_last_bundle_in_force_and_is_said(here: Here, answer: bytes) -> None:
    async def story() -> None:
        async with web_site(bundle_of(OLD, sequence=5)).running() as site, here.following(of_web(site)) as bundles:
            await here.heard.until(lambda trust: trusts(trust, OLD))
            site.answer = answer
            await here.failed(bundles, "not")
            assert trusts(bundles.trust, OLD)
            site.answer = ok(bundle_of(NEW, sequence=6).to_json())
            await here.heard.until(lambda trust: trusts(trust, NEW))
            assert bundles.status()[0].endpoint_error is None

    run(story())


def test_a_trust_domain_that_hangs_holds_up_no_other(here: Here) -> None:
    async def story() -> None:
        async def silent(_: str, _writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        other = new_authority(TrustDomain.parse("other.example"))
        hanging = Site(server_tls(web_certificate(WEB)), silent)
        good = web_site(bundle_of(other, sequence=1, trust_domain=other.trust_domain))
        async with (
            hanging.running(),
            good.running(),
            here.following(of_web(hanging), of_web(good, other.trust_domain)) as bundles,
        ):
            await here.heard.until(lambda trust: trusts(trust, other, trust_domain=other.trust_domain))
            assert bundles.trust.bundle(ACME) is None
            already = len(good.asked)
            await here.until(lambda: len(good.asked) > already + 3)

    run(story())


def test_ending_federation_ends_trust_polls_and_the_kept_copy(here: Here) -> None:
    async def story() -> None:
        async with web_site(bundle_of(OLD, sequence=5)).running() as site, here.following(of_web(site)) as bundles:
            await here.heard.until(lambda trust: trusts(trust, OLD))
            await here.until(here.kept)
            await bundles.configure([])
            assert len(bundles.trust) == 0
            assert here.heard.trust is not None
            assert len(here.heard.trust) == 0
            assert here.kept() == []
            assert bundles.status() == ()
            assert not [task for task in asyncio.all_tasks() if "acme" in task.get_name()]
            # and begins anew when it is established again (6.3): nothing is known until it was fetched
            site.answer = ok(bundle_of(NEW, sequence=1).to_json())
            await bundles.configure([of_web(site)])
            assert bundles.trust.bundle(ACME) is None
            await here.heard.until(lambda trust: trusts(trust, NEW))

    run(story())


def test_a_copy_of_a_federation_that_ended_while_nothing_ran_is_deleted_at_the_start(here: Here) -> None:
    async def story() -> None:
        async with web_site(bundle_of(OLD, sequence=5)).running() as site:
            async with here.following(of_web(site)):
                await here.until(here.kept)
            async with here.following():
                assert here.kept() == []

    run(story())


def test_what_another_endpoint_gave_is_not_believed(here: Here) -> None:
    async def story() -> None:
        async with (
            web_site(bundle_of(OLD, sequence=5)).running() as first,
            web_site(bundle_of(NEW, sequence=1)).running() as second,
            here.following(of_web(first)) as bundles,
        ):
            await here.heard.until(lambda trust: trusts(trust, OLD))
            await here.until(here.kept)
            await bundles.configure([of_web(second)])
            assert not trusts(bundles.trust, OLD)
            await here.heard.until(lambda trust: trusts(trust, NEW))

    run(story())


def test_a_file_that_the_operator_replaced_while_nothing_ran_counts_more_than_the_copy(here: Here) -> None:
    async def story() -> None:
        here.file.write_bytes(OLD.certificate_pem)
        svid, served = svid_of(OLD, ACME_SERVER), bundle_of(OLD, NEW, sequence=9)
        async with serving(lambda: served, SvidCertificate(lambda: svid)) as url:
            acme = Relationship(
                trust_domain=ACME, bundle_file=here.file, endpoint=Endpoint(url=url, server=ACME_SERVER)
            )
            async with here.following(acme):
                await here.until(here.kept)
            # The partner had to begin anew, and counts from one again.
            replace_file(here.file, FORGED.certificate_pem)
            svid, served = svid_of(FORGED, ACME_SERVER), bundle_of(FORGED, sequence=1)
            async with here.following(acme) as bundles:
                assert trusts(bundles.trust, FORGED)
                await here.until(lambda: bundles.status()[0].sequence == 1)

    run(story())


def test_an_endpoint_that_one_of_ours_serves_is_verified_by_our_own_bundle(here: Here) -> None:
    async def story() -> None:
        ours = new_authority(TrustDomain.parse("shop.example"))
        server = SpiffeId.parse("spiffe://shop.example/mirror")
        here.file.write_bytes(OLD.certificate_pem)
        svid = svid_of(ours, server)
        async with serving(lambda: bundle_of(NEW, sequence=2), SvidCertificate(lambda: svid)) as url:
            acme = Relationship(trust_domain=ACME, bundle_file=here.file, endpoint=Endpoint(url=url, server=server))
            own = Trust.of([bundle_of(ours, trust_domain=ours.trust_domain)])
            async with here.following(acme, own=own):
                await here.heard.until(lambda trust: trusts(trust, NEW))

    run(story())


def test_a_bundle_that_cannot_be_kept_is_used_and_said(here: Here) -> None:
    async def story() -> None:
        here.state.mkdir()
        (here.state / FOLDER).write_bytes(b"a file where a folder belongs")
        async with web_site(bundle_of(OLD, sequence=5)).running() as site, here.following(of_web(site)) as bundles:
            await here.heard.until(lambda trust: trusts(trust, OLD))
            await here.failed(bundles, "not kept for a restart")

    run(story())
