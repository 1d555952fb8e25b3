"""Whom the sidecar trusts, in shared memory: control writes the bundles, workers read them.

The content is a SPIFFE bundle document for each trust domain, in a page that nobody waits for (`shared_page`).

# INVARIANT (no bundle, no trust): before the first write nobody is trusted; a bundle that finds no room, or that cannot
# be read, is left out with its trust domain. No bundle stays that was withdrawn because another one was too large.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from authz.identity.bundle import MAX_BUNDLE_BYTES, BundleError, bundle_from_json
from authz.identity.spiffe_id import SpiffeIdError, TrustDomain
from authz.identity.trust import Trust
from authz.sidecar.shared_page import SharedPage

if TYPE_CHECKING:
    import mmap

    from authz.identity.bundle import Bundle

#: before each bundle: how long its trust domain's name is, and how long its document
_LENGTHS: Final = struct.Struct(">HI")
#: A larger bundle could not be read again.
LONGEST_ENTRY_BYTES: Final = MAX_BUNDLE_BYTES
_NOBODY: Final = Trust.of(())


class TrustPage:
    """The page; `write` in control, call it in workers."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._page = SharedPage(memory)
        self._trust = _NOBODY

    def write(self, trust: Trust) -> tuple[TrustDomain, ...]:
        """Put these bundles into the page; gives the trust domains whose bundles found no room, and are not trusted.

        The smallest find room first: who makes a bundle large harms nobody but its own trust domain. A page that says
        the same already is left alone, so that what workers remember stays good.
        """
        room = self._page.room
        entries = sorted((len(entry), bundle.trust_domain, entry) for bundle in trust for entry in [_entry(bundle)])
        content = bytearray()
        left_out = []
        for size, trust_domain, entry in entries:
            if size <= LONGEST_ENTRY_BYTES and len(content) + size <= room:
                content += entry
            else:
                left_out.append(trust_domain)
        self._page.put(bytes(content))
        return tuple(sorted(left_out))

    def __call__(self) -> Trust:
        """Give the bundles that were written last: the same object until others are."""
        content = self._page.changed()
        if content is not None:
            self._trust = _trust(content)
        return self._trust


def _entry(bundle: Bundle) -> bytes:
    name, document = bundle.trust_domain.name.encode(), bundle.to_json()
    return _LENGTHS.pack(len(name), len(document)) + name + document


def _trust(content: bytes) -> Trust:
    """Read what a writer has put together; whatever cannot be read is not trusted."""
    bundles = {}
    at = 0
    while at + _LENGTHS.size <= len(content):
        name_bytes, document_bytes = _LENGTHS.unpack_from(content, at)
        name_at = at + _LENGTHS.size
        document_at = name_at + name_bytes
        at = document_at + document_bytes
        try:
            trust_domain = TrustDomain.parse(content[name_at:document_at].decode("latin-1"))
            bundles[trust_domain] = bundle_from_json(content[document_at:at], trust_domain)
        except (SpiffeIdError, BundleError):
            continue
    return Trust(bundles)
