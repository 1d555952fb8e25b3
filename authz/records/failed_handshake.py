"""A connection that ended before it was anybody's: what is written down of a TLS handshake that failed.

It is written as a decision record, so that whoever reads decisions finds it among them: inbound, denied, without a
method and a path, because no request was made. Beside the contract's keys it has one more:

    "handshake": {"failure": str, "claimed": spiffe id | null, "count": int}

`claimed` is what a certificate says that nobody has proven: it is no identity, and `caller.identity` stays null.
`count` is 1, or in a record that stands for more of the same (:mod:`authz.records.handshake_allowance`) how many more.

Envoy's words are kept, but for what surrounds each of them, where :data:`_PLAIN` has none that people understand. They
hold what the peer sent in some cases: everything is cut, and JSON in ASCII keeps control characters inside the line.

The reason is the closest one of the language's closed list (policy language, "Decision", step 2):

    untrusted       a certificate that none of the authorities signed that are trusted for its trust domain, or whose
                    trust domain has none
    unidentified    everything else: no certificate, one that is out of its time or no SVID, no TLS, no TLS 1.3, one
                    that was broken off
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.decision import Reason
from authz.instant import rfc3339_from_ns

if TYPE_CHECKING:
    from authz.identity.spiffe_id import SpiffeId

#: Of Envoy's words; its longest are about 150 characters.
MAX_FAILURE_CHARS: Final = 256
#: Of what Envoy says; several errors of the TLS library may stand in a row.
_MOST_READ_CHARS: Final = 2048
#: An IPv6 address with a zone and a port has less than 80 characters; a unix socket's path 108.
MAX_ADDRESS_CHARS: Final = 128

#: What Envoy says -> what is written; the first one that is found
_PLAIN: Final = (
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "no client certificate"),
    ("HTTP_REQUEST", "http without tls"),
    ("HTTPS_PROXY_REQUEST", "a proxy request without tls"),
    ("UNSUPPORTED_PROTOCOL", "no tls version in common"),
    ("WRONG_VERSION_NUMBER", "no tls"),
    ("transport socket timeout was reached", "the handshake took too long"),
    ("Connection reset by peer", "the connection was reset in the handshake"),
)
_UNPROVEN: Final = "certificate not proven: "
#: What stands before the words of the validator.
_VERIFICATION: Final = re.compile(
    r"CERTIFICATE_VERIFY_FAILED:(?:verify cert failed: )?"
    r"(?:X509_verify_cert: )?(?:certificate verification error at depth [0-9]+: )?"
)
#: The ends of Envoy's text, and before each error of the TLS library its number and where it was noticed.
_WRAPPING: Final = re.compile(r"TLS_error:\|?|:TLS_error_end|[0-9]+:[A-Za-z0-9 .]+:OPENSSL_internal:")
_NO_BUNDLE: Final = "no trust bundle store"
#: The TLS library's words for a chain that does not lead to an authority that is trusted.
_UNTRUSTED: Final = (
    "unable to get local issuer certificate",
    "unable to get issuer certificate",
    "unable to verify the first certificate",
    "self-signed certificate",
    "self signed certificate",
    "certificate signature failure",
    "invalid CA certificate",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedHandshake:
    """One connection: where it came from (`ip:port`) and what is written of its failure.

    `tls_version` and `tls_cipher` are None where none were agreed; `claimed` is the one SPIFFE ID in a certificate that
    was shown and not proven.
    """

    time_ns: int
    address: str
    failure: str
    reason: Reason
    claimed: SpiffeId | None = None
    tls_version: str | None = None
    tls_cipher: str | None = None

    @property
    def host(self) -> str:
        """The address without its port."""
        host, colon, port = self.address.rpartition(":")
        return host if colon and port.isdecimal() else self.address


def plain_failure(said: str, claimed: SpiffeId | None) -> tuple[str, Reason]:
    """Give what is written of Envoy's words for a failure, and the reason; any text gives both.

    `claimed` tells a certificate of an unknown trust domain from one that names none.
    """
    if "CERTIFICATE_VERIFY_FAILED" in said:
        *_, why = _VERIFICATION.split(_unwrapped(said), maxsplit=1)
        if why == _NO_BUNDLE and claimed is None:
            return _UNPROVEN + "no spiffe id of a trust domain that has a bundle", Reason.UNIDENTIFIED
        if why == _NO_BUNDLE:
            return _UNPROVEN + "its trust domain has no bundle", Reason.UNTRUSTED
        untrusted = any(words in why for words in _UNTRUSTED)
        return _cut(_UNPROVEN + why), Reason.UNTRUSTED if untrusted else Reason.UNIDENTIFIED
    for words, plain in _PLAIN:
        if words in said:
            return plain, Reason.UNIDENTIFIED
    return _cut(_unwrapped(said)) or "the handshake failed", Reason.UNIDENTIFIED


def handshake_line(
    handshake: FailedHandshake, *, decision_id: str, sidecar: str, revision: str, count: int = 1
) -> bytes:
    """Give the record as one line of JSON in ASCII, its line end included; `count` says how many it stands for.

    A record that stands for more of the same has the address without a port.
    """
    record = {
        "decision_id": decision_id,
        "request_id": None,
        "time": rfc3339_from_ns(handshake.time_ns),
        "sidecar": sidecar,
        "direction": "inbound",
        "caller": {
            "identity": None,
            "service": None,
            "third_party": None,
            "presented_by": None,
            "address": handshake.address[:MAX_ADDRESS_CHARS],
        },
        "destination": {"service": sidecar, "third_party": None, "host": ""},
        "method": "",
        "route": None,
        "path": None,
        "protocol": None,
        "decision": handshake.reason.verdict.value,
        "reason": handshake.reason.value,
        "policy": None,
        "shadow": None,
        "revision": revision,
        "valid_until": None,
        "tls": {"version": handshake.tls_version, "cipher": handshake.tls_cipher, "peer_serial": None},
        "check_us": 0,
        "status": None,
        "bytes_received": None,
        "bytes_sent": None,
        "duration_ms": None,
        "cut": False,
        "handshake": {
            "failure": _cut(handshake.failure),
            "claimed": None if handshake.claimed is None else str(handshake.claimed),
            "count": count,
        },
    }
    return (json.dumps(record, separators=(",", ":")) + "\n").encode("ascii")


def _unwrapped(said: str) -> str:
    return _WRAPPING.sub("", said[:_MOST_READ_CHARS])


def _cut(text: str) -> str:
    return text if len(text) <= MAX_FAILURE_CHARS else text[: MAX_FAILURE_CHARS - 1] + "…"
