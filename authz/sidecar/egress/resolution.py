"""What names resolve to, by this machine's own resolver, without ever waiting for it in the loop.

A name is absolute: the resolver's search list plays no part, so `api.acme.example` never becomes
`api.acme.example.svc.cluster.local`. Look-ups of one name at a time are one look-up; what it found is used again for a
moment, for calls that come many at once. How long a name's owner wants it to be kept is not known here (getaddrinfo
does not say), and is never exceeded by more than that moment.

# INVARIANT (bounded): look-ups under way and remembered names are limited; beyond it a call is refused, not queued.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.egress.networks import IpAddress

    Addresses = tuple[IpAddress, ...]

#: what was found serves so long
FRESH_S: Final = 2.0
#: a call waits so long for a name; less than Envoy waits for us (authz.proxy.address_filter.ADDRESS_TIMEOUT)
PATIENCE_S: Final = 4.0
#: each takes a thread, which a resolver that is down may hold for half a minute (resolv.conf(5))
MOST_LOOKUPS: Final = 64
MOST_REMEMBERED: Final = 1024
#: of one answer; RFC 1035 4.2.1 leaves room for 30 in a datagram, and no more are looked at
MOST_ADDRESSES: Final = 256


class ResolutionError(SidecarError):
    """A name has no address now; the text says why."""


class NameResolution:
    """Resolves names for the loop that it is used in; `lookup` blocks, and runs in threads of its own."""

    def __init__(self, lookup: Callable[[str], Addresses] | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self._lookup = system_addresses if lookup is None else lookup
        self._patience_s = patience_s
        self._under_way: dict[str, asyncio.Future[Addresses]] = {}
        self._found: dict[str, tuple[float, Addresses]] = {}

    async def addresses(self, name: str) -> Addresses:
        """Give the addresses of a name, all of them, at least one; raises ResolutionError."""
        found = self._found.get(name)
        if found is not None and time.monotonic() - found[0] < FRESH_S:
            return found[1]
        under_way = self._under_way.get(name)
        if under_way is None:
            if len(self._under_way) >= MOST_LOOKUPS:
                raise ResolutionError(f"`{name}`: {MOST_LOOKUPS} names are being resolved, and none more is begun")
            under_way = self._begin(name)
        try:
            return await asyncio.wait_for(asyncio.shield(under_way), self._patience_s)
        except TimeoutError as error:
            raise ResolutionError(f"`{name}`: the resolver has not answered within {self._patience_s:.0f} s") from error

    def _begin(self, name: str) -> asyncio.Future[Addresses]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Addresses] = loop.create_future()
        # Nobody may be waiting any more when it fails.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._under_way[name] = future

        def work() -> None:
            found: Addresses | ResolutionError
            try:
                found = self._lookup(name)
            except ResolutionError as error:
                found = error
            except Exception as error:  # noqa: BLE001 the edge of a thread: whoever waits is told
                found = ResolutionError(f"`{name}`: a fault of the program: {type(error).__name__}: {error}")
            try:
                loop.call_soon_threadsafe(self._end, name, found)
            except RuntimeError:  # the loop has ended, and nobody waits
                return

        # A daemon: a resolver that hangs must not hold up the end of the process, as a pool's threads would.
        threading.Thread(target=work, name="resolver", daemon=True).start()
        return future

    def _end(self, name: str, found: Addresses | ResolutionError) -> None:
        future = self._under_way.pop(name)
        if isinstance(found, ResolutionError):
            future.set_exception(found)
            return
        if len(self._found) >= MOST_REMEMBERED:
            self._found.clear()
        self._found[name] = time.monotonic(), found
        future.set_result(found)


def system_addresses(name: str) -> Addresses:
    """Ask this machine's resolver (nsswitch.conf(5)); blocks. Raises ResolutionError."""
    try:
        # Bytes are taken as they are, and the dot at the end makes the name absolute.
        infos = socket.getaddrinfo(name.encode("ascii") + b".", None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ResolutionError(f"`{name}` cannot be resolved: {error.strerror}") from error
    except ValueError as error:
        raise ResolutionError(f"`{name}` is no name that can be resolved") from error
    texts = dict.fromkeys(str(info[4][0]) for info in infos)
    if not texts or len(texts) > MOST_ADDRESSES:
        raise ResolutionError(f"`{name}` has {len(texts)} addresses")
    return tuple(ipaddress.ip_address(text) for text in texts)
