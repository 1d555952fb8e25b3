"""`authz bundle`: show what a trust bundle holds, and put one in its place."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from authz.cli.arguments import NO, YES, Subcommands
from authz.cli.output import add_output, output_of
from authz.cli.svid_verify import bundle_from, read_bundle, trust_domain_of
from authz.errors import UsageError
from authz.identity.bundle import MAX_BUNDLE_BYTES, Bundle, BundleError
from authz.identity.errors import quoted
from authz.identity.public_key import key_members
from authz.identity.signing_certificate import SigningCertificateError, require_signing_certificate
from authz.identity.spiffe_id import TrustDomain
from authz.svid_files import OversizedFileError, read_public_file, replacing_public_file

if TYPE_CHECKING:
    import argparse

    from cryptography import x509

    from authz.identity.public_key import PublicKey

# A bundle does not say whose it is; what is shown without --trust-domain is judged for nobody.
_UNNAMED = TrustDomain(name="unnamed")
_SET_DESCRIPTION = """\
Put a trust bundle in its place, or convert one: read it from --from (a SPIFFE bundle document in JSON, or X.509
authorities in PEM), judge it, and replace FILE in one step. FILE gets PEM if its name ends in .pem, else JSON.
Keys that prove nothing, and authorities that cannot sign for --trust-domain, are left out and named.

