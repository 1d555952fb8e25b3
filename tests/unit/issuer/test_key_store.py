from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from authz.identity.authority import Authority
from authz.identity.authority_rotation import RotatingAuthority, RotationPlan
from authz.identity.spiffe_id import TrustDomain
from authz.issuer.errors import IssuerError
from authz.issuer.key_store import KeyStore

if TYPE_CHECKING:
    from pathlib import Path

SHOP, PARTS = TrustDomain.parse("shop.example"), TrustDomain.parse("parts.example")
NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
PLAN = RotationPlan(lifetime=timedelta(days=7))


def begun(trust_domain: TrustDomain = SHOP) -> RotatingAuthority:
    return RotatingAuthority.begin(PLAN, NOW, lambda now: Authority.generate(trust_domain, now, PLAN.lifetime))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_what_is_kept_is_there_for_the_next_one_and_for_nobody_else(folder: Path) -> None:
    before = os.umask(0)
    try:
        store = KeyStore(folder)
        assert store.kept(SHOP, PLAN) is None
        shop, parts = begun(), begun(PARTS)
        store.keep(shop)
        store.keep(parts)
        store.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    again = KeyStore(folder)
    for authority in (shop, parts):
        kept = again.kept(authority.trust_domain, PLAN)
        assert kept is not None
        assert kept.bundle == authority.bundle
        assert kept.current.to_pem() == authority.current.to_pem()
    again.close()


def test_two_issuers_do_not_share_a_folder(folder: Path) -> None:
    store = KeyStore(folder)
    with pytest.raises(IssuerError, match="another issuer uses this state folder"):
        KeyStore(folder)
    store.close()
    KeyStore(folder).close()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_is_open_to_others_is_not_used(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(IssuerError, match="open to others"):
        KeyStore(folder)


def test_a_file_that_others_can_read_is_not_used(folder: Path) -> None:
    store = KeyStore(folder)
    store.keep(begun())
    (folder / "shop.example.authority.json").chmod(0o640)
    with pytest.raises(IssuerError, match="others can read this private key"):
        store.kept(SHOP, PLAN)
    store.close()


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    store = KeyStore(folder)
    store.keep(begun())
    file = folder / "shop.example.authority.json"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IssuerError):
        store.kept(SHOP, PLAN)
    store.close()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"garbage"])
def test_a_broken_file_is_said_and_never_begun_anew(folder: Path, content: bytes) -> None:
    store = KeyStore(folder)
    store.keep(begun())
    file = folder / "shop.example.authority.json"
    file.write_bytes(content)
    with pytest.raises(IssuerError, match="move it away to begin with a new authority"):
        store.kept(SHOP, PLAN)
    assert file.read_bytes() == content
    store.close()


def test_the_file_of_another_trust_domain_is_not_taken(folder: Path) -> None:
    store = KeyStore(folder)
    store.keep(begun(PARTS))
    (folder / "parts.example.authority.json").rename(folder / "shop.example.authority.json")
    with pytest.raises(IssuerError, match=r"holds the authority of `parts\.example`"):
        store.kept(SHOP, PLAN)
    store.close()


def test_the_longest_trust_domains_each_have_a_file(folder: Path) -> None:
    store = KeyStore(folder)
    one, other = (begun(TrustDomain.parse("a" * 254 + last)) for last in "bc")
    store.keep(one)
    store.keep(other)
    for authority in (one, other):
        kept = store.kept(authority.trust_domain, PLAN)
        assert kept is not None
        assert kept.bundle == authority.bundle
    store.close()


def _keeps_for_ever(folder: Path, began: object) -> None:
    store = KeyStore(folder)
    authority = begun()
    while True:
        store.keep(authority)
        began.set()  # type: ignore[attr-defined]


def test_a_writer_that_is_killed_at_any_time_leaves_a_whole_authority(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(4):
        began = context.Event()
        process = context.Process(target=_keeps_for_ever, args=(folder, began))
        process.start()
        assert began.wait(60)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        store = KeyStore(folder)
        assert store.kept(SHOP, PLAN) is not None
        store.close()
