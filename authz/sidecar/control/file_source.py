"""Files as the source of an identity that is passed on: DIR/svid.pem with key.pem, and the bundles beside them.

They are looked at every second and read whole when something in the directory was replaced. A reading between two
replacements is noticed, because a key that is not the certificate's is refused: the next look reads again.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.identity.errors import IdentityError
from authz.identity.held_svid import MAX_KEY_BYTES, HeldSvid
from authz.identity.trust import Trust
from authz.identity.x509_chain import chain_from_pem
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES, x509_svid_from_der
from authz.proxy.spec import KEY_FILE, SVID_FILE
from authz.sidecar.control.trust_files import TrustFiles
from authz.sidecar.errors import SidecarError
from authz.svid_files import read_public_file
from authz.workload_api.received import ReceivedX509

if TYPE_CHECKING:
    from authz.identity.spiffe_id import TrustDomain

_FILES: Final = (SVID_FILE, KEY_FILE)


class FileSource:
    """One directory, whose SVID is to be presented by others: by Envoy, or from other files."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._bundles = TrustFiles(directory, own=self._own, last=Trust.of(()))
        self._seen: tuple[object, Trust] | None = None

    def look(self) -> ReceivedX509 | None:
        """Read the files where they are others than before, else None; raises SidecarError where they are no good."""
        trust = self._bundles.read() if self._seen is None else self._bundles()
        seen = ([_facts(self._directory / name) for name in _FILES], trust)
        if seen == self._seen:
            return None
        received = self._read(trust)
        self._seen = seen
        return received

    def _chain(self) -> tuple[bytes, ...]:
        at = self._directory / SVID_FILE
        try:
            return chain_from_pem(read_public_file(at, max_bytes=MAX_CERTIFICATE_BYTES))
        except IdentityError as error:
            raise SidecarError(f"{at}: {error}") from error
        except AuthzError as error:
            raise SidecarError(str(error)) from error

    def _own(self) -> TrustDomain:
        try:
            return x509_svid_from_der(self._chain()[0]).spiffe_id.trust_domain
        except IdentityError as error:
            raise SidecarError(f"{self._directory / SVID_FILE}: {error}") from error

    def _read(self, trust: Trust) -> ReceivedX509:
        at = self._directory / SVID_FILE
        try:
            chain = self._chain()
            at = self._directory / KEY_FILE
            key = read_public_file(at, max_bytes=MAX_KEY_BYTES)
            held = HeldSvid.of(chain, key, trust, datetime.now(UTC))
        except IdentityError as error:
            raise SidecarError(f"{at}: {error}") from error
        except AuthzError as error:
            raise SidecarError(str(error)) from error
        return ReceivedX509(svids=(held,), trust=trust)


def _facts(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 links are followed: what they lead to counts
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
