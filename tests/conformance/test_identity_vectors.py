"""The SPIFFE standards, requirement by requirement: what is accepted, what is refused, and by which rule."""

from __future__ import annotations

import base64
import hmac
import json
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import spiffe
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification
from spiffe import JwtBundle, JwtSvid

from authz.identity.base64url import base64url, bytes_from_base64url
from authz.identity.bundle import (
    Bundle,
    BundleError,
    bundle_from_der,
    bundle_from_json,
    bundle_from_pem,
    jwt_bundle_from_json,
)
from authz.identity.jwt_svid import MAX_TOKEN_BYTES, JwtSvidError, verify_jwt_svid
from authz.identity.public_key import key_members
from authz.identity.spiffe_id import SpiffeId, SpiffeIdError, TrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_chain import verify_x509_svid
from authz.identity.x509_svid import X509SvidError
from tests.support.identity_descriptions import NOW, NOW_NS, NOW_S, Certificates, key, timed, token

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = Path(__file__).with_name("identity")
STANDARDS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
SHOP, ACME = TrustDomain(name="shop.example"), TrustDomain(name="acme.example")


def cases(name: str) -> list[Any]:
    return list(_cases(name))


def _cases(name: str) -> Iterator[Any]:
    for number, case in enumerate(STANDARDS[name]["cases"], start=1):
        said = str(case.get("name", case.get("text", "")))
        yield pytest.param(case, id=f"{case['for']} {number} {said}".encode("unicode_escape").decode())


@pytest.mark.parametrize("name", STANDARDS)
def test_every_requirement_has_a_case_and_every_case_a_requirement(name: str) -> None:
    required, tried = STANDARDS[name]["requirements"], {str(case["for"]) for case in STANDARDS[name]["cases"]}
    assert tried == set(map(str, required))


def test_the_standards_have_enough_cases() -> None:
    assert sum(len(each["cases"]) for each in STANDARDS.values()) >= 200


@pytest.mark.parametrize("case", cases("spiffe_id"))
def test_spiffe_id(case: dict[str, Any]) -> None:
    text = case["text"].ljust(case.get("filled_to", 0), "x")
    if case["expect"] == "accepted":
        assert str(SpiffeId.parse(text)) == text
    else:
        with pytest.raises(SpiffeIdError) as refused:
            SpiffeId.parse(text)
        assert case["rule"] in str(refused.value)


def certificates_of(vectors: Mapping[str, Any], case: Mapping[str, Any]) -> Certificates:
    described = {**vectors["certificates"], **case.get("certificates", {})}
    return Certificates({**described, **({"leaf": case["leaf"]} if "leaf" in case else {})})


@pytest.mark.parametrize("case", cases("x509_svid"))
def test_x509_svid(case: dict[str, Any]) -> None:
    certificates = certificates_of(STANDARDS["x509_svid"], case)
    pem = b"".join(certificates[name].public_bytes(Encoding.PEM) for name in case.get("bundle", ["root"]))
    shop = bundle_from_pem(pem, SHOP) if pem else Bundle(trust_domain=SHOP)
    acme = Bundle(trust_domain=ACME, x509_authorities=(certificates["other"],))
    chain = [certificates.der(name) for name in case.get("chain", ["leaf"])]
    if case["expect"] == "accepted":
        svid = verify_x509_svid(chain, Trust.of([shop, acme]), NOW)
        assert [str(svid.spiffe_id)] == case.get("leaf", {}).get("uris", ["spiffe://shop.example/orders"])
        assert svid.not_before_ns <= NOW_NS <= svid.not_after_ns
    else:
        with pytest.raises(X509SvidError) as refused:
            verify_x509_svid(chain, Trust.of([shop, acme]), NOW)
        assert case["rule"] in str(refused.value)


@pytest.mark.parametrize("case", [each for each in cases("x509_svid") if each.values[0]["expect"] == "accepted"])
def test_what_we_accept_another_path_builder_accepts(case: dict[str, Any]) -> None:
    certificates = certificates_of(STANDARDS["x509_svid"], case)
    anything = verification.ExtensionPolicy.permit_all()
    agnostic = verification.Criticality.AGNOSTIC
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store([certificates[name] for name in (*case.get("bundle", ["root"]), "other")]))
        .time(NOW)
        .extension_policies(
            ca_policy=anything.require_present(x509.BasicConstraints, agnostic, None),
            ee_policy=anything.require_present(x509.SubjectAlternativeName, agnostic, None),
        )
        .build_client_verifier()
    )
    leaf, *intermediates = (certificates[name] for name in case.get("chain", ["leaf"]))
    if case["name"] == "a self-issued intermediate takes nothing away":
        # RFC 5280 6.1.4 (l), which this one does not know.
        with pytest.raises(verification.VerificationError):
            verifier.verify(leaf, intermediates)
    else:
        assert verifier.verify(leaf, intermediates).chain[0] == leaf


