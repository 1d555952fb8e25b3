"""The bundles beside the SVID in a directory: whom a workload trusts that gets its identity as files.

That of the SVID's own trust domain is `bundle.json`, a SPIFFE bundle document, or where that is absent `bundle.pem`,
its X.509 authorities alone: no token is proven by them. Those of federated trust domains are
`bundle.<trust domain>.json` or `bundle.<trust domain>.pem`. The files are followed: one that has gone takes its trust
domain along.

# INVARIANT (last good): a file that cannot be read leaves the bundle that its trust domain had, and is complained about
# once; so does the own bundle's absence. Only a readable file, or a federated one that has gone, changes anything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from authz.identity.bundle import MAX_BUNDLE_BYTES, Bundle, BundleError, bundle_from_json, bundle_from_pem
from authz.identity.spiffe_id import SpiffeIdError, TrustDomain
from authz.identity.trust import Trust
from authz.sidecar.errors import SidecarError
from authz.svid_files import SvidFilesError, read_public_file

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_Facts: TypeAlias = tuple[int, int, int]
_Reader: TypeAlias = "Callable[[bytes, TrustDomain], Bundle]"
_PREFIX: Final = "bundle"
#: suffix -> who reads it; of two files of one trust domain the first of these counts
_READERS: Final[dict[str, _Reader]] = {".json": bundle_from_json, ".pem": bundle_from_pem}
#: a directory with more files that look like bundles is none of ours
MAX_FILES: Final = 1024
#: how long a look at the directory is good for
_LOOK_S: Final = 1.0


class TrustFiles:
    """The bundles in a directory, as they were at most a second ago.

    `own` says whose `bundle.json` is; `last` is what was trusted before, by another process that read the same files.
    """

    def __init__(self, directory: str, *, own: Callable[[], TrustDomain], last: Trust) -> None:
        self._directory = Path(directory)
        self._own = own
        self._facts: tuple[TrustDomain, dict[str, _Facts]] | None = None
        self._trust = last
        self._unlisted: str | None = None
        self._looked_s = -_LOOK_S

    def read(self) -> Trust:
        """Read the files now; raises SidecarError where there is no bundle of the own trust domain."""
        own = self._own()
        faults = self._read(own, self._files())
        if self._trust.bundle(own) is None:
            raise SidecarError(faults[0])
        for fault in faults:
            _log.error("%s", fault)
        return self._trust

    def __call__(self) -> Trust:
        """Give the bundles: the same object until a file has changed."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            try:
                self._follow()
            except SidecarError as error:
                if str(error) != self._unlisted:
                    self._unlisted = str(error)
                    _log.error("%s; what was trusted stays", error)
        return self._trust

    def _follow(self) -> None:
        own, files = self._own(), self._files()
        self._unlisted = None
        if (own, files) != self._facts:
            for fault in self._read(own, files):
                _log.error("%s", fault)

    def _files(self) -> dict[str, _Facts]:
        """Give the names of the files that may be bundles, with what changes when one of them is replaced."""
        found: dict[str, _Facts] = {}
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if not entry.name.startswith(f"{_PREFIX}.") or not entry.name.endswith(tuple(_READERS)):
                        continue
                    if len(found) == MAX_FILES:
                        raise SidecarError(f"{self._directory}: more than {MAX_FILES} bundles; leave the oldest out")
                    with contextlib.suppress(FileNotFoundError):  # a link whose file has gone: so has the bundle
                        facts = entry.stat()
                        found[entry.name] = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        except OSError as error:
            raise SidecarError(f"{self._directory}: the bundles cannot be listed: {error.strerror}") from error
        return found

    def _read(self, own: TrustDomain, files: dict[str, _Facts]) -> list[str]:
        """Take what can be read of these files, and say what cannot."""
        # Noted before a file is read: one that is replaced meanwhile is read again at the next look.
        self._facts = own, files
        faults: list[str] = []
        bundles: dict[TrustDomain, Bundle | None] = {}
        for suffix, reader in _READERS.items():
            for name in sorted(name for name in files if name.endswith(suffix)):
                path = self._directory / name
                try:
                    trust_domain = _trust_domain(name.removesuffix(suffix), own)
                except SpiffeIdError as error:
                    faults.append(f"{path}: its name stands for no trust domain: {error}")
                    continue
                if trust_domain not in bundles:
                    bundles[trust_domain] = self._bundle(path, reader, trust_domain, faults)
        if own not in bundles:
            faults.append(f"{self._directory}: there is no {_PREFIX}.json or {_PREFIX}.pem, the bundle of `{own}`")
            bundles[own] = self._trust.bundle(own)
        self._trust = Trust.of(bundle for bundle in bundles.values() if bundle is not None)
        return faults

    def _bundle(self, path: Path, reader: _Reader, trust_domain: TrustDomain, faults: list[str]) -> Bundle | None:
        """Read one file; where it cannot be read, give the last good bundle of its trust domain, if there is one."""
        try:
            return reader(read_public_file(path, max_bytes=MAX_BUNDLE_BYTES), trust_domain)
        except BundleError as error:
            faults.append(f"{path}: {error}")
        except SvidFilesError as error:
            faults.append(str(error))
        return self._trust.bundle(trust_domain)


def _trust_domain(stem: str, own: TrustDomain) -> TrustDomain:
    """Give the trust domain that `bundle` or `bundle.<trust domain>` stands for."""
    return own if stem == _PREFIX else TrustDomain.parse(stem.removeprefix(f"{_PREFIX}."))
