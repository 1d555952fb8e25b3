"""The authorities of callers without SPIFFE IDs, in shared memory: control writes what their files say, workers read.

The content is JSON: each file as the policies name it, and its PEM text.

# INVARIANT (no authority, no caller): before the first write nobody is vouched for; what finds no room, or cannot be
read, is left out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from authz.identity.named_authority import NamedAuthorityError, named_authority
from authz.sidecar.shared_page import SharedPage

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping

    from authz.identity.named_authority import NamedAuthority

_NOBODY: Final[Mapping[str, NamedAuthority]] = {}


class AuthorityPage:
    """The page; `write` in control, call it in workers."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._page = SharedPage(memory)
        self._authorities = _NOBODY

    def write(self, files: Mapping[str, bytes]) -> tuple[str, ...]:
        """Put the texts of these files into the page, the smallest first; gives the files that found no room."""
        taken: dict[str, str] = {}
        left_out = []
        for name in sorted(files, key=lambda name: (len(files[name]), name)):
            wanted = taken | {name: files[name].decode("latin-1")}
            if len(json.dumps(wanted)) <= self._page.room:
                taken = wanted
            else:
                left_out.append(name)
        self._page.put(json.dumps(taken).encode())
        return tuple(left_out)

    def __call__(self) -> Mapping[str, NamedAuthority]:
        """Give the authorities by their files: the same object until others are written."""
        content = self._page.changed()
        if content is not None:
            self._authorities = _authorities(content)
        return self._authorities


def _authorities(content: bytes) -> Mapping[str, NamedAuthority]:
    found = {}
    for name, text in json.loads(content).items():
        try:
            found[name] = named_authority(text.encode("latin-1"))
        except NamedAuthorityError:
            continue
    return found