def _changed(whole: Mapping[str, Any], part: Any) -> Any:
    if isinstance(part, str):
        return part
    return {name: value for name, value in {**whole, **(part or {})}.items() if value is not None}


def _written(content: bytes, how: str) -> bytes:  # noqa: C901, PLR0911, PLR0912 a table
    header, claims, signature = content.split(b".")
    raw = bytes_from_base64url(signature)
    text = {"protected": header.decode(), "payload": claims.decode(), "signature": signature.decode()}
    match how:
        case "empty":
            return b""
        case "json":
            signatures = [{name: text[name] for name in ("protected", "signature")}]
            return json.dumps({"payload": text["payload"], "signatures": signatures}).encode()
        case "flattened":
            return json.dumps(text).encode()
        case "unsigned":
            return header + b"." + claims
        case "empty-signature":
            return header + b"." + claims + b"."
        case "detached":
            return header + b".." + signature
        case "four":
            return content + b"." + signature
        case "jwe":
            return content + b"." + signature + b"." + signature
        case "bearer":
            return b"Bearer " + content
        case "spaced":
            return b" " + content + b"\n"
        case "hs256":
            secret = key("p256-one").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            return header + b"." + claims + b"." + _encoded(hmac.digest(secret, header + b"." + claims, sha256))
        case "changed":
            other = bytes_from_base64url(claims).replace(b"/orders", b"/stocks")
            return header + b"." + _encoded(other) + b"." + signature
        case "padded":
            padded = claims + b"=" * (-len(claims) % 4)
            assert padded != claims, "these ones need no padding"
            return header + b"." + padded + b"." + signature
        case "standard-base64":
            return header + b"." + claims + b"." + base64.b64encode(raw).rstrip(b"=") + b"+/"
        case "broken-line":
            return header + b"." + claims[:20] + b"\n" + claims[20:] + b"." + signature
        case "loose-bits":
            return header + b"." + claims + b"." + signature[:-1] + bytes([signature[-1] + 1])
    half = len(raw) // 2
    r, s = raw[:half], raw[half:]
    zeros = bytes(half)
    changed = {
        "zero-signature": zeros + zeros,
        "zero-r": zeros + s,
        "zero-s": r + zeros,
        "der-signature": encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")),
        "long-signature": b"\0" + raw,
        "short-signature": raw[:-1],
    }[how]
    return header + b"." + claims + b"." + _encoded(changed)


def _encoded(content: bytes) -> bytes:
    return base64url(content).encode()


def _token_of(case: Mapping[str, Any], now_s: int = NOW_S) -> tuple[bytes, Any]:
    """Give a case's token, and its claims as they are described."""
    whole = STANDARDS["jwt_svid"]["token"]
    claims = _changed(whole["claims"], case.get("claims"))
    if isinstance(claims, dict) and claims.get("pad") == "long":
        claims["pad"] = "x" * MAX_TOKEN_BYTES
    described = {
        "header": _changed(whole["header"], case.get("header")),
        "claims": claims,
        "key": case.get("key", whole["key"]),
        "with": case.get("with"),
    }
    content = token(described, now_s)
    return _written(content, case["write"]) if "write" in case else content, claims


def _keys_of(case: Mapping[str, Any]) -> dict[str, Any]:
    names = case.get("keys", STANDARDS["jwt_svid"]["keys"])
    keys = {name: key(of).public_key() for name, of in names.items()}
    return keys | {f"p256-{number}": key(f"p256-{number}").public_key() for number in range(case.get("many_keys", 0))}


def _concerns_another_reader(case: Mapping[str, Any]) -> bool:
    """Whether another reader, which wants a `kid` and knows no leeway, should accept what we accept."""
    if case["expect"] != "accepted" or case.get("header", {}).get("kid", "one") not in STANDARDS["jwt_svid"]["keys"]:
        return False
    claims = case.get("claims", {})
    return isinstance(claims, str) or ("nbf" not in claims and claims.get("exp", {"now": 300})["now"] > 0)


@pytest.mark.parametrize("case", [each for each in cases("jwt_svid") if _concerns_another_reader(each.values[0])])
def test_what_we_accept_py_spiffe_accepts(case: dict[str, Any]) -> None:
    now_s = int(time.time())
    content, _ = _token_of(case, now_s + 60 if isinstance(case.get("claims"), str) else now_s)
    bundle = Bundle(trust_domain=SHOP, jwt_authorities=_keys_of(case))
    theirs = JwtBundle.parse(spiffe.TrustDomain("shop.example"), bundle.to_jwks())
    ours = verify_jwt_svid(content, Trust.of([bundle]), "catalog", time.time_ns())
    svid = JwtSvid.parse_and_validate(content.decode(), theirs, {"catalog"})
    assert str(svid.spiffe_id) == str(ours.spiffe_id)


