"""Bundles that were fetched, kept on disk, so that a restart while an endpoint is down changes nothing.

Each trust domain has a file of its own, so that a damaged one costs that domain alone. A copy belongs to one
relationship: it says which endpoint it came from, and which file the operator had given by then, and is none for any
other. Federation that has ended leaves nothing behind (SPIFFE Federation 6.3).

# INVARIANT (ended is ended): once `retain` has returned, no copy of a trust domain that it did not name is on disk or
# comes to be, whatever was under way.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import logging
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from authz.errors import AuthzError
from authz.federation.errors import FederationError
from authz.federation.relationship import Relationship
from authz.identity.bundle import MAX_BUNDLE_BYTES, bundle_from_json
from authz.svid_files import read_public_file

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from authz.federation.relationship import Endpoint
    from authz.identity.bundle import Bundle
    from authz.identity.spiffe_id import TrustDomain

_log = logging.getLogger(__name__)

FOLDER: Final = "federated-bundles"
_SUFFIX: Final = ".json"
#: a file's name has 255 bytes at most, and so has a trust domain's; a longer one than this goes by its digest
_MAX_NAME_CHARACTERS: Final = 128
#: the document in base64, and what stands around it
MAX_KEPT_BYTES: Final = MAX_BUNDLE_BYTES * 4 // 3 + 8 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBundle:
    """A bundle as an endpoint gave it: `document` are its bytes, `file_digest` is the operator's file of that time."""

    bundle: Bundle
    document: bytes
    endpoint: Endpoint
    file_digest: str | None
    fetched: datetime


class KeptBundles:
    """The copies in STATE/federated-bundles; may be used from several threads at once."""

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER
        self._lock = threading.Lock()
        self._retained: frozenset[TrustDomain] = frozenset()

    def retain(self, trust_domains: Collection[TrustDomain]) -> None:
        """Delete the copies of all other trust domains, and keep none of theirs from now on."""
        with self._lock:
            self._retained = frozenset(trust_domains)
            names = {_name(each) for each in trust_domains}
            try:
                found = os.listdir(self._folder)  # noqa: PTH208 names alone
            except FileNotFoundError:
                return
            except OSError as error:
                raise FederationError(f"{self._folder}: {(error.strerror or str(error)).lower()}") from error
            for name in found:
                if name not in names:
                    self._unlink(name)

    def keep(self, kept: KeptBundle) -> None:
        """Keep a bundle in place of the one before, unless its federation has ended; raises FederationError.

        What cannot be kept takes the copy before away, too: an older bundle does not come back by a restart.
        """
        trust_domain = kept.bundle.trust_domain
        with self._lock:
            if trust_domain not in self._retained:
                return
            name = _name(trust_domain)
            try:
                self._replace(name, _content(kept))
            except OSError as error:
                with contextlib.suppress(FederationError):
                    self._unlink(name)
                raise FederationError(
                    f"{self._folder / name}: cannot be written: {(error.strerror or str(error)).lower()}"
                ) from error

    def kept(self, trust_domain: TrustDomain) -> KeptBundle | None:
        """Give the copy of a trust domain's bundle, None where there is none that can be read."""
        path = self._folder / _name(trust_domain)
        if not path.exists():
            return None
        try:
            return kept_bundle(read_public_file(path, max_bytes=MAX_KEPT_BYTES), trust_domain)
        except AuthzError as error:
            _log.warning("the bundle of `%s` that was kept cannot be used: %s", trust_domain, error)
            return None

    def _replace(self, name: str, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft, path = self._folder / f"{name}.draft", self._folder / name
        draft.unlink(missing_ok=True)  # of a writer that was killed
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        self._sync_folder()

    def _unlink(self, name: str) -> None:
        path = self._folder / name
        try:
            path.unlink(missing_ok=True)
            self._sync_folder()
        except OSError as error:
            raise FederationError(f"{path}: cannot be deleted: {(error.strerror or str(error)).lower()}") from error

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def kept_bundle(content: bytes, trust_domain: TrustDomain) -> KeptBundle:
    """Read a copy; raises FederationError for anything else than what was kept of this trust domain."""
    if len(content) > MAX_KEPT_BYTES:
        raise FederationError(f"a kept bundle has at most {MAX_KEPT_BYTES} bytes, not {len(content)}")
    try:
        fields: dict[str, Any] = json.loads(content)
        relationship = Relationship.from_fields(
            {name: _text(fields[name]) for name in ("trust_domain", "url", "server") if fields[name] is not None}
        )
        document = base64.b64decode(_text(fields["document"]), validate=True)
        fetched = datetime.fromisoformat(_text(fields["fetched"]))
        file_digest = None if fields["file_digest"] is None else _text(fields["file_digest"])
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as exc:
        raise FederationError("not a bundle that was kept") from exc
    except AuthzError as exc:
        raise FederationError(f"not a bundle that was kept: {exc}") from exc
    # INVARIANT (one name, one bundle): SPIFFE Federation 7.3.
    if relationship.trust_domain != trust_domain or relationship.endpoint is None:
        raise FederationError("not a bundle that was kept of this trust domain")
    if fetched.tzinfo is None:
        raise FederationError("not a bundle that was kept: its time has no offset")
    try:
        bundle = bundle_from_json(document, trust_domain)
    except AuthzError as exc:
        raise FederationError(str(exc)) from exc
    return KeptBundle(
        bundle=bundle,
        document=document,
        endpoint=relationship.endpoint,
        file_digest=file_digest,
        fetched=fetched.astimezone(UTC),
    )


def _content(kept: KeptBundle) -> bytes:
    server = kept.endpoint.server
    fields = {
        "trust_domain": kept.bundle.trust_domain.name,
        "url": kept.endpoint.url,
        "server": None if server is None else str(server),
        "file_digest": kept.file_digest,
        "fetched": kept.fetched.isoformat(),
        "document": base64.b64encode(kept.document).decode(),
    }
    return json.dumps(fields).encode()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _name(trust_domain: TrustDomain) -> str:
    name = trust_domain.name
    if len(name) > _MAX_NAME_CHARACTERS:
        # `+` is in no trust domain, so a digest is nobody's name.
        name = f"sha256+{hashlib.sha256(name.encode()).hexdigest()}"
    return f"{name}{_SUFFIX}"
