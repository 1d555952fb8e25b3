"""`authz svid verify` and `authz bundle`, as they are typed."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from authz.cli.main import main
from authz.identity.authority import Authority
from authz.identity.bundle import MAX_BUNDLE_BYTES, Bundle, bundle_from_json, bundle_from_pem
from authz.identity.jwt_svid import MAX_TOKEN_BYTES
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHOP = TrustDomain(name="shop.example")
ORDERS = "spiffe://shop.example/orders"
NOW = datetime.now(UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
LATER = f"{NOW + timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an SVID, its key, and the bundle in both forms; commands run in it."""
    authority = Authority.generate(SHOP, NOW, timedelta(days=1))
    svid = authority.issue_x509_svid(SpiffeId.parse(ORDERS), NOW, timedelta(hours=1))
    bundle = Bundle(
        trust_domain=SHOP,
        x509_authorities=bundle_from_pem(authority.certificate_pem, SHOP).x509_authorities,
        jwt_authorities={"one": KEY.public_key()},
        sequence=7,
    )
    other = Authority.generate(SHOP, NOW, timedelta(days=1))
    for name, content in {
        "svid.pem": svid.certificate_pem,
        "with-key.pem": svid.certificate_pem + svid.key_pem,
        "bundle.pem": authority.certificate_pem,
        "bundle.json": bundle.to_json(),
        "other.pem": other.certificate_pem,
        "empty.json": b'{"keys": []}',
        "broken.json": b'{"keys": [}',
        "large.pem": svid.certificate_pem * (MAX_CERTIFICATE_BYTES // len(svid.certificate_pem) + 1),
        "large.json": b" " * (MAX_BUNDLE_BYTES + 1),
    }.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def token(**claims: object) -> str:
    now_s = int(NOW.timestamp())
    return jwt.encode(
        {"sub": ORDERS, "aud": "catalog", "exp": now_s + 3600, **claims}, KEY, algorithm="ES256", headers={"kid": "one"}
    )


def verify(*words: str) -> int:
    return main(["svid", "verify", *words])


@pytest.mark.parametrize("bundle", ["bundle.pem", "bundle.json"])
@pytest.mark.parametrize("whose", [[], ["--trust-domain", "shop.example"]])
def test_verify_prints_the_identity_that_a_chain_proves(
    capsys: pytest.CaptureFixture[str], bundle: str, whose: Sequence[str]
) -> None:
    assert verify("--chain", "svid.pem", "--bundle", bundle, *whose) == 0
    assert capsys.readouterr() == (f"{ORDERS}\n", "")


def test_verify_prints_the_identity_that_a_token_proves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verify("--token", token(), "--bundle", "bundle.json", "--audience", "catalog") == 0
    assert capsys.readouterr() == (f"{ORDERS}\n", "")
    for end in ("", "\n", "\r\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{token()}{end}".encode())))
        assert verify("--token", "-", "--bundle", "bundle.json", "--audience", "catalog") == 0
        assert capsys.readouterr() == (f"{ORDERS}\n", "")


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--chain", "svid.pem", "--bundle", "other.pem"], "signed"),
        (["--chain", "svid.pem", "--bundle", "empty.json"], "no authority"),
        (["--chain", "svid.pem", "--bundle", "broken.json"], "not JSON"),
        (["--chain", "svid.pem", "--bundle", "large.json"], "more than"),
        (["--chain", "large.pem", "--bundle", "bundle.pem"], "more than"),
        (["--chain", "broken.json", "--bundle", "bundle.pem"], "not a PEM certificate"),
        (["--chain", "with-key.pem", "--bundle", "bundle.pem"], "private key"),
        (["--chain", "bundle.pem", "--bundle", "bundle.pem"], "cA is true"),
        (["--chain", "svid.pem", "--bundle", "bundle.pem", "--trust-domain", "acme.example"], "no bundle"),
        (["--chain", "svid.pem", "--bundle", "bundle.pem", "--at", LATER], "expired"),
        (["--chain", "svid.pem", "--bundle", "bundle.pem", "--at", "2020-01-01T00:00:00Z"], "not valid before"),
        (["--token", token(), "--bundle", "bundle.json", "--audience", "stock"], "audience"),
        (["--token", token(), "--bundle", "bundle.json", "--audience", "catalog", "--at", LATER], "expired"),
        (["--token", token(), "--bundle", "bundle.pem", "--audience", "catalog"], "not a bundle"),
        (["--token", token(), "--bundle", "empty.json", "--audience", "catalog"], "no key"),
        (["--token", "", "--bundle", "bundle.json", "--audience", "catalog"], "no token"),
        (["--token", "x" * (MAX_TOKEN_BYTES + 1), "--bundle", "bundle.json", "--audience", "catalog"], "at most"),
        (["--token", token(sub="spiffe://acme.example/x"), "--bundle", "bundle.json", "--audience", "catalog",
          "--trust-domain", "shop.example"], "no bundle"),
    ],
)  # fmt: skip
def test_verify_says_which_rule_is_broken_and_no_identity(
    capsys: pytest.CaptureFixture[str], words: list[str], rule: str
) -> None:
    assert verify(*words) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert rule in said.err
    assert said.err.count("\n") == 1
    assert "PRIVATE KEY" not in said.err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--bundle", "bundle.pem"],
        ["--chain", "svid.pem"],
        ["--chain", "svid.pem", "--token", "x", "--bundle", "bundle.pem", "--audience", "a"],
        ["--chain", "svid.pem", "--bundle", "bundle.pem", "--audience", "a"],
        ["--token", "x", "--bundle", "bundle.json"],
        ["--token", "x", "--bundle", "bundle.json", "--audience", ""],
        ["--chain", "svid.pem", "--bundle", "bundle.pem", "--at", "yesterday"],
        ["--chain", "svid.pem", "--bundle", "bundle.pem", "--trust-domain", "Shop"],
        ["--chain", "absent.pem", "--bundle", "bundle.pem"],
    ],
)
def test_verify_refuses_arguments_that_make_no_question(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert verify(*words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_verify_gives_json_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("--chain", "svid.pem", "--bundle", "bundle.pem", "-o", "json") == 0
    proven = json.loads(capsys.readouterr().out)
    assert (proven["spiffe_id"], proven["kind"]) == (ORDERS, "x509-svid")


def test_show_reads_a_token_and_says_what_it_claims(capsys: pytest.CaptureFixture[str]) -> None:
    Path("token").write_text(token() + "\n")
    assert main(["svid", "show", "token", "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["spiffe_id"], shown["audience"], shown["valid"]) == (ORDERS, ["catalog"], True)
    Path("token").write_text(token(exp=1) + "\n")
    assert main(["svid", "show", "token"]) == 1


def test_bundle_show_names_the_keys_and_who_does_not_speak_for_the_domain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", "bundle.json", "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["sequence"] == 7
    assert shown["jwt_authorities"] == [{"key_id": "one", "key": "P-256"}]
    assert [each["fault"] for each in shown["x509_authorities"]] == [None]
    assert main(["bundle", "show", "bundle.pem", "-o", "json", "--trust-domain", "acme.example"]) == 1
    assert "`shop.example`" in json.loads(capsys.readouterr().out)["x509_authorities"][0]["fault"]
    assert main(["bundle", "show", "bundle.json", "-o", "pretty"]) == 0
    assert "jwt authority   `one` P-256\n" in capsys.readouterr().out
    assert [main(["bundle", "show", name]) for name in ("empty.json", "broken.json", "large.json")] == [1, 1, 1]


def _set(source: str, target: str, *more: str) -> int:
    return main(["bundle", "set", "--trust-domain", "shop.example", "--from", source, *more, target])


def test_bundle_set_converts_and_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _set("bundle.pem", "new.json") == 0
    assert bundle_from_json(Path("new.json").read_bytes(), SHOP).x509_pem == Path("bundle.pem").read_bytes()
    assert Path("new.json").stat().st_mode & 0o777 == 0o644
    assert _set("new.json", "new.pem") == 0
    assert Path("new.pem").read_bytes() == Path("bundle.pem").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("other.pem").read_bytes())))
    assert _set("-", "new.pem") == 0
    assert Path("new.pem").read_bytes() == Path("other.pem").read_bytes()
    assert not [each for each in Path().iterdir() if each.name.startswith(".")]


def test_bundle_set_never_goes_back(capsys: pytest.CaptureFixture[str]) -> None:
    current = bundle_from_json(Path("bundle.json").read_bytes(), SHOP)
    kept = Path("bundle.json").read_bytes()
    for sequence, why in ((6, "older"), (7, "same sequence")):
        changed = Bundle(trust_domain=SHOP, x509_authorities=current.x509_authorities, sequence=sequence)
        Path("source.json").write_bytes(changed.to_json())
        assert _set("source.json", "bundle.json") == 1
        assert why in capsys.readouterr().err
        assert Path("bundle.json").read_bytes() == kept
    assert _set("other.pem", "bundle.json") == 0
    assert bundle_from_json(Path("bundle.json").read_bytes(), SHOP).sequence == 8
    assert _set("other.pem", "bundle.json") == 0
    assert bundle_from_json(Path("bundle.json").read_bytes(), SHOP).sequence == 8


@pytest.mark.parametrize("source", ["empty.json", "broken.json", "svid.pem", "with-key.pem", "large.json"])
def test_bundle_set_leaves_the_old_one_where_the_new_one_proves_nothing(source: str) -> None:
    kept = Path("bundle.json").read_bytes()
    assert _set(source, "bundle.json") == 1
    assert Path("bundle.json").read_bytes() == kept


def test_bundle_set_leaves_out_what_cannot_sign(capsys: pytest.CaptureFixture[str]) -> None:
    sound, leaf = Path("bundle.pem").read_bytes(), Path("svid.pem").read_bytes()
    Path("both.pem").write_bytes(leaf + sound)
    assert _set("both.pem", "new.pem") == 0
    assert Path("new.pem").read_bytes() == sound
    assert "cA is false" in capsys.readouterr().err


def test_bundle_set_ends_trust_only_when_told_to() -> None:
    assert _set("empty.json", "bundle.json", "--revoke") == 0
    emptied = bundle_from_json(Path("bundle.json").read_bytes(), SHOP)
    assert emptied.is_empty
    assert emptied.sequence == 8
    assert _set("bundle.pem", "bundle.json", "--revoke") == 1
    assert bundle_from_json(Path("bundle.json").read_bytes(), SHOP).is_empty


@pytest.mark.parametrize(
    "command", [["svid", "verify"], ["svid", "show"], ["svid", "mint"], ["bundle", "show"], ["bundle", "set"]]
)
def test_help_has_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert f"example:\n  authz {' '.join(command)} " in capsys.readouterr().out


MESH = """
apiVersion: authz/v1
kind: Mesh
metadata: {name: shop}
spec: {trustDomains: [shop.example, parts.example]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: orders}
spec: {identities: [spiffe://shop.example/orders]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: stock}
spec: {identities: [spiffe://parts.example/stock]}
"""


def _mint(*words: str) -> int:
    Path("policies").mkdir(exist_ok=True)
    Path("policies/set.yaml").write_text(MESH)
    return main(["svid", "mint", "--policies", "policies", *words])


def test_what_mint_issues_is_what_verify_proves(capsys: pytest.CaptureFixture[str]) -> None:
    assert _mint("--out", "svids", "--authority", "kept") == 0
    for name, identity, other in (
        ("orders", ORDERS, "parts.example"),
        ("stock", "spiffe://parts.example/stock", "shop.example"),
    ):
        capsys.readouterr()
        for bundle in ("bundle.pem", "bundle.json"):
            assert verify("--chain", f"svids/{name}/svid.pem", "--bundle", f"svids/{name}/{bundle}") == 0
            assert capsys.readouterr().out == f"{identity}\n"
        assert _mint("--authority", "kept", "--service", name, "--audience", "catalog") == 0
        minted = capsys.readouterr().out.strip()
        words = ["--token", minted, "--audience", "catalog", "--bundle"]
        assert verify(*words, f"svids/{name}/bundle.json") == 0
        assert capsys.readouterr().out == f"{identity}\n"
        assert verify(*words, f"svids/{name}/bundle.{other}.json") == 1
        in_six_minutes = f"{datetime.now(UTC) + timedelta(minutes=6):%Y-%m-%dT%H:%M:%SZ}"
        assert verify(*words, f"svids/{name}/bundle.json", "--at", in_six_minutes) == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--audience", "a"],
        ["--audience", "a", "--authority", "kept"],
        ["--audience", "a", "--service", "orders"],
        ["--audience", "a", "--authority", "kept", "--service", "orders", "--service", "stock"],
        ["--audience", "a", "--authority", "kept", "--service", "orders", "--out", "svids"],
        ["--audience", "", "--authority", "kept", "--service", "orders"],
    ],
)
def test_mint_prints_no_token_for_arguments_that_make_no_sense(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _mint(*words) == 2
    assert capsys.readouterr().out == ""