@pytest.mark.parametrize("case", cases("jwt_svid"))
def test_jwt_svid(case: dict[str, Any]) -> None:
    content, claims = _token_of(case)
    keys = _keys_of(case)
    root = Certificates({"root": {"signer": True, "key": "p256-root"}})["root"]
    shop = Bundle(trust_domain=SHOP, x509_authorities=(root,), jwt_authorities=keys)
    acme = Bundle(
        trust_domain=ACME,
        jwt_authorities={name: key(of).public_key() for name, of in STANDARDS["jwt_svid"]["other_keys"].items()},
    )
    if case["expect"] == "accepted":
        svid = verify_jwt_svid(content, Trust.of([shop, acme]), "catalog", NOW_NS)
        assert svid == verify_jwt_svid(content.decode(), Trust.of([shop, acme]), "catalog", NOW_NS)
        if isinstance(claims, dict):
            assert str(svid.spiffe_id) == claims["sub"]
            assert svid.expires_ns == timed(claims["exp"]) * 1_000_000_000
    else:
        with pytest.raises(JwtSvidError) as refused:
            verify_jwt_svid(content, Trust.of([shop, acme]), "catalog", NOW_NS)
        assert case["rule"] in str(refused.value)
        assert str(refused.value).isprintable()


def _entry(described: Mapping[str, Any], certificates: Certificates) -> dict[str, Any]:
    if "x509" in described:
        name = described["x509"]
        chain = [base64.b64encode(certificates.der(each)).decode() for each in described.get("chain", [name])]
        entry: dict[str, Any] = {"use": "x509-svid", "x5c": [*chain, *described.get("behind", ())]}
        public = certificates.key_of(name).public_key()
    else:
        name = described["jwt"]
        entry = {"use": "jwt-svid", "kid": name}
        public = key(name if "-" in name else f"p256-{name}").public_key()
    return _changed({**entry, **_members(public)}, described.get("with"))


def _members(public: Any) -> dict[str, str]:
    """Write a key as a JWK, also one that is too weak to be written by the program."""
    if public.key_size == 1024:
        numbers = public.public_numbers()
        return {"kty": "RSA", "n": base64url(numbers.n.to_bytes(128, "big")), "e": "AQAB"}
    return key_members(public)


def _bundle(case: Mapping[str, Any], certificates: Certificates) -> Bundle:
    if "der" in case:
        known = STANDARDS["workload_api"]["certificates"]
        parts = [certificates.der(each) if each in known else bytes.fromhex(each) for each in case["der"]]
        return bundle_from_der(b"".join(parts), SHOP)
    if "jwks" in case:
        entries = [_entry(each, certificates) for each in case["jwks"]]
        return jwt_bundle_from_json(json.dumps({"keys": entries}).encode(), SHOP)
    if "document" in case:
        return bundle_from_json(case["document"].encode(), SHOP)
    entries = [_entry(each, certificates) for each in case["keys"]] * case.get("times", 1)
    return bundle_from_json(json.dumps({"keys": entries, **case.get("members", {})}).encode(), SHOP)


@pytest.mark.parametrize(
    "case", [*cases("bundle"), *(each for each in cases("workload_api") if "svids" not in each.values[0])]
)
def test_bundle(case: dict[str, Any]) -> None:
    certificates = Certificates(STANDARDS["bundle"]["certificates"])
    if "refused" in case:
        with pytest.raises(BundleError) as refused:
            _bundle(case, certificates)
        assert case["refused"] in str(refused.value)
        assert str(refused.value).isprintable()
        return
    bundle = _bundle(case, certificates)
    takes = case["takes"]
    assert bundle.x509_authorities == tuple(certificates[name] for name in takes.get("x509", ()))
    assert list(bundle.jwt_authorities) == takes.get("jwt", [])
    assert bundle.sequence == takes.get("sequence")
    hint = bundle.refresh_hint
    assert (None if hint is None else hint.total_seconds()) == takes.get("hint_s")
    assert len(bundle.ignored) == len(case.get("ignored", ()))
    for said, why in zip(bundle.ignored, case.get("ignored", ()), strict=True):
        assert why in said
    if not takes.get("x509"):
        leaf = Certificates({"root": {"signer": True}, "leaf": {}}).der("leaf")
        with pytest.raises(X509SvidError, match="no authority"):
            verify_x509_svid([leaf], Trust.of([bundle]), NOW)
