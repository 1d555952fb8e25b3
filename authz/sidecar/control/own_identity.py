"""The workload's own identity: from the SVID that its Envoy presents, or what its Service document says.

With `--identity files:DIR` it is the leaf of DIR/svid.pem, read again when that file is replaced. Without a source
it is the Service's first exact identity in the set in force; it has no certificate then, and no end.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.identity.errors import IdentityError
from authz.identity.verification import VerifiedIdentity
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES, x509_svid_from_pem
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from authz.identity.spiffe_id import TrustDomain
    from authz.policy.index import PolicyIndex
    from authz.sidecar.in_force import InForce

FILE_NAME: Final = "svid.pem"
#: how long a reading of the file's facts is good for
_LOOK_S: Final = 1.0
_FOREVER_NS: Final = 2**63 - 1


class ServiceIdentity:
    """The first exact identity of the Service in the set in force."""

    def __init__(self, *, service: str, in_force: InForce) -> None:
        self._service = service
        self._in_force = in_force
        self._found: tuple[PolicyIndex | None, VerifiedIdentity | None] = (None, None)

    def __call__(self) -> VerifiedIdentity | None:
        """Give the identity, None where the set has no such Service or no exact identity of it; one object a set."""
        index = self._in_force.policy.index
        found = self._found
        if found[0] is not index:
            found = self._found = (index, None if index is None else self._identity(index))
        return found[1]

    def _identity(self, index: PolicyIndex) -> VerifiedIdentity | None:
        identity = index.service_identity(self._service)
        if identity is None:
            return None
        return VerifiedIdentity(spiffe_id=identity, serial="", not_before_ns=0, not_after_ns=_FOREVER_NS)


class FileIdentity:
    """The identity in DIR/svid.pem; a file that cannot be read leaves the last one, which ends at its notAfter."""

    def __init__(self, directory: str) -> None:
        self._path = Path(directory, FILE_NAME)
        self._facts: tuple[int, int] | None = None
        self._identity: VerifiedIdentity | None = None
        self._looked_s = -_LOOK_S

    def read(self) -> VerifiedIdentity:
        """Read the file now; raises SidecarError where it holds no X.509-SVID."""
        try:
            with self._path.open("rb") as file:
                facts = os.fstat(file.fileno())
                svid = x509_svid_from_pem(file.read(MAX_CERTIFICATE_BYTES + 1))
        except OSError as error:
            raise SidecarError(f"{self._path}: the SVID cannot be read: {error.strerror}") from error
        except IdentityError as error:
            raise SidecarError(f"{self._path}: {error}") from error
        self._facts = (facts.st_ino, facts.st_mtime_ns)
        self._identity = VerifiedIdentity(
            spiffe_id=svid.spiffe_id,
            serial=svid.serial,
            not_before_ns=svid.not_before_ns,
            not_after_ns=svid.not_after_ns,
        )
        return self._identity

    def trust_domain(self) -> TrustDomain:
        """Give the trust domain of the identity as it is now; it has been read before."""
        identity = self() or self.read()
        return identity.spiffe_id.trust_domain

    def __call__(self) -> VerifiedIdentity | None:
        """Give the identity as the file had it at most a second ago."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            # What cannot be read leaves the last identity until its notAfter, which every call is held against.
            with contextlib.suppress(OSError, SidecarError):
                facts = self._path.stat()
                if (facts.st_ino, facts.st_mtime_ns) != self._facts:
                    self.read()
        return self._identity
