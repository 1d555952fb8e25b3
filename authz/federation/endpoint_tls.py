"""How the server of a bundle endpoint proves itself, before a byte is asked of it.

`https_web`: a certificate of an authority that this machine trusts, for the host of the URL. `https_spiffe`: an
X.509-SVID for exactly the SPIFFE ID that was configured, whatever the host is called, verified by the bundle that is
known of that ID's trust domain. Neither ever stands in for the other (SPIFFE Federation 7.2).

# INVARIANT (two verifiers): with `https_spiffe` the handshake ends well only if OpenSSL finds a path to the bundle's
# authorities *and* `verify_x509_svid` finds that the same chain is an X.509-SVID. The stricter one decides.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md (5.2.1.4, 5.2.2.4)
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from authz.errors import AuthzError
from authz.federation.errors import FederationError
from authz.identity.x509_chain import verify_x509_svid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from authz.identity.spiffe_id import SpiffeId
    from authz.identity.trust import Trust

#: SPIFFE Federation 5.2: Mozilla's intermediate compatibility, which begins with TLS 1.2 and forward secrecy.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: a reason to refuse a certificate is shown; more of it than this floods a log
_MAX_REASON_CHARACTERS: Final = 300


def web_context(roots: Path | None) -> ssl.SSLContext:
    """Give the TLS of `https_web`; `roots` is a PEM file of authorities in place of the machine's own."""
    try:
        context = ssl.create_default_context(cafile=None if roots is None else str(roots))
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise FederationError(f"{roots or 'the authorities of this machine'}: cannot be read") from exc
    return _hardened(context)


def spiffe_context(server: SpiffeId, trust: Trust) -> ssl.SSLContext:
    """Give the TLS of `https_spiffe`; `trust` holds the bundle known last of the trust domain of `server`."""
    bundle = trust.bundle(server.trust_domain)
    if bundle is None:
        raise FederationError(f"no bundle of `{server.trust_domain}` is known, by which its server could be verified")
    if not bundle.x509_authorities:
        raise FederationError(f"the bundle of `{server.trust_domain}` has no authority for X.509-SVIDs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The name of the host proves nothing here and is not asked for; the SPIFFE ID is, below.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # Whatever stands in the bundle is an authority, self-signed or not (X509-SVID 6.1).
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=bundle.x509_der)
    except (OSError, ValueError) as exc:
        raise FederationError(f"the bundle of `{server.trust_domain}` cannot be used") from exc
    context.sslobject_class = _handshake_with(server, trust)
    return _hardened(context)


def require_server(chain: Sequence[bytes], server: SpiffeId, trust: Trust, now: datetime) -> None:
    """Raise AuthzError unless a chain (DER, leaf first) is a valid X.509-SVID of exactly this SPIFFE ID."""
    svid = verify_x509_svid(chain, trust, now)
    if svid.spiffe_id != server:
        raise FederationError(f"the server is `{svid.spiffe_id}`, and not `{server}`")


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    return context


def _handshake_with(server: SpiffeId, trust: Trust) -> type[ssl.SSLObject]:
    """Make the kind of connection whose handshake fails unless it is with `server`."""

    class HandshakeWithServer(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            try:
                require_server(presented_chain(self), server, trust, datetime.now(UTC))
            except AuthzError as exc:
                # asyncio takes a handshake for failed by this class alone; the number is OpenSSL's SSL_ERROR_SSL.
                reason = str(exc)[:_MAX_REASON_CHARACTERS]
                raise ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, reason) from exc

    return HandshakeWithServer


def presented_chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """Give what the server presented, in DER, leaf first."""
    # Python 3.13 has this as a method of its own; before, only the object that it wraps has it.
    public: Any = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return tuple(public())
    wrapped: Any = connection._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 see above
    presented = wrapped.get_unverified_chain() or ()
    return tuple(ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in presented)
