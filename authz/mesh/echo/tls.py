"""The TLS of a stand-in: a certificate and a key from files, read again when they have changed.

Short-lived certificates are replaced while the app runs. Each new connection looks whether the files are still the
ones that were read; a pair that cannot be used (half replaced, say) leaves the one before in force, with one line on
standard error. No session is resumed, so every connection shows the certificate of its time.

TLS 1.2 is the oldest version spoken; `h2` and `http/1.1` are offered by ALPN (RFC 7301).
"""

from __future__ import annotations

import os
import ssl
import sys

from authz.mesh.errors import MeshError

_Stamp = tuple[tuple[int, int, int, int], ...]


class TlsFilesError(MeshError):
    """A certificate or key file cannot be used."""


class ServedCertificate:
    """The TLS context to listen with; it shows whatever certificate stands in the files."""

    def __init__(self, certificate_file: str, key_file: str) -> None:
        """Read the files; raises TlsFilesError where they cannot be used."""
        self._files = (certificate_file, key_file)
        self._stamp = self._stamp_of_files()
        self._current = self._load()
        self.listening_context = self._load()
        # The only place where a connection's certificate can be chosen before it is shown.
        self.listening_context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext) -> None:
        try:
            stamp = self._stamp_of_files()
            if stamp != self._stamp:
                # Also if loading fails: each state of the files is tried, and complained of, once.
                self._stamp = stamp
                self._current = self._load()
        except TlsFilesError as error:
            sys.stderr.write(f"{error}; the certificate before stays\n")
        connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.set_alpn_protocols(["h2", "http/1.1"])
        certificate_file, key_file = self._files
        try:
            # With a password, OpenSSL does not ask the terminal for one.
            context.load_cert_chain(certificate_file, key_file, password="")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TlsFilesError(f"{certificate_file}, {key_file}: no certificate and key to use: {reason}") from error
        return context

    def _stamp_of_files(self) -> _Stamp | None:
        try:
            stats = [os.stat(file) for file in self._files]  # noqa: PTH116 no Path is needed on each connection
        except OSError:
            return None  # loading says what is missing
        return tuple((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
