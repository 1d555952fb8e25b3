"""How commands ask a hub: which one, as whom, and what an answer may be.

The hub is the one that `--hub` names, else that of the mesh in `--state`, else what AUTHZ_HUB says.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from authz.cli.hub_fault import hub_url, why_not_answered, why_not_reached
from authz.cli.hub_identity import HubIdentity, add_identity, hub_identity
from authz.cli.hub_token import add_token_file, hub_token
from authz.errors import UsageError
from authz.identity.json_document import JsonError, json_object
from authz.insight.hub_windows import MAX_ANSWER_BYTES
from authz.policy.errors import printable

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Mapping

    from yarl import URL

    from authz.cli.arguments import CommandParser

#: a hub counts over what may be years
TIMEOUT_S: Final = 60.0
_VARIABLE: Final = "AUTHZ_HUB"
#: RFC 6585 4, RFC 9110 15.6.3 to 15.6.5: ask again later
_AWAY: Final = frozenset({429, 502, 503, 504})


class HubAnswerError(UsageError):
    """A hub cannot be asked, or has another answer than the one that was asked for."""


class HubAwayError(HubAnswerError):
    """A hub cannot be asked at present: it begins anew, is too busy, or the way to it is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubClient:
    """A hub by its URL, what has named it, and what to show there: a token, an SVID, or neither."""

    url: str
    token: str | None = field(repr=False)
    named_by: str = "--hub"
    identity: HubIdentity | None = None
    timeout_s: float = TIMEOUT_S

    def ask(self, path: str, query: Mapping[str, str | None] | None = None) -> dict[str, Any]:
        """Give the answer to a question of the API; raises HubAnswerError."""
        try:
            return json_object(self.content(path, query))
        except JsonError as error:
            raise self.error("it is no answer of a hub: is the URL right?") from error

    def content(self, path: str, query: Mapping[str, str | None] | None = None) -> bytes:
        """Give the bytes of an answer; raises HubAnswerError."""
        wanted = {name: text for name, text in (query or {}).items() if text is not None}
        try:
            url = hub_url(self.url)
        except UsageError as error:
            raise self.error(str(error)) from error
        if self.identity is not None and url.scheme != "https":
            raise self.error("an SVID (--identity) is shown over https only: give https:// in place of http://")
        context = None if self.identity is None else self.identity.context()
        try:
            status, content = asyncio.run(self._answer(url.joinpath(f"api/v1{path}"), wanted, context))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise HubAwayError(self._named(why_not_reached(error, url, self.timeout_s))) from error
        if status in _AWAY:
            raise HubAwayError(self._named(why_not_answered(status, content, shown=self._shown())))
        if status != 200:  # noqa: PLR2004 RFC 9110 15.3.1
            raise self.error(why_not_answered(status, content, shown=self._shown()))
        return content

    def _shown(self) -> str | None:
        # A hub that is shown both goes by the token.
        if self.token is not None:
            return "the token"
        return None if self.identity is None else "the SVID of --identity"

    async def _answer(self, url: URL, query: Mapping[str, str], context: ssl.SSLContext | None) -> tuple[int, bytes]:
        headers = {"accept-encoding": "identity"}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=False) as session,
            session.get(url, params=query, allow_redirects=False, headers=headers, ssl=context or True) as answer,
        ):
            parts: list[bytes] = []
            left_bytes = MAX_ANSWER_BYTES
            async for part in answer.content.iter_any():
                left_bytes -= len(part)
                if left_bytes < 0:
                    raise self.error(f"its answer has more than {MAX_ANSWER_BYTES} bytes: ask for less")
                parts.append(part)
            return answer.status, b"".join(parts)

    def error(self, why: str) -> HubAnswerError:
        """Give the error that names this hub, and what has named it."""
        return HubAnswerError(self._named(why))

    def _named(self, why: str) -> str:
        return f"{self.named_by}: {printable(self.url)}: {printable(why)}"


def add_hub(parser: CommandParser) -> None:
    """Add which hub is asked, and as whom."""
    parser.add_argument(
        "--hub",
        metavar="URL",
        help=f"the hub to ask; default: that of the mesh in --state, else what {_VARIABLE} says [{_VARIABLE}]",
    )
    parser.add_flag("--state", metavar="DIR", help="the state directory of the mesh (default: .authz/mesh)")
    add_token_file(parser)
    add_identity(parser)


def hub_of(given: argparse.Namespace) -> HubClient:
    """Give the hub that the flags name; raises UsageError where they name none."""
    mesh = None if given.hub else mesh_hub(given.state)
    said = os.environ.get(_VARIABLE)
    named = {"--hub": given.hub, "the hub of the mesh": mesh, _VARIABLE: said}
    for named_by, url in named.items():
        if url:
            return HubClient(url=url, token=hub_token(given), named_by=named_by, identity=hub_identity(given))
    raise UsageError(
        "--hub: name the hub, such as http://127.0.0.1:8800: "
        f"no mesh with one runs in `{printable(_state(given.state))}` (--state; `authz mesh up` starts one), "
        f"and {_VARIABLE} is not set"
    )


def mesh_hub(state: str | None) -> str | None:
    """Give the hub of the mesh that runs with a state directory, None where there is none."""
    from authz.mesh.state_directory import StateDirectory  # noqa: PLC0415 only what the command needs is imported

    directory = StateDirectory(state)
    if directory.supervisor() is None:
        return None
    read = directory.read()
    return None if read is None else read.hub


def _state(state: str | None) -> str:
    from authz.mesh.state_directory import DEFAULT_STATE  # noqa: PLC0415 as above

    return state or DEFAULT_STATE
