"""The bundles beside an SVID: which files count for which trust domain, and what a change of them changes."""

from __future__ import annotations

import logging
import mmap
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from authz.identity.authority import Authority
from authz.identity.bundle import MAX_BUNDLE_BYTES, bundle_from_pem
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from authz.sidecar.control.trust_files import MAX_FILES, TrustFiles
from authz.sidecar.control.written_trust import WrittenTrust
from authz.sidecar.errors import SidecarError
from authz.sidecar.trust_page import TrustPage
from authz.svid_files import write_svid
from tests.support.jwt_svids import TokenIssuer

if TYPE_CHECKING:
    from pathlib import Path

SHOP, ACME = TrustDomain.parse("shop.example"), TrustDomain.parse("acme.example")
NOW = datetime.now(UTC)
AUTHORITY, OTHER = (Authority.generate(each, NOW, timedelta(hours=1)) for each in (SHOP, ACME))
ISSUER = TokenIssuer(trust_domain=SHOP)
NOBODY = Trust.of([])
PEM = bundle_from_pem(AUTHORITY.certificate_pem, SHOP)
ACME_PEM = bundle_from_pem(OTHER.certificate_pem, ACME)
JSON = ISSUER.bundle(AUTHORITY.certificate_pem)


def files(folder: Path, *, last: Trust = NOBODY) -> TrustFiles:
    return TrustFiles(str(folder), own=lambda: SHOP, last=last)


def now(followed: TrustFiles) -> Trust:
    """Look at the files now, and not only once a second."""
    followed._looked_s = -10
    return followed()


def put(path: Path, content: bytes) -> None:
    draft = path.with_name("draft")
    draft.write_bytes(content)
    draft.replace(path)


def test_the_own_bundle_is_the_document_or_else_the_authorities_in_pem(tmp_path: Path) -> None:
    put(tmp_path / "bundle.pem", AUTHORITY.certificate_pem)
    followed = files(tmp_path)
    assert followed.read() == Trust.of([PEM])
    put(tmp_path / "bundle.json", JSON.to_json())
    assert now(followed) == Trust.of([JSON])
    (tmp_path / "bundle.json").unlink()
    assert now(followed) == Trust.of([PEM])


def test_every_federated_trust_domain_has_a_file_of_its_own_and_goes_with_it(tmp_path: Path) -> None:
    svid = AUTHORITY.issue_x509_svid(SpiffeId.parse("spiffe://shop.example/a"), NOW, timedelta(hours=1))
    write_svid(tmp_path, svid, AUTHORITY.certificate_pem, other_bundles={ACME: OTHER.certificate_pem})
    followed = files(tmp_path)
    assert followed.read() == Trust.of([PEM, ACME_PEM])
    write_svid(tmp_path, svid, AUTHORITY.certificate_pem)
    assert now(followed) == Trust.of([PEM])
    issuer = TokenIssuer(trust_domain=ACME)
    put(tmp_path / "bundle.acme.example.json", issuer.bundle().to_json())
    assert now(followed) == Trust.of([PEM, issuer.bundle()])


def test_the_same_object_is_given_until_a_file_changes(tmp_path: Path) -> None:
    put(tmp_path / "bundle.pem", AUTHORITY.certificate_pem)
    followed = files(tmp_path)
    trust = followed.read()
    assert followed() is trust
    assert now(followed) is trust
    put(tmp_path / "bundle.json", JSON.to_json())
    assert now(followed) is not trust


@pytest.mark.parametrize("broken", [b"", b"{", b"{}", b'{"keys": 1}', b" " * (MAX_BUNDLE_BYTES + 1)])
def test_a_broken_file_leaves_the_last_good_bundle_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes
) -> None:
    put(tmp_path / "bundle.json", JSON.to_json())
    put(tmp_path / "bundle.acme.example.pem", OTHER.certificate_pem)
    followed = files(tmp_path)
    trust = followed.read()
    for name in ("bundle.json", "bundle.acme.example.pem"):
        put(tmp_path / name, broken)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert [now(followed), now(followed)] == [trust, trust]
        assert sum(name in line for line in caplog.messages) == 1, caplog.messages
    # A control that is started anew knows from the page what was trusted.
    assert files(tmp_path, last=trust).read() == trust
    put(tmp_path / "bundle.json", PEM.to_json())
    assert now(followed) == Trust.of([PEM, ACME_PEM])


