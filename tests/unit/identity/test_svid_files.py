from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authz.identity.authority import MAX_AUTHORITY_BYTES, Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import SvidFilesError, kept_authority, other_bundle_file, read_public_file, write_svid

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SHOP, PARTS = TrustDomain.parse("shop.example"), TrustDomain.parse("parts.example")
ORDERS = SpiffeId.parse("spiffe://shop.example/orders")
AUTHORITY = Authority.generate(SHOP, NOW, timedelta(days=1))
OTHER = Authority.generate(PARTS, NOW, timedelta(days=1))
HOUR = timedelta(hours=1)


def generations(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.is_symlink())


def test_certificate_key_and_bundle_stand_in_the_directory(tmp_path: Path) -> None:
    svid = AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR)
    write_svid(tmp_path / "orders", svid, AUTHORITY.certificate_pem)
    assert (tmp_path / "orders/svid.pem").read_bytes() == svid.certificate_pem
    assert (tmp_path / "orders/key.pem").read_bytes() == svid.key_pem
    assert (tmp_path / "orders/bundle.pem").read_bytes() == AUTHORITY.certificate_pem


def test_the_bundle_of_another_trust_domain_has_a_file_of_its_own_while_it_is_given(tmp_path: Path) -> None:
    svid = AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR)
    other = tmp_path / other_bundle_file(PARTS)
    write_svid(tmp_path, svid, AUTHORITY.certificate_pem, other_bundles={PARTS: OTHER.certificate_pem})
    assert other.name == "bundle.parts.example.pem"
    assert other.read_bytes() == OTHER.certificate_pem
    assert (tmp_path / "bundle.pem").read_bytes() == AUTHORITY.certificate_pem
    write_svid(tmp_path, svid, AUTHORITY.certificate_pem)
    assert not other.is_symlink()


def test_a_file_of_somebody_else_in_the_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "..mine").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for _ in range(3):
        write_svid(tmp_path, AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR), AUTHORITY.certificate_pem)
    assert (tmp_path / "notes").read_text() == "mine"
    assert (tmp_path / "..mine").is_dir()
    assert (tmp_path / "link").is_symlink()


# Runs under umask 0 and looks at everything below the directory at each system call that Python audits: the modes
# that were asked for are the modes that are seen, since no umask narrows them. A file's mode changes by chmod only.
_WATCHED_WRITER = """
import json, os, stat, sys
from datetime import datetime, timedelta, UTC
from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import kept_authority, write_svid

root = sys.argv[1]
seen, busy = {"calls": [], "modes": set(), "created": set()}, False

def look(event, arguments):
    global busy
    if busy or not (event.startswith("os.") or event == "open"):
        return
    busy = True
    seen["calls"].append(event)
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & os.O_CREAT:
        seen["created"].add(bool(arguments[2] & os.O_EXCL))
    for directory, names, files in os.walk(root):
        for name in names + files:
            found = os.lstat(os.path.join(directory, name))
            if not stat.S_ISLNK(found.st_mode):
                seen["modes"].add(found.st_mode)
    busy = False

os.umask(0)
now, shop = datetime.now(UTC), TrustDomain.parse("shop.example")
sys.addaudithook(look)
authority = kept_authority(root + "/a/b", shop, lambda: Authority.generate(shop, now, timedelta(days=1)))
for _ in range(3):
    svid = authority.issue_x509_svid(SpiffeId.parse("spiffe://shop.example/x"), now, timedelta(hours=1))
    write_svid(root + "/out/orders", svid, authority.certificate_pem)
look("os.end", ())
print(json.dumps({name: sorted(values) for name, values in seen.items()}))
"""


def test_no_key_is_readable_to_others_at_any_instant_even_without_an_umask(tmp_path: Path) -> None:
    writer = subprocess.run(
        [sys.executable, "-c", _WATCHED_WRITER, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    seen = json.loads(writer.stdout)
    assert {(stat.S_IFMT(mode), stat.S_IMODE(mode)) for mode in seen["modes"]} == {
        (stat.S_IFREG, 0o600),
        (stat.S_IFDIR, 0o700),
    }
    assert {"open", "os.mkdir", "os.rename", "os.symlink"} <= set(seen["calls"]), "the watch saw the writing"
    assert "os.chmod" not in seen["calls"]
    assert seen["created"] == [True], "every file was created by this writer, exclusively"


def test_a_reader_that_follows_the_link_never_meets_half_a_pair(tmp_path: Path) -> None:
    pairs = [AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR) for _ in range(30)]
    key_of = {svid.certificate_pem: svid.key_pem for svid in pairs}
    write_svid(tmp_path, pairs[0], AUTHORITY.certificate_pem)

    def read() -> int:
        reads = 0
        while (tmp_path / "svid.pem").read_bytes() != pairs[-1].certificate_pem:
            generation = os.open(tmp_path / "..data", os.O_RDONLY | os.O_DIRECTORY)
            found = []
            # A reader that sleeps through two renewals finds its generation gone, and begins anew.
            with contextlib.suppress(FileNotFoundError):
                for name in ("svid.pem", "key.pem"):
                    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=generation), "rb") as file:
                        found.append(file.read())
                assert key_of[found[0]] == found[1]
            os.close(generation)
            reads += 1
        return reads

    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(read)
        for svid in pairs:
            write_svid(tmp_path, svid, AUTHORITY.certificate_pem)
        reading.result(timeout=60)


def test_only_the_generation_in_force_and_the_one_before_it_are_kept(tmp_path: Path) -> None:
    kept = []
    for _ in range(5):
        write_svid(tmp_path, AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR), AUTHORITY.certificate_pem)
        kept.append((tmp_path / "..data").readlink().name)
        assert generations(tmp_path) == sorted(kept[-2:])


