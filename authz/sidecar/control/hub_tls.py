"""TLS from a sidecar to its hub: both show an SVID, and the hub's is one of the sidecar's own trust domain.

# INVARIANT (two verifiers): the handshake ends well only if OpenSSL finds a path to the authorities of the own trust
# domain *and* `verify_x509_svid` finds that the same chain is an X.509-SVID of it. Host names prove nothing here.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from authz.errors import AuthzError
from authz.federation.endpoint_tls import presented_chain
from authz.identity.x509_chain import verify_x509_svid
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from authz.identity.held_svid import HeldSvid
    from authz.identity.spiffe_id import TrustDomain
    from authz.identity.trust import Trust


def hub_context(held: HeldSvid, trust: Trust) -> ssl.SSLContext:
    """Give the TLS to a hub for a sidecar that holds this SVID; raises SidecarError."""
    own = held.spiffe_id.trust_domain
    bundle = trust.bundle(own)
    if bundle is None or not bundle.x509_authorities:
        raise SidecarError(f"no bundle of `{own}` is known, by which its hub could be verified")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # Whatever stands in the bundle is an authority, self-signed or not (X509-SVID 6.1).
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=bundle.x509_der)
        _load(context, held)
    except (OSError, ValueError) as error:
        raise SidecarError("the sidecar's own SVID cannot be used to reach its hub") from error
    context.sslobject_class = _handshake_within(own, trust)
    return context


def _load(context: ssl.SSLContext, held: HeldSvid) -> None:
    """Give the context chain and key: OpenSSL reads them from a file, and this one is in memory only."""
    descriptor = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(held.certificate_pem + held.key_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    finally:
        os.close(descriptor)


def _handshake_within(own: TrustDomain, trust: Trust) -> type[ssl.SSLObject]:
    """Make the kind of connection whose handshake fails unless it is with an SVID of this trust domain."""

    class HandshakeWithHub(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            try:
                server = verify_x509_svid(presented_chain(self), trust, datetime.now(UTC)).spiffe_id
            except AuthzError as error:
                # asyncio takes a handshake for failed by this class alone; the number is OpenSSL's SSL_ERROR_SSL.
                raise ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, str(error)) from error
            if server.trust_domain != own:
                raise ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, f"the hub is `{server}`, not of `{own}`")

    return HandshakeWithHub
