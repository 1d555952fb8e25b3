"""Which identities are taken back: a SPIFFE ID, or one certificate by its serial number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy.errors import PolicyError, quoted

_SERIAL_PREFIX: Final = "serial:"
# RFC 5280 4.1.2.2: a serial number has at most 20 octets.
_SERIAL: Final = re.compile(r"[0-9a-fA-F]{1,40}")


class RevocationError(PolicyError):
    """A text is no entry of the Mesh's `revoked`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedSerial:
    """A certificate of a trust domain; `serial` is as :func:`canonical_serial` gives it."""

    trust_domain: TrustDomain
    serial: str

    def __str__(self) -> str:
        return f"{_SERIAL_PREFIX}{self.trust_domain.name}/{self.serial}"


Revocation: TypeAlias = SpiffeId | RevokedSerial


def canonical_serial(text: str) -> str:
    """Give a serial number in hex as it is compared: lower case, without leading zeros."""
    return text.lower().lstrip("0") or "0"


def parse_revocation(text: str) -> Revocation:
    """Read a SPIFFE ID or `serial:TRUSTDOMAIN/HEX`; raises RevocationError."""
    try:
        if not text.startswith(_SERIAL_PREFIX):
            revoked = SpiffeId.parse(text)
            if not revoked.path:
                raise RevocationError(f"{quoted(text)} is a trust domain; end its federation, or revoke its workloads")
            return revoked
        trust_domain, _, serial = text.removeprefix(_SERIAL_PREFIX).partition("/")
        if not _SERIAL.fullmatch(serial):
            raise RevocationError(f"{quoted(text)} is not `serial:TRUSTDOMAIN/HEX`, the serial number in hex digits")
        return RevokedSerial(trust_domain=TrustDomain.parse(trust_domain), serial=canonical_serial(serial))
    except IdentityError as error:
        hint = "" if text.startswith(("spiffe://", _SERIAL_PREFIX)) else "; or write `serial:TRUSTDOMAIN/HEX`"
        raise RevocationError(f"{error}{hint}") from error
