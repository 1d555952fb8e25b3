"""`authz svid verify`: whom a chain of certificates or a token proves, by one bundle, at one instant."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from authz.cli.arguments import NO, YES, Subcommands
from authz.errors import UsageError
from authz.identity.bundle import MAX_BUNDLE_BYTES, Bundle, bundle_from_json, bundle_from_pem
from authz.identity.errors import IdentityError
from authz.identity.jwt_svid import MAX_TOKEN_BYTES, claims_of, verify_jwt_svid
from authz.identity.spiffe_id import SpiffeIdError, TrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_chain import chain_from_pem, verify_x509_svid
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES, x509_svid_from_der
from authz.instant import rfc3339_from_ns
from authz.policy.errors import PolicyError
from authz.policy.window import parse_instant_ns
from authz.svid_files import OversizedFileError, read_public_file

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DESCRIPTION = """\
Verify an X.509-SVID or a JWT-SVID against a trust bundle, by the rules of the SPIFFE standards.

Prints the SPIFFE ID that is proven, with exit status 0; or says on standard error which rule is broken, with exit
status 1. The bundle is taken for the SVID's own trust domain, unless --trust-domain says whose it is: then an SVID of
another trust domain is not proven.
"""


def add_verify(commands: Subcommands) -> None:
    """Add `svid verify`."""
    parser = commands.add(
        "verify",
        _verify,
        summary="verify an X.509-SVID or a JWT-SVID against a trust bundle; exit status 1 if it proves nothing",
        example="authz svid verify --chain svids/orders/svid.pem --bundle svids/orders/bundle.pem",
    )
    parser.description = _DESCRIPTION
    parser.add_flag("--chain", metavar="FILE", help="PEM certificates, the leaf first")
    parser.add_flag("--token", metavar="JWT", help="a JWT-SVID; - reads it from standard input")
    parser.add_flag(
        "--bundle",
        required=True,
        metavar="FILE",
        help="a SPIFFE bundle document (JSON), or for --chain authorities in PEM",
    )
    parser.add_flag("--audience", metavar="NAME", help="with --token: who we are; the token must be meant for it")
    parser.add_flag("--trust-domain", metavar="NAME", help="whose bundle it is; default: the SVID's own trust domain")
    parser.add_flag("--at", metavar="TIME", help="when, as RFC 3339 with an offset; default: now")
    parser.add_argument("-o", dest="output", choices=["pretty", "json"], default="pretty", help="default: pretty")


def _verify(given: argparse.Namespace) -> int:
    if (given.chain is None) == (given.token is None):
        raise UsageError("give one of --chain and --token (see `authz svid verify --help`)")
    if (given.token is None) != (given.audience is None):
        raise UsageError("--audience belongs to --token, which needs it: a token is for somebody")
    if given.audience == "":
        raise UsageError("--audience is empty, which nobody is")
    whose = trust_domain_of(given.trust_domain)
    at_ns = _instant_of(given.at)
    try:
        proven = _chain(given, whose, at_ns) if given.token is None else _token(given, whose, at_ns)
    except (IdentityError, OversizedFileError) as error:
        # Not proven is an answer, and so is what is too broken or too large to prove anything.
        print(json.dumps({"error": str(error)}) if given.output == "json" else f"not proven: {error}", file=sys.stderr)
        return NO
    print(json.dumps(proven) if given.output == "json" else proven["spiffe_id"])
    return YES


def trust_domain_of(name: str | None) -> TrustDomain | None:
    """Read `--trust-domain`; raises UsageError."""
    try:
        return None if name is None else TrustDomain.parse(name)
    except SpiffeIdError as error:
        raise UsageError(f"--trust-domain: {error}") from error


def _instant_of(text: str | None) -> int:
    try:
        return time.time_ns() if text is None else parse_instant_ns(text)
    except PolicyError as error:
        raise UsageError(f"--at: {error}") from error


def _chain(given: argparse.Namespace, whose: TrustDomain | None, at_ns: int) -> dict[str, Any]:
    chain = chain_from_pem(read_public_file(given.chain, max_bytes=MAX_CERTIFICATE_BYTES))
    claimed = x509_svid_from_der(chain[0]).spiffe_id.trust_domain
    bundle = read_bundle(given.bundle, whose or claimed)
    now = _EPOCH + timedelta(microseconds=at_ns // 1000)
    svid = verify_x509_svid(chain, Trust.of([bundle]), now)
    return {
        "spiffe_id": str(svid.spiffe_id),
        "kind": "x509-svid",
        "serial": svid.serial,
        "not_before": rfc3339_from_ns(svid.not_before_ns),
        "not_after": rfc3339_from_ns(svid.not_after_ns),
    }


def _token(given: argparse.Namespace, whose: TrustDomain | None, at_ns: int) -> dict[str, Any]:
    token = read_token() if given.token == "-" else given.token  # noqa: S105 standard input
    claimed = claims_of(token).spiffe_id.trust_domain
    bundle = read_bundle(given.bundle, whose or claimed, reader=bundle_from_json)
    svid = verify_jwt_svid(token, Trust.of([bundle]), given.audience, at_ns)
    return {
        "spiffe_id": str(svid.spiffe_id),
        "kind": "jwt-svid",
        "key_id": svid.key_id,
        "audience": list(svid.audience),
        "expires": rfc3339_from_ns(svid.expires_ns),
    }


def read_token() -> bytes:
    """Read a token from standard input, without the line end that a shell puts behind it."""
    return sys.stdin.buffer.read(MAX_TOKEN_BYTES + 2).removesuffix(b"\n").removesuffix(b"\r")


def read_bundle(
    path: str, trust_domain: TrustDomain, *, reader: Callable[[bytes, TrustDomain], Bundle] | None = None
) -> Bundle:
    """Read a bundle from a file; raises BundleError. Without a `reader`, what begins with `{` is JSON, else PEM."""
    return bundle_from(read_public_file(path, max_bytes=MAX_BUNDLE_BYTES), trust_domain, reader=reader)


def bundle_from(
    content: bytes, trust_domain: TrustDomain, *, reader: Callable[[bytes, TrustDomain], Bundle] | None = None
) -> Bundle:
    """Read a bundle; raises BundleError. Without a `reader`, what begins with `{` is JSON, else PEM."""
    if reader is None:
        reader = bundle_from_json if content.lstrip(b" \t\r\n")[:1] == b"{" else bundle_from_pem
    return reader(content, trust_domain)
