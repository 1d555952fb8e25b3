"""A container engine (Docker, podman) over its Docker-compatible API on a unix socket: only read, and never waited for.

Paths carry no version: the engine then answers in its own, and what is read here has the same form in all of them.

# INVARIANT (bounded): an answer has a size and a time within which it must have come; so many are asked for at once.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

import aiohttp

from authz.issuer.attestor.container_evidence import (
    MAX_DOCUMENT_BYTES,
    ContainerFacts,
    container_facts,
    container_ids,
    repository_digests,
)
from authz.issuer.errors import AttestationError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: an engine answers within milliseconds; one that builds images may take a second
PATIENCE_S: Final = 5.0
_AT_ONCE: Final = 8
_FOUND: Final = 200
_NOT_FOUND: Final = 404
#: a name in the URL that nobody resolves: the connector goes to the socket
_BASE: Final = "http://engine"


class ContainerEngine:
    """The engine whose API listens on `socket`."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def container(self, container_id: str) -> ContainerFacts | None:
        """Ask for a container by its whole id; None where the engine has none of it."""
        document = await self._asked(f"/containers/{container_id}/json")
        facts = None if document is None else container_facts(document)
        if facts is not None and facts.container_id != container_id:
            raise AttestationError("the container engine has told of another container than it was asked for")
        return facts

    async def running(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Ask for the ids of the running containers that have all these labels."""
        wanted = {"label": [f"{key}={value}" for key, value in labels.items()], "status": ["running"]}
        document = await self._asked("/containers/json", filters=json.dumps(wanted))
        return () if document is None else container_ids(document)

    async def digests(self, image_id: str) -> frozenset[str]:
        """Ask under which digests an image was pulled."""
        document = await self._asked(f"/images/{image_id}/json")
        return frozenset() if document is None else repository_digests(document)

    async def _asked(self, path: str, **query: str) -> bytes | None:
        try:
            async with asyncio.timeout(PATIENCE_S), self._at_once:
                return await self._answer(path, query)
        except TimeoutError as error:
            raise AttestationError(f"the container engine did not answer within {PATIENCE_S:.0f} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AttestationError(f"{self._socket}: the container engine cannot be asked") from error

    async def _answer(self, path: str, query: Mapping[str, str]) -> bytes | None:
        # Compressed answers are not asked for, and not taken: they could be any size.
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._socket), auto_decompress=False) as session,
            session.get(
                _BASE + path, params=query, allow_redirects=False, headers={"accept-encoding": "identity"}
            ) as response,
        ):
            if response.status == _NOT_FOUND:
                return None
            if response.status != _FOUND:
                raise AttestationError(f"the container engine answered {response.status}")
            document = bytearray()
            async for part in response.content.iter_any():
                document += part
                if len(document) > MAX_DOCUMENT_BYTES:
                    raise AttestationError(f"the container engine's answer has more than {MAX_DOCUMENT_BYTES} bytes")
            return bytes(document)
