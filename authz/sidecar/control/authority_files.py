"""The files of authorities that vouch for callers without SPIFFE IDs, followed in control.

A relative file stands in the policy set's own folder, as the bundles of federated trust domains do; `instead` says
where one is read from in its place.

# INVARIANT (last good): a file that cannot be read leaves what it said before, and is complained about once. One that
has gone, or that no policy names any more, vouches for nobody from then on.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from authz.identity.named_authority import MAX_AUTHORITY_BYTES, NamedAuthorityError, named_authority
from authz.svid_files import SvidFilesError, read_public_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from authz.identity.named_authority import NamedAuthority

_log = logging.getLogger(__name__)

_Facts: TypeAlias = "tuple[int, int, int] | None"


class AuthorityFiles:
    """What the files say, by their names in the policies; `changed` is called with their texts after each change."""

    def __init__(
        self,
        folder: str,
        *,
        instead: Mapping[str, str],
        changed: Callable[[Mapping[str, bytes]], None] = lambda _: None,
    ) -> None:
        self._folder = Path(folder)
        self._instead = instead
        self._changed = changed
        self._names: tuple[str, ...] = ()
        self._facts: dict[str, _Facts] = {}
        self._texts: dict[str, bytes] = {}
        #: the same object until something changes
        self.authorities: Mapping[str, NamedAuthority] = {}
        self._told: dict[str, bytes] | None = None

    def configure(self, names: Iterable[str]) -> None:
        """Follow these files from now on, and no others."""
        self._names = tuple(names)
        for gone in self._facts.keys() - set(self._names):
            del self._facts[gone]
            self._texts.pop(gone, None)
        self.look()

    def look(self) -> None:
        """Read what has been replaced, and tell where it says something else than before."""
        for name in self._names:
            path = Path(self._instead[name]) if name in self._instead else self._folder / name
            facts = _facts(path)
            if name in self._facts and self._facts[name] == facts:
                continue
            # Noted before the file is read: one that is replaced meanwhile is read again at the next look.
            self._facts[name] = facts
            self._read(name, path, is_there=facts is not None)
        if self._texts != self._told:
            self._told = dict(self._texts)
            self.authorities = {name: named_authority(text) for name, text in self._told.items()}
            self._changed(self._told)

    def _read(self, name: str, path: Path, *, is_there: bool) -> None:
        if not is_there:
            self._texts.pop(name, None)
            _log.error("%s: the authority of `certificates` is not there: nobody is known by it", path)
            return
        try:
            text = read_public_file(path, max_bytes=MAX_AUTHORITY_BYTES)
            named_authority(text)
        except NamedAuthorityError as error:
            self._complain(name, f"{path}: {error}")
        except SvidFilesError as error:
            self._complain(name, str(error))
        else:
            self._texts[name] = text
            _log.info("%s: vouches for callers by their certificates", path)

    def _complain(self, name: str, fault: str) -> None:
        what_stays = "what it said before stays" if name in self._texts else "nobody is known by it"
        _log.error("%s; %s", fault, what_stays)


def _facts(path: Path) -> _Facts:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size
