"""What a bundle endpoint proves itself by: certificate and key from files, or the SVID of whoever serves it.

Either is asked for at every connection, so that a renewed one is used from the next connection on. Files are read again
when they are others than before; what cannot be read leaves the pair before in use, and is logged once.

# INVARIANT (no key in words): nothing here puts a key, or a part of one, into a message.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import TYPE_CHECKING, Final, Protocol

from authz.errors import AuthzError
from authz.federation.endpoint_tls import CIPHERS
from authz.federation.errors import FederationError
from authz.svid_files import read_public_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz.identity.authority import IssuedSvid

_log = logging.getLogger(__name__)

#: A chain of ten RSA-4096 certificates has 25 KiB in PEM; a key has 3 KiB.
MAX_PEM_BYTES: Final = 64 * 1024


class EndpointCertificate(Protocol):
    """Gives the TLS of a server, as it is to be for the next connection."""

    def __call__(self) -> ssl.SSLContext:
        """Give it; raises FederationError where there is none."""
        ...


class CertificateFiles:
    """`https_web`: a PEM chain and its PEM key (one file may hold both), looked at before each connection."""

    def __init__(self, certificate: Path, key: Path | None = None) -> None:
        self._certificate, self._key = certificate, key or certificate
        self._facts: tuple[object, ...] | None = None
        self._context: ssl.SSLContext | None = None
        self._error: str | None = None

    def __call__(self) -> ssl.SSLContext:
        """Give the TLS that proves what the files hold now, else what they held before."""
        facts = (_facts(self._certificate), _facts(self._key))
        if facts != self._facts:
            self._facts = facts
            self._read()
        if self._context is None:
            raise FederationError(self._error or f"{self._certificate}: no certificate")
        return self._context

    def _read(self) -> None:
        try:
            chain = read_public_file(self._certificate, max_bytes=MAX_PEM_BYTES)
            key = chain if self._key == self._certificate else read_public_file(self._key, max_bytes=MAX_PEM_BYTES)
            self._context, self._error = _server_context(chain, key, shown=str(self._certificate)), None
        except AuthzError as error:
            self._error = str(error)
            _log.error("the certificate of the bundle endpoint cannot be used: %s", error)


class SvidCertificate:
    """`https_spiffe`: the SVID that `current` gives, a valid one at any time (SPIFFE Federation 5.2.2.3)."""

    def __init__(self, current: Callable[[], IssuedSvid]) -> None:
        self._current = current
        self._svid: IssuedSvid | None = None
        self._context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        """Give the TLS that proves the SVID of now."""
        svid = self._current()
        if self._context is None or svid is not self._svid:
            self._context = _server_context(svid.certificate_pem, svid.key_pem, shown="the endpoint's SVID")
            self._svid = svid
        return self._context


def _server_context(chain: bytes, key: bytes, *, shown: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # SPIFFE Federation 5.2: Mozilla's intermediate compatibility.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # 5.2.1.3, 5.2.2.3: servers MUST NOT require client authentication.
    context.verify_mode = ssl.CERT_NONE
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    try:
        with _InMemory(chain) as chain_path, _InMemory(key) as key_path:
            # Without a way to ask for a password, an encrypted key would be asked for on the terminal.
            context.load_cert_chain(chain_path, key_path, password=_no_password)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError; its text is OpenSSL's, and names no key
        raise FederationError(f"{shown}: no certificate with its unencrypted key, in PEM") from exc
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


class _InMemory:
    """A file that is in no directory: OpenSSL reads keys by path only, and no key is written anywhere for that."""

    def __init__(self, content: bytes) -> None:
        self._descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        os.write(self._descriptor, content)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _facts(path: Path) -> tuple[int, ...] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
