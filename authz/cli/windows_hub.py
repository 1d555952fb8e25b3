"""Asks a hub who tried outside of windows: for commands that see the whole mesh and not one machine's decision logs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp

from authz.errors import AuthzError, UsageError
from authz.insight.hub_windows import MAX_ANSWER_BYTES, HubWindow, hub_windows
from authz.policy.errors import printable
from authz.window_watch.webhook import NotifyUrl

if TYPE_CHECKING:
    from authz.insight.attempt import WindowKind

#: a hub counts over what may be years
TIMEOUT_S: Final = 60.0


def windows_of_hub(url: str, token: str | None = None) -> dict[tuple[WindowKind, str], HubWindow]:
    """Give what a hub knows of windows, to whoever has this token; raises UsageError where it cannot be asked."""
    try:
        # The same holds for it as for a receiver of announcements: https, or this machine.
        asked = NotifyUrl.parse(f"{url.rstrip('/')}/api/v1/windows")
        return hub_windows(asyncio.run(_answer(asked.text, token)))
    except aiohttp.ClientConnectorError as error:
        raise UsageError(f"--hub: {printable(url)}: {(error.os_error.strerror or 'no connection').lower()}") from error
    except TimeoutError as error:
        raise UsageError(f"--hub: {printable(url)}: no answer within {TIMEOUT_S:.0f} s") from error
    except aiohttp.ClientError as error:
        raise UsageError(f"--hub: {printable(url)}: {type(error).__name__}") from error
    except AuthzError as error:
        raise UsageError(f"--hub: {printable(url)}: {error}") from error


async def _answer(url: str, token: str | None) -> bytes:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    headers = {"accept-encoding": "identity"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    async with (
        aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=False) as session,
        session.get(url, allow_redirects=False, headers=headers) as answer,
    ):
        if answer.status in {401, 403}:  # RFC 9110 15.5.2, 15.5.4
            whose = "needs a token: give --token-file" if token is None else "does not take the token for this"
            raise UsageError(f"it answers with status {answer.status}; it {whose}")
        if answer.status != 200:  # noqa: PLR2004 RFC 9110 15.3.1
            raise UsageError(f"it answers with status {answer.status}")
        parts: list[bytes] = []
        left_bytes = MAX_ANSWER_BYTES + 1
        async for part in answer.content.iter_any():
            parts.append(part[:left_bytes])
            left_bytes -= len(part)
            if left_bytes <= 0:
                break
        return b"".join(parts)
