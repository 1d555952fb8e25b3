"""Flags of `authz sidecar` that say where records and metrics go."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from authz.errors import UsageError
from authz.sidecar.settings import DECISION_LOG_FILES, SPOOL_MAX_BYTES, CheckTransport

if TYPE_CHECKING:
    import argparse

    from authz.cli.arguments import CommandParser

#: less would rotate within a second of a busy sidecar
MIN_LOG_BYTES: Final = 64 * 1024
#: more is no rotation any more
MAX_LOG_FILES: Final = 1000
#: room for a few batches of a busy sidecar
MIN_SPOOL_BYTES: Final = 64 * 1024
#: OpenTelemetry's own variable, which is obeyed as well
OTLP_VARIABLE: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PLACE: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]{2,45}\]|[0-9A-Za-z.-]{1,253}):(?P<port>[0-9]{1,5})")


def add_record_flags(parser: CommandParser) -> None:
    """Add the flags."""
    parser.add_flag(
        "--decision-log-max-bytes",
        type=int,
        metavar="N",
        help="move the decision log to FILE.1 when it has so many bytes, FILE.1 to FILE.2 and so on",
    )
    parser.add_flag(
        "--decision-log-files",
        type=int,
        default=DECISION_LOG_FILES,
        metavar="N",
        help=f"how many of those are kept (default: {DECISION_LOG_FILES})",
    )
    parser.add_flag(
        "--hub",
        metavar="URL",
        help="ship records to this hub: https://HOST:PORT, proven by the SVID of --identity on both sides,"
        " or http://127.0.0.1:PORT",
    )
    parser.add_flag("--hub-token-file", metavar="FILE", help="show the hub the bearer token in this file")
    parser.add_flag(
        "--spool-max-bytes",
        type=int,
        default=SPOOL_MAX_BYTES,
        metavar="N",
        help="what may wait for the hub in DIR/spool of --state; beyond it allowed calls go first, denies never"
        f" (default: {SPOOL_MAX_BYTES})",
    )
    parser.add_flag(
        "--metrics", metavar="HOST:PORT", help="serve Prometheus metrics there, such as 127.0.0.1:9464; off without it"
    )
    parser.add_flag(
        "--otlp-endpoint",
        metavar="URL",
        help=f"export metrics and kept records there by OTLP over HTTP (default: {OTLP_VARIABLE}; else off)",
    )


def record_settings(given: argparse.Namespace, transport: CheckTransport) -> dict[str, Any]:
    """Give what the flags say, by the names of the settings; raises UsageError."""
    otlp = given.otlp_endpoint or os.environ.get(OTLP_VARIABLE) or None
    if transport is CheckTransport.GRPCIO:
        for flag, value in (
            ("--hub", given.hub),
            ("--metrics", given.metrics),
            ("--otlp-endpoint", given.otlp_endpoint),
        ):
            if value is not None:
                raise UsageError(f"{flag}: not with --check-transport grpcio")
        otlp = None
    return {
        "decision_log_max_bytes": _log_bytes(given, transport),
        "decision_log_files": _at_least("--decision-log-files", given.decision_log_files, 0, MAX_LOG_FILES),
        "hub": _hub(given),
        "hub_token_file": given.hub_token_file,
        "spool_max_bytes": _at_least("--spool-max-bytes", given.spool_max_bytes, MIN_SPOOL_BYTES, 2**40),
        "metrics": None if given.metrics is None else _place(given.metrics),
        "otlp_endpoint": otlp,
    }


def _log_bytes(given: argparse.Namespace, transport: CheckTransport) -> int | None:
    if given.decision_log_max_bytes is None:
        return None
    if given.decision_log is None:
        raise UsageError("--decision-log-max-bytes: say with --decision-log which file")
    if transport is CheckTransport.GRPCIO:
        raise UsageError("--decision-log-max-bytes: not with --check-transport grpcio")
    return _at_least("--decision-log-max-bytes", given.decision_log_max_bytes, MIN_LOG_BYTES, 2**50)


def _hub(given: argparse.Namespace) -> str | None:
    if given.hub is None:
        if given.hub_token_file is not None:
            raise UsageError("--hub-token-file: say with --hub where the token is shown")
        return None
    # What reads URLs is large, and `--help` reads none.
    from authz.sidecar.control.hub_address import hub_address  # noqa: PLC0415
    from authz.sidecar.errors import SidecarError  # noqa: PLC0415

    if given.state is None:
        raise UsageError("--hub: say with --state where batches wait for it")
    try:
        address = hub_address(given.hub)
    except SidecarError as error:
        raise UsageError(f"--hub {error}") from error
    if address.is_encrypted and given.identity is None and given.hub_token_file is None:
        raise UsageError("--hub: say with --identity or --hub-token-file how the sidecar proves itself to it")
    if given.hub_token_file is not None and not Path(given.hub_token_file).is_file():
        raise UsageError(f"--hub-token-file {given.hub_token_file}: there is no such file")
    return str(given.hub)


def _place(text: str) -> str:
    found = _PLACE.fullmatch(text)
    if found is None or not 0 <= int(found["port"]) <= 65535:  # noqa: PLR2004 a port has 16 bits
        raise UsageError(f"--metrics `{text[:120]}`: give HOST:PORT, such as 127.0.0.1:9464")
    return text


def _at_least(flag: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise UsageError(f"{flag} {value}: give {least} to {most}")
    return value
