"""The SVID that a command shows a hub: from files, or from a Workload API; read anew for each question.

The hub has to show one of the same trust domain, proven by the bundle that comes with the SVID; its host's name proves
nothing. That is how a sidecar and its hub know each other (:mod:`authz.sidecar.control.hub_tls`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.errors import AuthzError, UsageError
from authz.policy.errors import printable

if TYPE_CHECKING:
    import argparse
    import ssl

    from authz.cli.arguments import CommandParser
    from authz.workload_api.received import ReceivedX509

#: SPIRE's agent answers within milliseconds; a person waits
PATIENCE_S: Final = 10.0
_SOURCES: Final = frozenset({"spire", "files"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HubIdentity:
    """Where the SVID is: `source` is spire or files, `place` a socket or a directory."""

    source: str
    place: str

    def context(self) -> ssl.SSLContext:
        """Give the TLS to a hub with the SVID as it is now; raises UsageError."""
        from authz.sidecar.control.file_source import FileSource  # noqa: PLC0415 only what is needed is imported
        from authz.sidecar.control.hub_tls import hub_context  # noqa: PLC0415 same

        shown = f"--identity: {self.source}:{printable(self.place)}"
        try:
            received = FileSource(self.place).look() if self.source == "files" else asyncio.run(_first(self.place))
            if received is None:
                raise UsageError("there is no SVID")
            return hub_context(received.svids[0], received.trust)
        except AuthzError as error:
            raise UsageError(f"{shown}: {printable(str(error))}") from error


def add_identity(parser: CommandParser) -> None:
    """Add `--identity`."""
    parser.add_flag(
        "--identity",
        metavar="spire:SOCKET|files:DIR",
        help="show the hub the SVID of a SPIFFE Workload API at this socket, or DIR/svid.pem and key.pem; https only",
    )


def hub_identity(given: argparse.Namespace) -> HubIdentity | None:
    """Give the identity that was named, None where none was; raises UsageError."""
    if given.identity is None:
        return None
    source, _, place = given.identity.partition(":")
    if source not in _SOURCES or not place:
        raise UsageError(f"--identity `{printable(given.identity)}`: give spire:SOCKET or files:DIR")
    return HubIdentity(source=source, place=place)


async def _first(endpoint: str) -> ReceivedX509:
    """Give what a Workload API says first."""
    from authz.workload_api.client import WorkloadApiClient  # noqa: PLC0415 as above

    told = _Told(asyncio.get_running_loop().create_future())
    client = WorkloadApiClient(endpoint)
    following = asyncio.ensure_future(client.follow_x509(told))
    try:
        waited: set[asyncio.Future[Any]] = {following, told.first}
        await asyncio.wait(waited, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if told.first.done():
            return told.first.result()
        if following.done():
            following.result()
        raise UsageError(told.why or f"no answer within {PATIENCE_S:.0f} s")
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class _Told:
    """Keeps what a Workload API says first, and why it said nothing."""

    def __init__(self, first: asyncio.Future[ReceivedX509]) -> None:
        self.first = first
        self.why = ""

    def received(self, value: ReceivedX509) -> None:
        if not self.first.done():
            self.first.set_result(value)

    def withdrawn(self, why: str) -> None:
        self._failed(why)

    def faulty(self, why: str) -> None:
        self._failed(why)

    def _failed(self, why: str) -> None:
        self.why = why
        if not self.first.done():
            # Who asks by hand is told at once; a source that starts is asked again by hand.
            self.first.set_exception(UsageError(why))
