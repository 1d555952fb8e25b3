"""The hub's TLS: its own X.509-SVID, and who asks by theirs.

From a Workload API (`spire:SOCKET`), which tells of every change, or from files:

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
import os
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
from authz.workload_api.client import WorkloadApiClient
from authz.workload_api.errors import WorkloadApiError

if TYPE_CHECKING:
    from authz.identity.bundle import Bundle
    from authz.identity.spiffe_id import SpiffeId
    from authz.workload_api.received import ReceivedX509

_log = logging.getLogger(__name__)

#: half of an SVID's life is minutes at least
LOOK_S: Final = 5.0
#: a bundle of a hundred authorities
MAX_BUNDLE_BYTES: Final = 1024 * 1024
_READERS: Final = {".pem": bundle_from_pem, ".json": bundle_from_json}


class HubTls:
    """What the hub shows, and whom it believes; `context` stays the same object, whatever is replaced."""

    def __init__(self, *, directory: str | None = None, workload_api: str | None = None) -> None:
        """Take the source, one of the two; raises HubError or WorkloadApiError where it can be none."""
        self._directory = None if directory is None else Path(directory)
        self._client = None if workload_api is None else WorkloadApiClient(workload_api)
        self._chains: WeakKeyDictionary[ssl.SSLObject, tuple[bytes, ...]] = WeakKeyDictionary()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_ciphers(CIPHERS)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        # Whatever stands in a bundle is an authority, self-signed or not (X509-SVID 6.1).
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._trust = Trust.of(())
        self._why = ""
        self.ready = asyncio.Event()

    async def follow(self) -> None:
        """Take the SVID and whatever replaces it, until cancelled; `ready` is set with the first.

        Raises HubError where the files are no good at first, or the Workload API refuses for good.
        """
        if self._client is None:
            await self._follow_files()
            return
        try:
            await self._client.follow_x509(self)
        except WorkloadApiError as error:
            raise HubError(f"--identity: {error}") from error

    def received(self, value: ReceivedX509) -> None:
        """Take what a Workload API says: its first SVID is the default one (Workload API 5.3)."""
        try:
            self._use(value.svids[0], value.trust)
        except (OSError, ValueError) as error:
            self.faulty(f"the SVID cannot be used: {error}")
            return
        if self._why:
            _log.info("the Workload API answers again")
            self._why = ""

    def withdrawn(self, why: str) -> None:
        """Go on with what there is: who calls sees an SVID that ends."""
        self.faulty(why)

    def faulty(self, why: str) -> None:
        """Say once that nothing new is known."""
        if why != self._why:
            self._why = why
            _log.error("--identity: %s; %s", why, "what is known is used" if self.ready.is_set() else "asks again")

    async def _follow_files(self) -> None:
        directory = self._directory or Path()
        seen = _facts(directory)
        self._read(directory)
        while True:
            await asyncio.sleep(LOOK_S)
            facts = _facts(directory)
            if facts == seen:
                continue
            try:
                self._read(directory)
            except HubError as error:
                _log.error("%s; what was there before stays in use", error)
            seen = facts

    def identity(self, connection: ssl.SSLObject, now: datetime) -> SpiffeId | None:
        """Give whom a client has proven to be, None where it showed no certificate; raises AuthzError."""
        chain = self._chains.get(connection)
        if chain is None:
            # Asked once: the chain of a server's connection grows by the leaf each time that it is asked for.
            shown = connection.getpeercert(binary_form=True) is not None
            chain = self._chains[connection] = presented_chain(connection) if shown else ()
        return verify_x509_svid(chain, self._trust, now).spiffe_id if chain else None

    def _read(self, at: Path) -> None:
        try:
            chain = chain_from_pem(read_public_file(at / SVID_FILE, max_bytes=MAX_CERTIFICATE_BYTES))
            own = x509_svid_from_der(chain[0]).spiffe_id.trust_domain
            trust = Trust.of(_bundles(at, own))
            key = read_public_file(at / KEY_FILE, max_bytes=MAX_KEY_BYTES)
            self._use(HeldSvid.of(chain, key, trust, datetime.now(UTC)), trust)
        except (OSError, ValueError) as error:
            raise HubError(f"--identity: {at}: {getattr(error, 'strerror', None) or error}") from error
        except AuthzError as error:
            raise HubError(f"--identity: {at}: {error}") from error

    def _use(self, held: HeldSvid, trust: Trust) -> None:
        """Show this SVID, and believe these bundles, from now on."""
        # OpenSSL reads chain and key from a file, and these are in memory only.
        descriptor = os.memfd_create("svid", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(held.certificate_pem + held.key_pem)
            self.context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
        finally:
            os.close(descriptor)
        for bundle in trust:
            if bundle.x509_authorities:
                self.context.load_verify_locations(cadata=bundle.x509_der)
        self._trust = trust
        self.ready.set()


def _bundles(directory: Path, own: TrustDomain) -> list[Bundle]:
    found: dict[TrustDomain, Bundle] = {}
    # Where there are both, the document says more: it is read last.
    for suffix, reader in _READERS.items():
        for path in sorted(directory.glob(f"bundle*{suffix}")):
            name = path.stem.removeprefix("bundle").removeprefix(".")
            trust_domain = TrustDomain.parse(name) if name else own
            found[trust_domain] = reader(read_public_file(path, max_bytes=MAX_BUNDLE_BYTES), trust_domain)
    if not found:
        raise HubError("there is no bundle.pem and no bundle.json, which say whom to believe")
    return list(found.values())


def _facts(directory: Path) -> list[tuple[str, int, int]]:
    facts = []
    for path in sorted(directory.glob("*")):
        try:
            status = path.stat()
        except OSError:
            continue
        facts.append((path.name, status.st_ino, status.st_mtime_ns))
    return facts


def now() -> datetime:
    """Give the time by which certificates are judged."""
    return datetime.now(UTC)
