"""Federated bundles that come from the operator's file alone."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz.federation.federated_bundles import FederatedBundles
from authz.federation.followed_bundle import Origin
from authz.federation.relationship import Relationship, relationships
from authz.identity.spiffe_id import TrustDomain
from authz.policy.document import SourceFile
from authz.policy.policy_set import parse_policy_set
from tests.support.partner import ACME, Heard, bundle_of, new_authority, replace_file, trusts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz.identity.authority import Authority

OTHER = TrustDomain.parse("other.example")


@pytest.fixture
def authority() -> Authority:
    return new_authority()


def of_file(path: Path, trust_domain: TrustDomain = ACME) -> Relationship:
    return Relationship(trust_domain=trust_domain, bundle_file=path)


@contextlib.asynccontextmanager
async def running(bundles: FederatedBundles) -> AsyncIterator[FederatedBundles]:
    task = asyncio.create_task(bundles.run())
    try:
        yield bundles
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_file_is_read_as_a_bundle_document_or_as_pem(tmp_path: Path, authority: Authority) -> None:
    async def story() -> None:
        for content in (bundle_of(authority, sequence=3).to_json(), authority.certificate_pem):
            (tmp_path / "acme").write_bytes(content)
            heard = Heard()
            bundles = FederatedBundles(changed=heard)
            await bundles.configure([of_file(tmp_path / "acme")])
            assert trusts(bundles.trust, authority)
            assert heard.trust == bundles.trust
            [status] = bundles.status()
            assert (status.origin, status.file_error, status.next_poll) == (Origin.FILE, None, None)
            assert status.last_success is not None

    asyncio.run(story())


def test_a_file_that_is_replaced_is_followed(tmp_path: Path, authority: Authority) -> None:
    async def story() -> None:
        path = tmp_path / "acme.json"
        path.write_bytes(bundle_of(authority).to_json())
        heard, later = Heard(), new_authority()
        async with running(FederatedBundles(changed=heard)) as bundles:
            await bundles.configure([of_file(path)])
            replace_file(path, bundle_of(authority, later).to_json())
            await heard.until(lambda trust: trusts(trust, authority, later))
            replace_file(path, bundle_of(later).to_json())
            await heard.until(lambda trust: trusts(trust, later))

    asyncio.run(story())


def test_a_file_that_cannot_be_read_leaves_what_was_in_force_and_is_said(tmp_path: Path, authority: Authority) -> None:
    async def story() -> None:
        path = tmp_path / "acme.json"
        path.write_bytes(authority.certificate_pem)
        later = new_authority()
        bundles = FederatedBundles(changed=Heard())
        await bundles.configure([of_file(path)])
        for broken in (b"", b"{}", b"-----BEGIN CERTIFICATE-----\n", None):
            if broken is None:
                path.unlink()
            else:
                replace_file(path, broken)
            await bundles._followed[ACME].load()
            [status] = bundles.status()
            assert status.file_error is not None
            assert status.file_error.startswith(str(path))
            assert trusts(bundles.trust, authority)
        replace_file(path, later.certificate_pem)
        await bundles._followed[ACME].load()
        assert trusts(bundles.trust, later)
        assert bundles.status()[0].file_error is None

    asyncio.run(story())


def test_without_a_readable_file_nobody_of_the_trust_domain_is_believed(tmp_path: Path) -> None:
    async def story() -> None:
        bundles = FederatedBundles(changed=Heard())
        (tmp_path / "folder").mkdir()
        for path in (tmp_path / "absent", tmp_path / "folder", Path("/dev/zero")):
            await bundles.configure([of_file(path)])
            assert bundles.trust.bundle(ACME) is None
            [status] = bundles.status()
            assert status.origin is None
            assert status.file_error is not None

    asyncio.run(story())


def test_a_broken_file_is_the_matter_of_its_own_trust_domain(tmp_path: Path, authority: Authority) -> None:
    async def story() -> None:
        (tmp_path / "acme").write_bytes(authority.certificate_pem)
        (tmp_path / "other").write_bytes(b"nothing")
        bundles = FederatedBundles(changed=Heard())
        await bundles.configure([of_file(tmp_path / "acme"), of_file(tmp_path / "other", OTHER)])
        assert trusts(bundles.trust, authority)
        assert bundles.trust.bundle(OTHER) is None
        assert [status.trust_domain for status in bundles.status()] == [ACME, OTHER]

    asyncio.run(story())


def test_a_trust_domain_that_leaves_is_gone_before_anything_is_awaited(tmp_path: Path, authority: Authority) -> None:
    async def story() -> None:
        (tmp_path / "acme").write_bytes(authority.certificate_pem)
        heard = Heard()
        async with running(FederatedBundles(changed=heard)) as bundles:
            await bundles.configure([of_file(tmp_path / "acme")])
            ending = bundles.configure([])
            with contextlib.suppress(StopIteration):
                ending.send(None)  # the first step of it and no more
            assert heard.trust is not None
            assert len(heard.trust) == len(bundles.trust) == 0
            ending.close()

    asyncio.run(story())


def test_the_same_file_is_no_bundle_of_two_trust_domains_merged(tmp_path: Path, authority: Authority) -> None:
    async def story() -> None:
        (tmp_path / "acme").write_bytes(authority.certificate_pem)
        bundles = FederatedBundles(changed=Heard())
        await bundles.configure([of_file(tmp_path / "acme"), of_file(tmp_path / "acme", OTHER)])
        assert {bundle.trust_domain for bundle in bundles.trust} == {ACME, OTHER}
        assert trusts(bundles.trust, authority)
        assert trusts(bundles.trust, authority, trust_domain=OTHER)

    asyncio.run(story())


def test_what_is_the_same_again_is_told_to_nobody(tmp_path: Path, authority: Authority) -> None:
    async def story() -> None:
        (tmp_path / "acme").write_bytes(authority.certificate_pem)
        heard = Heard()
        bundles = FederatedBundles(changed=heard)
        for _ in range(3):
            await bundles.configure([of_file(tmp_path / "acme")])
        assert heard.times == 1

    asyncio.run(story())


MESH = """
apiVersion: authz/v1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomains: [shop.example]
  federates:
    - {trustDomain: acme.example, bundle: partners/acme.json}
    - {trustDomain: web.example, endpoint: {url: "https://web.example/bundle", profile: https_web}}
    - trustDomain: both.example
      bundle: /etc/both.pem
      endpoint: {url: "https://10.0.0.1:8443/", profile: https_spiffe, spiffeId: spiffe://both.example/server}
"""


def test_what_the_mesh_federates_is_followed_from_files_of_the_sets_own_folder() -> None:
    policy_set = parse_policy_set([SourceFile(path="mesh.yaml", content=MESH.encode())])
    acme, web, both = relationships(policy_set.mesh.federates, "/policies")
    assert acme.bundle_file == Path("/policies/partners/acme.json")
    assert acme.endpoint is None
    assert web.bundle_file is None
    assert web.endpoint is not None
    assert (web.endpoint.url, web.endpoint.profile) == ("https://web.example/bundle", "https_web")
    assert both.bundle_file == Path("/etc/both.pem")
    assert both.endpoint is not None
    assert (str(both.endpoint.server), both.endpoint.profile) == ("spiffe://both.example/server", "https_spiffe")
    assert [Relationship.from_fields(each.as_fields()) for each in (acme, web, both)] == [acme, web, both]