def test_what_an_interrupted_write_has_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "..0123456789abcdef"
    left.mkdir()
    (left / "key.pem").write_text("half a key")
    (tmp_path / "..new").symlink_to("..0123456789abcdef")
    svid = AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR)
    write_svid(tmp_path, svid, AUTHORITY.certificate_pem)
    assert (tmp_path / "key.pem").read_bytes() == svid.key_pem
    assert left.name not in generations(tmp_path)
    assert not (tmp_path / "..new").is_symlink()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    first = AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR)
    write_svid(tmp_path, first, AUTHORITY.certificate_pem)
    too_long = TrustDomain.parse("a" * 255)  # its bundle's name is longer than a file name can be
    with pytest.raises(SvidFilesError, match="file name too long"):
        write_svid(
            tmp_path,
            AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR),
            AUTHORITY.certificate_pem,
            other_bundles={too_long: b""},
        )
    assert (tmp_path / "svid.pem").read_bytes() == first.certificate_pem
    assert len(generations(tmp_path)) == 1


def test_plain_files_of_an_older_layout_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "svid.pem").write_text("old")
    (tmp_path / "key.pem").symlink_to("/dev/null")
    svid = AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR)
    write_svid(tmp_path, svid, AUTHORITY.certificate_pem)
    assert (tmp_path / "svid.pem").read_bytes() == svid.certificate_pem
    assert (tmp_path / "key.pem").read_bytes() == svid.key_pem


def test_writers_at_the_same_time_leave_one_whole_pair(tmp_path: Path) -> None:
    svids = [AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR) for _ in range(16)]
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(lambda svid: write_svid(tmp_path, svid, AUTHORITY.certificate_pem), svids))
    key_of = {svid.certificate_pem: svid.key_pem for svid in svids}
    assert key_of[(tmp_path / "svid.pem").read_bytes()] == (tmp_path / "key.pem").read_bytes()
    assert len(generations(tmp_path)) == 2


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702, 0o1777])
def test_a_directory_that_others_can_write_to_gets_no_key(tmp_path: Path, mode: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    with pytest.raises(SvidFilesError, match="others can write to this directory"):
        write_svid(shared, AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR), AUTHORITY.certificate_pem)
    with pytest.raises(SvidFilesError, match="others can write to this directory"):
        kept_authority(shared, SHOP, lambda: AUTHORITY)
    assert list(shared.iterdir()) == []


def test_where_a_file_stands_no_directory_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    svid = AUTHORITY.issue_x509_svid(ORDERS, NOW, HOUR)
    for directory in (tmp_path / "file", tmp_path / "file/orders", tmp_path / "dangling"):
        with pytest.raises(SvidFilesError, match=r"not a directory|no such file"):
            write_svid(directory, svid, AUTHORITY.certificate_pem)


def test_an_authority_is_generated_once_and_kept(tmp_path: Path) -> None:
    def never() -> Authority:
        raise AssertionError("there is one already")

    first = kept_authority(tmp_path / "ca", SHOP, lambda: AUTHORITY)
    assert kept_authority(tmp_path / "ca", SHOP, never).to_pem() == first.to_pem()
    assert kept_authority(tmp_path / "ca", PARTS, lambda: OTHER).trust_domain == PARTS
    kept = tmp_path / "ca/shop.example.authority.pem"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def test_those_who_ask_at_the_same_time_get_the_same_authority(tmp_path: Path) -> None:
    def generated() -> Authority:
        return Authority.generate(SHOP, NOW, timedelta(days=1))

    with ThreadPoolExecutor(4) as askers:
        found = list(askers.map(lambda _: kept_authority(tmp_path, SHOP, generated).to_pem(), range(8)))
    assert len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_an_authority_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    kept_authority(tmp_path, SHOP, lambda: AUTHORITY)
    (tmp_path / "shop.example.authority.pem").chmod(mode)
    with pytest.raises(SvidFilesError, match="others can read this private key"):
        kept_authority(tmp_path, SHOP, lambda: AUTHORITY)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not an authority"),
        (b"garbage", "not an authority"),
        (b"x" * (MAX_AUTHORITY_BYTES + 1), "has more than"),
        (OTHER.to_pem(), "holds the authority of `parts.example`"),
    ],
)
def test_a_broken_or_foreign_authority_is_neither_used_nor_replaced(tmp_path: Path, content: bytes, why: str) -> None:
    kept = tmp_path / "shop.example.authority.pem"
    kept.touch(mode=0o600)
    kept.write_bytes(content)
    with pytest.raises(SvidFilesError, match=why) as refused:
        kept_authority(tmp_path, SHOP, lambda: AUTHORITY)
    assert str(refused.value).startswith(f"{kept}: ")
    assert kept.read_bytes() == content


def test_a_link_in_the_place_of_an_authority_is_not_followed(tmp_path: Path) -> None:
    kept_authority(tmp_path / "theirs", SHOP, lambda: AUTHORITY)
    (tmp_path / "ours").mkdir(mode=0o700)
    (tmp_path / "ours/shop.example.authority.pem").symlink_to("../theirs/shop.example.authority.pem")
    with pytest.raises(SvidFilesError):
        kept_authority(tmp_path / "ours", SHOP, lambda: AUTHORITY)


def test_only_a_regular_file_of_the_right_size_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    assert read_public_file(tmp_path / "file", max_bytes=5) == b"12345"
    for path, why in (
        (tmp_path / "file", "more than 4 bytes"),
        (tmp_path / "pipe", "not a file"),
        (tmp_path, "not a file"),
        (Path("/dev/zero"), "not a file"),
        (tmp_path / "absent", "no such file"),
    ):
        with pytest.raises(SvidFilesError, match=why):
            read_public_file(path, max_bytes=4)
