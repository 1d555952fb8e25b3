"""A rotating authority as a document: what is kept of it over a restart. A secret, for it holds the private keys.

    {"version": 1, "sequence": 1, "current": PEM, "prepared": PEM, "activates_at": RFC 3339,
     "retired": [{"root": PEM, "jwk": {...}, "not_after": RFC 3339}]}

# INVARIANT (whole or not at all): a document that breaks one rule is no authority, and the text says which rule, never
# what stands in the document.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz.identity.authority import Authority
from authz.identity.authority_rotation import MAX_RETIRED, RetiredAuthority, RotatingAuthority
from authz.identity.errors import AuthorityError, IdentityError
from authz.identity.json_document import JsonError, json_object
from authz.identity.public_key import PublicKeyError, key_from_members, key_members

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.identity.authority_rotation import RotationPlan

#: Two authorities of 2.5 KiB, and as many as may be retired with 7 KiB for an RSA-4096 root each.
MAX_STATE_BYTES: Final = 1024 * 1024
_VERSION: Final = 1


def authority_to_json(authority: RotatingAuthority) -> bytes:
    """Write all that there is, with the private keys."""
    document: dict[str, Any] = {
        "version": _VERSION,
        "sequence": authority.sequence,
        "current": authority.current.to_pem().decode("ascii"),
    }
    if authority.prepared is not None and authority.activates_at is not None:
        document["prepared"] = authority.prepared.to_pem().decode("ascii")
        document["activates_at"] = authority.activates_at.isoformat()
    document["retired"] = [_retired_entry(old) for old in authority.retired]
    return json.dumps(document, indent=1).encode("ascii") + b"\n"


def authority_from_json(document: bytes, plan: RotationPlan) -> RotatingAuthority:
    """Read what :func:`authority_to_json` wrote, to go on by this plan; raises AuthorityError."""
    if len(document) > MAX_STATE_BYTES:
        raise AuthorityError(f"a kept authority has at most {MAX_STATE_BYTES} bytes, not {len(document)}")
    try:
        return _rotating(json_object(document), plan)
    except AuthorityError:
        raise
    except KeyError as exc:
        raise AuthorityError(f"a kept authority lacks {exc}") from None
    except JsonError as exc:
        raise AuthorityError(f"not a kept authority: {exc}") from exc
    except (ValueError, TypeError, AttributeError, PublicKeyError, x509.InvalidVersion) as exc:
        # What these errors say may hold what stands in the document.
        raise AuthorityError(f"not a kept authority ({type(exc).__name__})") from None


def _rotating(members: Mapping[str, Any], plan: RotationPlan) -> RotatingAuthority:
    if members.get("version") != _VERSION:
        raise AuthorityError(f"a kept authority of another version than {_VERSION}")
    retired, sequence, prepared = members["retired"], members["sequence"], members.get("prepared")
    if not isinstance(retired, list) or len(retired) > MAX_RETIRED:
        raise AuthorityError(f"a kept authority has at most {MAX_RETIRED} retired ones, in an array")
    if not isinstance(sequence, int) or isinstance(sequence, bool) or not 0 <= sequence < 1 << 64:
        raise AuthorityError("a kept authority's `sequence` is a whole number of 64 bits")
    return RotatingAuthority(
        plan=plan,
        current=_authority(members["current"]),
        prepared=None if prepared is None else _authority(prepared),
        activates_at=None if prepared is None else _instant(members["activates_at"]),
        retired=tuple(_retired(entry) for entry in retired),
        sequence=sequence,
    )


def _retired_entry(old: RetiredAuthority) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "root": old.root.public_bytes(Encoding.PEM).decode("ascii"),
        "not_after": old.not_after.isoformat(),
    }
    if old.key is not None and old.key_id is not None:
        entry["jwk"] = {**key_members(old.key), "kid": old.key_id}
    return entry


def _retired(entry: Mapping[str, Any]) -> RetiredAuthority:
    jwk = entry.get("jwk")
    return RetiredAuthority(
        root=x509.load_pem_x509_certificate(_text(entry["root"]).encode("ascii")),
        key_id=None if jwk is None else _text(jwk["kid"]),
        key=None if jwk is None else key_from_members(jwk),
        not_after=_instant(entry["not_after"]),
    )


def _authority(pem: object) -> Authority:
    try:
        return Authority.from_pem(_text(pem).encode("ascii"))
    except IdentityError as exc:
        raise AuthorityError(str(exc)) from None


def _instant(text: object) -> datetime:
    instant = datetime.fromisoformat(_text(text))
    if instant.tzinfo is None:
        raise ValueError("an instant without an offset")
    return instant.astimezone(UTC)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
