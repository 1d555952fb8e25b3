"""The hub's TLS: its own X.509-SVID, and who asks by theirs.

    DIR/svid.pem key.pem    the hub's own; DIR/bundle.pem or bundle.json whom its trust domain trusts,
    DIR/bundle.NAME.pem     or bundle.NAME.json, of another trust domain

The files are looked at every few seconds; what is no good changes nothing. A client need not show a certificate: a
browser with a token has none.

# INVARIANT (two verifiers): a certificate that was shown has to satisfy OpenSSL in the handshake, and at each request
# `verify_x509_svid` with the bundle of its own trust domain as it is then. The stricter one decides.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from authz.errors import AuthzError
from authz.federation.endpoint_tls import CIPHERS, presented_chain
from authz.hub.errors import HubError
from authz.identity.bundle import bundle_from_json, bundle_from_pem
from authz.identity.held_svid import MAX_KEY_BYTES, HeldSvid
from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_chain import chain_from_pem, verify_x509_svid
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES, x509_svid_from_der
from authz.proxy.spec import KEY_FILE, SVID_FILE
from authz.svid_files import read_public_file

if TYPE_CHECKING:
    from authz.identity.bundle import Bundle
    from authz.identity.spiffe_id import SpiffeId

_log = logging.getLogger(__name__)

#: half of an SVID's life is minutes at least
LOOK_S: Final = 5.0
#: a bundle of a hundred authorities
MAX_BUNDLE_BYTES: Final = 1024 * 1024
_READERS: Final = {".pem": bundle_from_pem, ".json": bundle_from_json}


class HubTls:
    """What the hub shows, and whom it believes; `context` stays the same object, whatever is replaced."""

    def __init__(self, directory: str) -> None:
        """Read the files; raises HubError where they are no good."""
        self._directory = Path(directory)
        self._chains: WeakKeyDictionary[ssl.SSLObject, tuple[bytes, ...]] = WeakKeyDictionary()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_ciphers(CIPHERS)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        # Whatever stands in a bundle is an authority, self-signed or not (X509-SVID 6.1).
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._seen = self._facts()
        self._trust = self._read()

    async def follow(self) -> None:
        """Take what is replaced, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            facts = self._facts()
            if facts == self._seen:
                continue
            try:
                self._trust = self._read()
            except HubError as error:
                _log.error("%s; what was there before stays in use", error)
            self._seen = facts

    def identity(self, connection: ssl.SSLObject, now: datetime) -> SpiffeId | None:
        """Give whom a client has proven to be, None where it showed no certificate; raises AuthzError."""
        chain = self._chains.get(connection)
        if chain is None:
            # Asked once: the chain of a server's connection grows by the leaf each time that it is asked for.
            shown = connection.getpeercert(binary_form=True) is not None
            chain = self._chains[connection] = presented_chain(connection) if shown else ()
        return verify_x509_svid(chain, self._trust, now).spiffe_id if chain else None

    def _read(self) -> Trust:
        at = self._directory
        try:
            chain = chain_from_pem(read_public_file(at / SVID_FILE, max_bytes=MAX_CERTIFICATE_BYTES))
            own = x509_svid_from_der(chain[0]).spiffe_id.trust_domain
            trust = Trust.of(self._bundles(own))
            key = read_public_file(at / KEY_FILE, max_bytes=MAX_KEY_BYTES)
            HeldSvid.of(chain, key, trust, datetime.now(UTC))
            self.context.load_cert_chain(at / SVID_FILE, at / KEY_FILE)
            for bundle in trust:
                if bundle.x509_authorities:
                    self.context.load_verify_locations(cadata=bundle.x509_der)
        except (OSError, ValueError) as error:
            raise HubError(f"--identity: {at}: {getattr(error, 'strerror', None) or error}") from error
        except AuthzError as error:
            raise HubError(f"--identity: {at}: {error}") from error
        return trust

    def _bundles(self, own: TrustDomain) -> list[Bundle]:
        found: dict[TrustDomain, Bundle] = {}
        # Where there are both, the document says more: it is read last.
        for suffix, reader in _READERS.items():
            for path in sorted(self._directory.glob(f"bundle*{suffix}")):
                name = path.stem.removeprefix("bundle").removeprefix(".")
                trust_domain = TrustDomain.parse(name) if name else own
                found[trust_domain] = reader(read_public_file(path, max_bytes=MAX_BUNDLE_BYTES), trust_domain)
        if not found:
            raise HubError("there is no bundle.pem and no bundle.json, which say whom to believe")
        return list(found.values())

    def _facts(self) -> list[tuple[str, int, int]]:
        facts = []
        for path in sorted(self._directory.glob("*")):
            try:
                status = path.stat()
            except OSError:
                continue
            facts.append((path.name, status.st_ino, status.st_mtime_ns))
        return facts


def now() -> datetime:
    """Give the time by which certificates are judged."""
    return datetime.now(UTC)