Refused, with exit status 1 and FILE as it was: what is no bundle; one of which nothing proves anything, unless
--revoke says that nobody of the trust domain is to be trusted any more; one whose spiffe_sequence is lower than
FILE's, or the same for other keys. Where the new one has no sequence, it gets FILE's next.
"""


def add_commands(commands: Subcommands) -> None:
    """Add `bundle show` and `bundle set`."""
    subcommands = commands.add_group(
        "bundle", summary="show and put in place trust bundles", example="authz bundle show acme.json"
    )
    show = subcommands.add(
        "show",
        _show,
        summary="show the keys of a trust bundle; exit status 1 if it is none, or proves nothing now",
        example="authz bundle show acme.json --trust-domain acme.example",
    )
    show.add_argument("file", metavar="FILE", help="a SPIFFE bundle document (JSON), or X.509 authorities in PEM")
    show.add_flag("--trust-domain", metavar="NAME", help="whose bundle it is: also say which keys do not speak for it")
    add_output(show, ["pretty", "json"])
    setting = subcommands.add(
        "set",
        _set,
        summary="put a trust bundle in its place, judged, in one step, and never an older one",
        example="authz bundle set --trust-domain acme.example --from new.json acme.json",
    )
    setting.description = _SET_DESCRIPTION
    setting.add_argument("file", metavar="FILE", help="the bundle to replace, or to make")
    setting.add_flag("--trust-domain", required=True, metavar="NAME", help="whose bundle it is")
    setting.add_flag("--from", required=True, metavar="FILE", dest="source", help="the new one; - reads standard input")
    setting.add_flag("--revoke", action="store_true", help="take a bundle without keys: it ends all trust")


def _show(given: argparse.Namespace) -> int:
    whose = trust_domain_of(given.trust_domain)
    output = output_of(given)
    try:
        bundle = read_bundle(given.file, whose or _UNNAMED)
    except (BundleError, OversizedFileError) as error:
        print(json.dumps({"error": str(error)}) if output == "json" else f"{given.file}: {error}")
        return NO
    seen = _seen(bundle, whose, datetime.now(UTC))
    print(json.dumps(seen) if output == "json" else _pretty(seen))
    usable = any(each["fault"] is None for each in seen["x509_authorities"]) or bool(seen["jwt_authorities"])
    return YES if usable else NO


def _seen(bundle: Bundle, whose: TrustDomain | None, now: datetime) -> dict[str, Any]:
    hint = bundle.refresh_hint
    return {
        "trust_domain": None if whose is None else str(whose),
        "sequence": bundle.sequence,
        "refresh_hint_s": None if hint is None else hint // timedelta(seconds=1),
        "x509_authorities": [_authority(each, whose, now) for each in bundle.x509_authorities],
        "jwt_authorities": [{"key_id": name, "key": _kind(key)} for name, key in bundle.jwt_authorities.items()],
        "ignored": list(bundle.ignored),
    }


def _authority(certificate: x509.Certificate, whose: TrustDomain | None, now: datetime) -> dict[str, Any]:
    return {
        "subject": certificate.subject.rfc4514_string(),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "not_before": f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "fault": _fault(certificate, whose, now),
    }


def _fault(certificate: x509.Certificate, whose: TrustDomain | None, now: datetime) -> str | None:
    """Say why an authority proves nothing now, or give None."""
    if whose is not None:
        try:
            require_signing_certificate(certificate, whose)
        except SigningCertificateError as error:
            return str(error)
    if now < certificate.not_valid_before_utc:
        return "it is not valid yet"
    return "it has expired" if now > certificate.not_valid_after_utc else None


def _kind(key: PublicKey) -> str:
    return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else key_members(key)["crv"]


def _pretty(seen: dict[str, Any]) -> str:
    lines = [
        f"{name.replace('_', ' '):<16}{seen[name]}"
        for name in ("trust_domain", "sequence", "refresh_hint_s")
        if seen[name] is not None
    ]
    for each in seen["x509_authorities"]:
        lines.append(f"x509 authority  {quoted(each['subject'])} until {each['not_after']}  sha256 {each['sha256']}")
        lines += [f"                but {each['fault']}"] if each["fault"] else []
    lines += [f"jwt authority   {quoted(each['key_id'])} {each['key']}" for each in seen["jwt_authorities"]]
    lines += [f"ignored         {each}" for each in seen["ignored"]]
    if not seen["x509_authorities"] and not seen["jwt_authorities"]:
        lines.append("no keys: every SVID of the trust domain is untrusted")
    return "\n".join(lines)


def _set(given: argparse.Namespace) -> int:
    whose = trust_domain_of(given.trust_domain)
    if whose is None:
        raise UsageError("--trust-domain is empty")
    try:
        bundle = _judged(bundle_from(_source(given.source), whose), revoke=given.revoke)
        with replacing_public_file(given.file, max_bytes=MAX_BUNDLE_BYTES) as (before, write):
            bundle = _following(bundle, None if before is None else bundle_from(before, whose))
            write(_written(bundle, Path(given.file)))
    except (BundleError, OversizedFileError) as error:
        print(f"{given.file}: {error}", file=sys.stderr)
        return NO
    for each in bundle.ignored:
        print(f"ignored: {each}", file=sys.stderr)
    said = "" if bundle.sequence is None else f", sequence {bundle.sequence}"
    kinds = f"{len(bundle.x509_authorities)} X.509 authorities, {len(bundle.jwt_authorities)} JWT keys"
    print(f"{given.file}: {kinds} of {whose}{said}")
    return YES


def _source(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(MAX_BUNDLE_BYTES + 1)
    return read_public_file(name, max_bytes=MAX_BUNDLE_BYTES)


def _judged(bundle: Bundle, *, revoke: bool) -> Bundle:
    """Give the bundle without what cannot sign; raises BundleError where that would silently end all trust."""
    usable, faults = [], list(bundle.ignored)
    for authority in bundle.x509_authorities:
        try:
            require_signing_certificate(authority, bundle.trust_domain)
            usable.append(authority)
        except SigningCertificateError as error:
            faults.append(str(error))
    judged = replace(bundle, x509_authorities=tuple(usable), ignored=tuple(faults))
    if revoke and not bundle.is_empty:
        raise BundleError("the new bundle has keys, which --revoke does not expect")
    if not revoke and judged.is_empty:
        why = "; ".join(faults) or "it has no keys"
        raise BundleError(f"nothing of the new bundle proves anything ({why}); --revoke ends all trust")
    return judged


def _following(bundle: Bundle, before: Bundle | None) -> Bundle:
    """Give the bundle as the one that follows `before` (Trust Domain and Bundle 4.1.1); raises BundleError."""
    if before is None or before.sequence is None:
        return bundle
    same = (bundle.x509_authorities, bundle.jwt_authorities) == (before.x509_authorities, before.jwt_authorities)
    if bundle.sequence is None:
        return replace(bundle, sequence=before.sequence + (0 if same else 1))
    if bundle.sequence < before.sequence:
        raise BundleError(f"the new bundle is older: its sequence is {bundle.sequence}, not above {before.sequence}")
    if bundle.sequence == before.sequence and not same:
        raise BundleError(f"the new bundle has other keys under the same sequence {before.sequence}")
    return bundle


def _written(bundle: Bundle, path: Path) -> bytes:
    if path.suffix != ".pem":
        return bundle.to_json()
    if bundle.jwt_authorities:
        raise BundleError("PEM has no place for keys of JWT-SVIDs; name the file .json")
    return bundle.x509_pem