def test_a_document_that_is_broken_from_the_start_is_not_replaced_by_the_pem_beside_it(tmp_path: Path) -> None:
    put(tmp_path / "bundle.pem", AUTHORITY.certificate_pem)
    put(tmp_path / "bundle.json", b"{")
    with pytest.raises(SidecarError, match=r"bundle\.json: not a bundle"):
        files(tmp_path).read()


def test_without_an_own_bundle_nothing_starts_and_one_that_goes_stays_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SidecarError, match=r"no bundle\.json or bundle\.pem, the bundle of `shop\.example`"):
        files(tmp_path).read()
    with pytest.raises(SidecarError, match="cannot be listed"):
        files(tmp_path / "nowhere").read()
    put(tmp_path / "bundle.pem", AUTHORITY.certificate_pem)
    followed = files(tmp_path)
    trust = followed.read()
    (tmp_path / "bundle.pem").unlink()
    with caplog.at_level(logging.ERROR):
        assert [now(followed), now(followed)] == [trust, trust]
    assert len(caplog.messages) == 1


def test_a_broken_federated_bundle_keeps_no_sidecar_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "bundle.pem", AUTHORITY.certificate_pem)
    put(tmp_path / "bundle.acme.example.json", b"{")
    put(tmp_path / "bundle.ACME.pem", OTHER.certificate_pem)
    with caplog.at_level(logging.ERROR):
        assert files(tmp_path).read() == Trust.of([PEM])
    assert ["acme.example.json" in caplog.messages[0], "stands for no trust domain" in caplog.messages[1]] == [True] * 2


def test_what_is_no_bundles_file_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path / "bundle.pem", AUTHORITY.certificate_pem)
    for name in ("svid.pem", "bundle", "bundle.txt", "mybundle.pem", "bundle-old.json"):
        put(tmp_path / name, b"x")
    (tmp_path / "bundle.gone.example.pem").symlink_to(tmp_path / "nowhere")
    assert files(tmp_path).read() == Trust.of([PEM])


def test_a_file_that_never_ends_or_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path / "bundle.pem", AUTHORITY.certificate_pem)
    os.mkfifo(tmp_path / "bundle.acme.example.pem")
    (tmp_path / "bundle.other.example.pem").symlink_to("/dev/zero")
    assert files(tmp_path).read() == Trust.of([PEM])


def test_more_files_than_anybody_federates_with_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "bundle.pem", AUTHORITY.certificate_pem)
    followed = files(tmp_path)
    trust = followed.read()
    for number in range(MAX_FILES):
        (tmp_path / f"bundle.t{number}.pem").touch()
    with caplog.at_level(logging.ERROR):
        assert [now(followed), now(followed)] == [trust, trust]
    assert len(caplog.messages) == 1


@settings(max_examples=30)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_bundle_or_a_fault(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    put(folder / "bundle.pem", AUTHORITY.certificate_pem)
    put(folder / "bundle.acme.example.json", content)
    assert files(folder).read().bundle(SHOP) == PEM


def test_what_finds_no_room_in_the_page_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    memory = mmap.mmap(-1, len(PEM.to_json()) + 128)
    written = WrittenTrust(TrustPage(memory))
    large = TokenIssuer(trust_domain=ACME).bundle(OTHER.certificate_pem + AUTHORITY.certificate_pem)
    with caplog.at_level(logging.ERROR):
        for trust in (Trust.of([PEM]), Trust.of([PEM, large]), Trust.of([PEM, large])):
            written.write(trust)
    assert TrustPage(memory)() == Trust.of([PEM])
    assert caplog.messages == ["the bundle of `acme.example` finds no room beside the others, so it is not trusted"]
