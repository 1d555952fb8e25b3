"""Where the hub is, and how a sidecar proves itself to it: checked when the command line is read.

Over http only to this machine itself: whoever listens on the way would read who calls whom. Over https with the
sidecar's SVID, or with a token from a file; the hub proves itself by an SVID of the sidecar's own trust domain.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from yarl import URL

from authz.records.batch import PATH
from authz.sidecar.errors import SidecarError

MAX_URL_CHARS: Final = 2048
MAX_TOKEN_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAddress:
    """Where batches go."""

    url: URL

    @property
    def is_encrypted(self) -> bool:
        """Whether it is asked over TLS."""
        return self.url.scheme == "https"

    @property
    def batches(self) -> URL:
        """Where a batch is sent."""
        return self.url.with_path(self.url.path.rstrip("/") + PATH)


def hub_address(text: str) -> HubAddress:
    """Read a hub's URL; raises SidecarError."""
    shown = text[:120]
    if len(text) > MAX_URL_CHARS:
        raise SidecarError(f"`{shown}`: a URL has at most {MAX_URL_CHARS} characters")
    try:
        url = URL(text)
        host, port = url.host, url.port
    except ValueError as error:
        raise SidecarError(f"`{shown}`: give a URL such as https://hub.example:8443") from error
    if url.scheme not in {"http", "https"} or not host or not port or url.query_string or url.fragment or url.user:
        raise SidecarError(f"`{shown}`: give a URL such as https://hub.example:8443, without user, query and fragment")
    if url.scheme == "http" and not _is_loopback(host):
        raise SidecarError(f"`{shown}`: http reaches this machine's own loopback only; give https")
    return HubAddress(url=url)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
