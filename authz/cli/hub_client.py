"""How commands ask a hub: which one, as whom, and what an answer may be.

The hub is the one that `--hub` names, else that of the mesh in `--state`, else what AUTHZ_HUB says.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from authz.cli.hub_token import add_token_file, hub_token
from authz.errors import AuthzError, UsageError
from authz.identity.json_document import JsonError, json_object
from authz.insight.hub_windows import MAX_ANSWER_BYTES
from authz.policy.errors import printable
from authz.window_watch.webhook import NotifyUrl

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from authz.cli.arguments import CommandParser

#: a hub counts over what may be years
TIMEOUT_S: Final = 60.0
#: of why a hub refuses, what a terminal is shown
_MAX_WHY_CHARS: Final = 300
_VARIABLE: Final = "AUTHZ_HUB"


class HubAnswerError(UsageError):
    """A hub cannot be asked, or has another answer than the one that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubClient:
    """A hub by its URL, and the token to show there."""

    url: str
    token: str | None

    def ask(self, path: str, query: Mapping[str, str | None] | None = None) -> dict[str, Any]:
        """Give the answer to a question of the API; raises HubAnswerError."""
        try:
            return json_object(self.content(path, query))
        except JsonError as error:
            raise self._error("it is no answer of a hub") from error

    def content(self, path: str, query: Mapping[str, str | None] | None = None) -> bytes:
        """Give the bytes of an answer; raises HubAnswerError."""
        wanted = {name: text for name, text in (query or {}).items() if text is not None}
        try:
            # The same holds for it as for a receiver of announcements: https, or this machine.
            asked = NotifyUrl.parse(f"{self.url.rstrip('/')}/api/v1{path}")
            status, content = asyncio.run(self._answer(asked.text, wanted))
        except aiohttp.ClientConnectorError as error:
            raise self._error((error.os_error.strerror or "no connection").lower()) from error
        except TimeoutError as error:
            raise self._error(f"no answer within {TIMEOUT_S:.0f} s") from error
        except aiohttp.ClientError as error:
            raise self._error(type(error).__name__) from error
        except AuthzError as error:
            raise self._error(str(error)) from error
        if status != 200:  # noqa: PLR2004 RFC 9110 15.3.1
            raise self._error(_said(status, content, with_token=self.token is not None))
        return content

    async def _answer(self, url: str, query: Mapping[str, str]) -> tuple[int, bytes]:
        headers = {"accept-encoding": "identity"}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=False) as session,
            session.get(url, params=query, allow_redirects=False, headers=headers) as answer,
        ):
            parts: list[bytes] = []
            left_bytes = MAX_ANSWER_BYTES
            async for part in answer.content.iter_any():
                left_bytes -= len(part)
                if left_bytes < 0:
                    raise self._error(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
                parts.append(part)
            return answer.status, b"".join(parts)

    def _error(self, why: str) -> HubAnswerError:
        return HubAnswerError(f"--hub: {printable(self.url)}: {printable(why)}")


def add_hub(parser: CommandParser) -> None:
    """Add which hub is asked, and as whom."""
    parser.add_argument(
        "--hub",
        metavar="URL",
        help=f"the hub to ask; default: that of the mesh in --state, else what {_VARIABLE} says [{_VARIABLE}]",
    )
    parser.add_flag("--state", metavar="DIR", help="the state directory of the mesh (default: .authz/mesh)")
    add_token_file(parser)


def hub_of(given: argparse.Namespace) -> HubClient:
    """Give the hub that the flags name; raises UsageError where they name none."""
    url = given.hub or mesh_hub(given.state) or os.environ.get(_VARIABLE)
    if not url:
        raise UsageError(f"--hub: name the hub; no mesh with one runs here, and {_VARIABLE} is not set")
    return HubClient(url=url, token=hub_token(given))


def mesh_hub(state: str | None) -> str | None:
    """Give the hub of the mesh that runs with a state directory, None where there is none."""
    from authz.mesh.state_directory import StateDirectory  # noqa: PLC0415 only what the command needs is imported

    directory = StateDirectory(state)
    if directory.supervisor() is None:
        return None
    read = directory.read()
    return None if read is None else read.hub


def _said(status: int, content: bytes, *, with_token: bool) -> str:
    try:
        why = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        why = None
    why = why[:_MAX_WHY_CHARS] if isinstance(why, str) else None
    if status in {401, 403}:  # RFC 9110 15.5.2, 15.5.4
        whose = "does not take the token for this" if with_token else "needs a token: give --token-file"
        return f"it answers with status {status}; it {whose}{f' ({why})' if why else ''}"
    return f"{why} (status {status})" if why else f"it answers with status {status}"
