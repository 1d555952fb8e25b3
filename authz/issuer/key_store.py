"""The authorities' private keys on disk: one file a trust domain, whole or not at all, for nobody else.

# INVARIANT (private from the start): directory 0700, files 0600 from their creation on; what others can read or write
is not used.
# INVARIANT (one issuer): an exclusive lock on the directory, held as long as the store is open.
# INVARIANT (on disk): what `keep` has returned from survives kill -9 and the loss of power; what it was interrupted in
leaves the state of before.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final

from authz.identity.authority_state import MAX_STATE_BYTES, authority_from_json, authority_to_json
from authz.identity.errors import AuthorityError
from authz.issuer.errors import IssuerError

if TYPE_CHECKING:
    from pathlib import Path

    from authz.identity.authority_rotation import RotatingAuthority, RotationPlan
    from authz.identity.spiffe_id import TrustDomain

_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_LONGEST_NAME: Final = 200
_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class KeyStore:
    """A directory of kept authorities; made if it is absent, locked until :meth:`close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise IssuerError(f"{directory}: the state folder cannot be used: {error.strerror}") from error
        found = os.fstat(self._fd)
        if found.st_uid != os.geteuid() or found.st_mode & _FOR_OTHERS:
            os.close(self._fd)
            raise IssuerError(
                f"{directory}: holds private keys and is open to others; chmod 700 it, or give another folder"
            )
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise IssuerError(f"{directory}: another issuer uses this state folder; stop it first") from error

    def close(self) -> None:
        """Give the directory to the next issuer."""
        os.close(self._fd)

    def kept(self, trust_domain: TrustDomain, plan: RotationPlan) -> RotatingAuthority | None:
        """Give what is kept of a trust domain, None if nothing is; raises IssuerError where it cannot be used."""
        position = self._directory / _name(trust_domain)
        try:
            file_fd = os.open(
                _name(trust_domain), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IssuerError(f"{position}: {error.strerror}") from error
        with os.fdopen(file_fd, "rb") as file:
            found = os.fstat(file_fd)
            if not stat.S_ISREG(found.st_mode) or found.st_mode & _FOR_OTHERS or found.st_uid != os.geteuid():
                raise IssuerError(f"{position}: others can read this private key, so it is not used")
            document = file.read(MAX_STATE_BYTES + 1)
        try:
            authority = authority_from_json(document, plan)
        except AuthorityError as exc:
            raise IssuerError(f"{position}: {exc}; move it away to begin with a new authority") from exc
        if authority.trust_domain != trust_domain:
            raise IssuerError(f"{position}: holds the authority of `{authority.trust_domain}`")
        return authority

    def keep(self, authority: RotatingAuthority) -> None:
        """Put an authority in the place of what was kept of its trust domain; on disk when this returns."""
        name = _name(authority.trust_domain)
        draft = f"{name}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=self._fd)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(draft, flags, _FILE_MODE, dir_fd=self._fd), "wb") as file:
                file.write(authority_to_json(authority))
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            os.fsync(self._fd)
        except OSError as error:
            raise IssuerError(f"{self._directory / name}: cannot be written: {error.strerror}") from error


def _name(trust_domain: TrustDomain) -> str:
    # A trust domain's name has no slash, so it is a file's name; the longest ones leave no room for the ending.
    name = trust_domain.name
    if len(name) > _LONGEST_NAME:
        name = hashlib.sha256(name.encode("ascii")).hexdigest()
    return f"{name}.authority.json"
