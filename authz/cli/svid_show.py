"""`authz svid show`: what an X.509-SVID or a JWT-SVID says, which by itself proves nothing."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, TypeAlias

from authz.cli.arguments import NO, YES, Subcommands
from authz.cli.svid_verify import read_token
from authz.identity.errors import IdentityError, quoted
from authz.identity.jwt_svid import claims_of
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES, x509_svid_from_pem
from authz.instant import rfc3339_from_ns
from authz.svid_files import read_public_file

if TYPE_CHECKING:
    import argparse

_Seen: TypeAlias = "dict[str, str | bool | list[str] | None]"


def add_show(commands: Subcommands) -> None:
    """Add `svid show`."""
    parser = commands.add(
        "show",
        _show,
        summary="show whose SVID a file holds, and until when; exit status 1 if it is none, or not valid now",
        example="authz svid show svids/orders/svid.pem",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="PEM certificates, the leaf first, or a JWT-SVID (- reads one from standard input); never a private key",
    )
    parser.add_argument("-o", dest="output", choices=["pretty", "json"], help="default: pretty on a terminal")


def _show(given: argparse.Namespace) -> int:
    content = read_token() if given.file == "-" else read_public_file(given.file, max_bytes=MAX_CERTIFICATE_BYTES)
    pretty = sys.stdout.isatty() if given.output is None else given.output == "pretty"
    try:
        seen = _token(content.strip()) if content[:2] == b"ey" else _certificate(content)
    except IdentityError as error:
        print(f"{given.file}: {error}" if pretty else json.dumps({"error": str(error)}))
        return NO
    if pretty:
        print("\n".join(f"{name.replace('_', ' '):<10}  {_shown(value)}" for name, value in seen.items()))
    else:
        print(json.dumps(seen))
    return YES if seen["valid"] else NO


def _certificate(pem: bytes) -> _Seen:
    svid = x509_svid_from_pem(pem)
    return {
        "spiffe_id": str(svid.spiffe_id),
        "serial": svid.serial,
        "not_before": rfc3339_from_ns(svid.not_before_ns),
        "not_after": rfc3339_from_ns(svid.not_after_ns),
        "valid": svid.not_before_ns <= time.time_ns() <= svid.not_after_ns,
    }


def _token(token: bytes) -> _Seen:
    claims = claims_of(token)
    begins_ns = max(claims.not_before_ns or 0, claims.issued_ns or 0)
    return {
        "spiffe_id": str(claims.spiffe_id),
        "audience": list(claims.audience),
        "issued": None if claims.issued_ns is None else rfc3339_from_ns(claims.issued_ns),
        "expires": rfc3339_from_ns(claims.expires_ns),
        "valid": begins_ns <= time.time_ns() < claims.expires_ns,
    }


def _shown(value: str | bool | list[str] | None) -> str:  # noqa: FBT001 a value to print, no switch
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case _:
            return ", ".join(map(quoted, value))
