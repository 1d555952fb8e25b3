from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from authz.cli.main import main
from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.x509_svid import x509_svid_from_pem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

POLICIES = """
apiVersion: authz/v1
kind: Mesh
metadata: {name: shop}
spec: {trustDomains: [shop.example, parts.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: orders}
spec: {identities: ["spiffe://shop.example/ns/shop/*", spiffe://shop.example/ns/shop/sa/orders]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: catalog}
spec: {identities: ["spiffe://shop.example/*/sa/**"]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: stock}
spec: {identities: [spiffe://parts.example/stock]}
"""
FEDERATED = """
---
apiVersion: authz/v1
kind: Service
metadata: {name: guest}
spec: {identities: [spiffe://acme.example/guest]}
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    return _folder(tmp_path / "policies", POLICIES)


def _folder(directory: Path, content: str) -> Path:
    directory.mkdir()
    (directory / "set.yaml").write_text(content)
    # A folder that has just changed is waited for.
    past = datetime.now(UTC).timestamp() - 60
    os.utime(directory / "set.yaml", (past, past))
    return directory


def _mint(policies: Path, out: Path, *more: str) -> int:
    return main(["svid", "mint", "--policies", str(policies), "--out", str(out), *more])


def _identity(out: Path, name: str) -> str:
    return str(x509_svid_from_pem((out / name / "svid.pem").read_bytes()).spiffe_id)


def test_mint_issues_an_svid_for_every_service(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "svids"
    assert _mint(policies, out) == 0
    assert {path.name for path in out.iterdir()} == {"orders", "catalog", "stock"}
    assert _identity(out, "orders") == "spiffe://shop.example/ns/shop/sa/orders", "the first exact one"
    assert _identity(out, "catalog") == "spiffe://shop.example/catalog/sa/catalog", "the pattern with the name"
    assert _identity(out, "stock") == "spiffe://parts.example/stock"
    printed = capsys.readouterr().out
    assert "spiffe://shop.example/catalog/sa/catalog" in printed
    assert "PRIVATE" not in printed


def test_each_trust_domain_has_an_authority_of_its_own(policies: Path, tmp_path: Path) -> None:
    out = tmp_path / "svids"
    assert _mint(policies, out) == 0
    orders, stock = out / "orders", out / "stock"
    assert (orders / "bundle.pem").read_bytes() == (out / "catalog/bundle.pem").read_bytes()
    assert (orders / "bundle.pem").read_bytes() != (stock / "bundle.pem").read_bytes()
    assert (orders / "bundle.parts.example.pem").read_bytes() == (stock / "bundle.pem").read_bytes()
    assert (stock / "bundle.shop.example.pem").read_bytes() == (orders / "bundle.pem").read_bytes()


def test_an_svid_lives_as_long_as_it_is_told_to(policies: Path, tmp_path: Path) -> None:
    before = datetime.now(UTC).timestamp()
    assert _mint(policies, tmp_path / "svids", "--lifetime", "30m") == 0
    svid = x509_svid_from_pem((tmp_path / "svids/orders/svid.pem").read_bytes())
    assert before + 1799 <= svid.not_after_ns / 1e9 <= datetime.now(UTC).timestamp() + 1800


def test_mint_issues_for_the_services_that_are_named(policies: Path, tmp_path: Path) -> None:
    out = tmp_path / "svids"
    assert _mint(policies, out, "--service", "orders", "--service", "stock") == 0
    assert {path.name for path in out.iterdir()} == {"orders", "stock"}


def test_a_kept_authority_is_the_same_in_the_next_run(policies: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "svids", tmp_path / "authority"
    bundles, svids = set(), set()
    for _ in range(2):
        assert _mint(policies, out, "--authority", str(kept)) == 0
        bundles.add((out / "orders/bundle.pem").read_bytes())
        svids.add((out / "orders/svid.pem").read_bytes())
    assert (len(bundles), len(svids)) == (1, 2)


def test_without_a_kept_authority_each_run_has_its_own_and_writes_no_signing_key(
    policies: Path, tmp_path: Path
) -> None:
    out = tmp_path / "svids"
    bundles = set()
    for _ in range(2):
        assert _mint(policies, out) == 0
        bundles.add((out / "orders/bundle.pem").read_bytes())
    assert len(bundles) == 2
    keys = [path for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert {path.name for path in keys} == {"key.pem"}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--service", "nobody"], "--service `nobody`: there is no such Service"),
        (["--lifetime", "1"], "`1` is no duration"),
        (["--lifetime", "-1h"], "expected one argument"),
        (["--lifetime", "1h\n"], "is no duration"),
        (["--lifetime", "1s"], "two seconds at least"),
        (["--lifetime", "9999999h"], "is no duration"),
        (["--authority", "/dev/null/x"], "not a directory"),
    ],
)
def test_mint_writes_nothing_for_arguments_that_make_no_sense(
    policies: Path, tmp_path: Path, more: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _mint(policies, tmp_path / "svids", *more) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "svids").exists()


def test_a_service_of_a_federated_trust_domain_gets_no_svid_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = _folder(tmp_path / "policies", POLICIES + FEDERATED)
    assert _mint(policies, tmp_path / "svids") == 2
    assert "Service `guest` has no identity in an own trust domain" in capsys.readouterr().err
    assert not (tmp_path / "svids").exists()
    assert _mint(policies, tmp_path / "svids", "--service", "orders") == 0


def test_the_faults_of_the_policies_are_said_with_their_positions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = _folder(tmp_path / "policies", POLICIES.replace("identities", "identitys"))
    assert _mint(policies, tmp_path / "svids") == 2
    assert re.search(r"set\.yaml:\d+:\d+: ", capsys.readouterr().err)


def test_an_unwritable_place_is_one_clear_line(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert _mint(policies, tmp_path / "file", "--service", "orders") == 2
    assert capsys.readouterr().err == f"{tmp_path / 'file/orders'}: not a directory\n"


def test_a_service_whose_files_cannot_be_written_keeps_no_other_from_its_svid(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "svids"
    out.mkdir()
    (out / "orders").write_text("")
    assert _mint(policies, out) == 2
    assert str(out / "orders") in capsys.readouterr().err
    assert _identity(out, "stock") == "spiffe://parts.example/stock"


def _running(policies: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "authz",
            "svid",
            "mint",
            "--policies",
            str(policies),
            "--out",
            str(out),
            "--renew",
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _lines(minting: subprocess.Popen[str], count: int) -> Sequence[str]:
    assert minting.stdout is not None
    return [minting.stdout.readline() for _ in range(count)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_renew_issues_again_with_the_same_authority_until_it_is_told_to_end(
    policies: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "svids"
    with _running(policies, out, "--lifetime", "2s", "--service", "orders") as minting:
        _lines(minting, 1)
        first, bundle = (out / "orders/svid.pem").read_bytes(), (out / "orders/bundle.pem").read_bytes()
        _lines(minting, 1)
        assert (out / "orders/svid.pem").read_bytes() != first
        assert (out / "orders/bundle.pem").read_bytes() == bundle
        minting.send_signal(number)
        _, errors = minting.communicate(timeout=30)
        assert (minting.returncode, errors) == (0, "")


def test_renew_goes_on_with_the_last_good_set_when_the_folder_breaks(policies: Path, tmp_path: Path) -> None:
    out = tmp_path / "svids"
    with _running(policies, out, "--lifetime", "2s", "--service", "orders") as minting:
        _lines(minting, 1)
        (policies / "set.yaml").write_text("kind: [")
        assert _lines(minting, 2)[-1].startswith("orders  spiffe://shop.example/ns/shop/sa/orders")
        minting.terminate()
        _, errors = minting.communicate(timeout=30)
        assert minting.returncode == 0
    assert "set.yaml:1:" in errors
    assert "renewing for the policy set of before" in errors


@pytest.fixture
def issued(tmp_path: Path) -> Path:
    now = datetime.now(UTC)
    authority = Authority.generate(TrustDomain.parse("shop.example"), now, timedelta(days=1))
    svid = authority.issue_x509_svid(SpiffeId.parse("spiffe://shop.example/orders"), now, timedelta(hours=1))
    old = authority.issue_x509_svid(
        SpiffeId.parse("spiffe://shop.example/orders"), now - timedelta(seconds=30), timedelta(seconds=10)
    )
    for name, content in (
        ("svid.pem", svid.certificate_pem),
        ("key.pem", svid.key_pem),
        ("both.pem", svid.certificate_pem + svid.key_pem),
        ("bundle.pem", authority.certificate_pem),
        ("expired.pem", old.certificate_pem),
        ("garbage.pem", b"\0garbage"),
    ):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_show_says_whose_the_svid_is_and_until_when(issued: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["svid", "show", str(issued / "svid.pem"), "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown) == ["spiffe_id", "serial", "not_before", "not_after", "valid"]
    assert shown["spiffe_id"] == "spiffe://shop.example/orders"
    assert shown["valid"] is True
    assert main(["svid", "show", str(issued / "svid.pem"), "-o", "pretty"]) == 0
    pretty = capsys.readouterr().out
    assert f"spiffe id   {shown['spiffe_id']}\n" in pretty
    assert f"serial      {shown['serial']}\n" in pretty


@pytest.mark.parametrize("output", ["json", "pretty"])
@pytest.mark.parametrize(
    ("file", "status", "why"),
    [
        ("expired.pem", 1, "spiffe://shop.example/orders"),
        ("bundle.pem", 1, "cA is true"),
        ("garbage.pem", 1, "not a PEM certificate"),
        ("key.pem", 1, "a private key stands where only certificates belong"),
        ("both.pem", 1, "a private key stands where only certificates belong"),
        ("absent.pem", 2, "no such file or directory"),
        (".", 2, "not a file"),
    ],
)
def test_show_says_why_a_file_proves_nothing_now_and_never_shows_a_key(
    issued: Path, file: str, status: int, why: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["svid", "show", str(issued / file), "-o", output]) == status
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert why in printed
    secret = set((issued / "key.pem").read_text().split("\n")[1:-2])
    assert not any(line in printed for line in secret)


@pytest.mark.parametrize("command", [["svid", "--help"], ["svid", "mint", "--help"], ["svid", "show", "--help"]])
def test_help_ends_in_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    assert "example:\n  authz svid " in capsys.readouterr().out


def test_help_says_which_identity_a_service_with_patterns_gets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["svid", "mint", "--help"]) == 0
    assert "replaced by the Service's name" in capsys.readouterr().out
