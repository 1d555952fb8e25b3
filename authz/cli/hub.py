"""`authz hub`: collects what all sidecars record; JSON API and web page."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from authz.cli.arguments import YES
from authz.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from authz.cli.arguments import Subcommands

_MAX_PORT = 65_535


def add_commands(commands: Subcommands) -> None:
    """Add `hub`."""
    parser = commands.add(
        "hub",
        _hub,
        summary="take what all sidecars record, keep it, and show it: JSON API at /api/v1, web page at /",
        example="authz hub --data /var/lib/authz-hub --listen 127.0.0.1:8800 --policies policies",
    )
    parser.add_flag("--data", required=True, metavar="DIR", help="where it keeps what it is sent (mode 0700)")
    parser.add_flag("--listen", required=True, metavar="HOST:PORT", help="where it listens; port 0 takes a free one")
    parser.add_flag("--store", metavar="URL", help="clickhouse://HOST:PORT/DATABASE; default: SQLite in --data")
    parser.add_flag("--policies", metavar="DIR", help="the policy folder; it is followed, and its history is kept")
    parser.add_flag(
        "--reuse-port", action="store_true", help="listen beside a socket of the same user that only holds the port"
    )
    parser.add_flag(
        "--identity",
        metavar="spire:SOCKET|files:DIR",
        help="serve TLS with the SVID of a SPIFFE Workload API at this socket, or of DIR (svid.pem, key.pem), and"
        " believe clients by the bundles there",
    )
    parser.add_flag(
        "--access", metavar="FILE", help="who may ask: tokens, SPIFFE IDs and host names (default: loopback, anybody)"
    )


def _hub(given: argparse.Namespace) -> int:
    from authz.hub.run import run  # noqa: PLC0415 `--help` runs nothing
    from authz.hub.settings import HubSettings  # noqa: PLC0415 same

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="authz hub: %(levelname)s %(message)s")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    host, port = _address(given.listen)
    source, place = _identity(given.identity)
    run(
        HubSettings(
            data=Path(given.data),
            host=host,
            port=port,
            reuse_port=given.reuse_port,
            store=given.store,
            policies=given.policies,
            identity_directory=place if source == "files" else None,
            workload_api=place if source == "spire" else None,
            access=None if given.access is None else Path(given.access),
        )
    )
    return YES


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
        raise UsageError(f"--listen `{text}`: give HOST:PORT, such as 127.0.0.1:8800")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _identity(identity: str | None) -> tuple[str | None, str | None]:
    """Give the source of the hub's identity and its place, None where there is none; raises UsageError."""
    if identity is None:
        return None, None
    source, _, place = identity.partition(":")
    if source not in {"spire", "files"} or not place:
        raise UsageError(f"--identity `{identity}`: give spire:SOCKET or files:DIR")
    return source, place
