"""`authz windows watch`: says what it announces, and what of it is not taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.cli.arguments import YES
from authz.errors import AuthzError, UsageError
from authz.insight.announcement import parse_leads_ns
from authz.notify import notify
from authz.policy.errors import printable
from authz.window_watch.memory_file import MemoryFile
from authz.window_watch.signature import MAX_SECRET_FILE_BYTES, Secret, secrets_of_file
from authz.window_watch.watch import Said, WatchSettings, WindowWatch
from authz.window_watch.webhook import NotifyUrl

if TYPE_CHECKING:
    import argparse

    from authz.cli.hub_client import HubClient

HUB_TIMEOUT_S: Final = 10.0


def watch(given: argparse.Namespace, policies: str, state: Path, *, as_json: bool) -> int:
    """Run `authz windows watch` until SIGTERM or Ctrl-C."""
    settings = WatchSettings(
        policies=policies,
        state=state,
        url=_url(given),
        secrets=_secrets(given.secret_file),
        leads_ns=_leads_ns(given.lead),
        hub=_hub(given),
    )
    memory = MemoryFile(state, settings.url.text)
    with memory.locked():
        asyncio.run(_watch(settings, memory, as_json=as_json))
    return YES


async def _watch(settings: WatchSettings, memory: MemoryFile, *, as_json: bool) -> None:
    def say(said: Said) -> None:
        _print(said, as_json=as_json)

    def ready() -> None:
        asked = "" if settings.hub is None else f", asking {printable(settings.hub.url)}"
        print(f"watching {printable(settings.policies)}{asked}, telling {settings.url}", file=sys.stderr, flush=True)
        notify("READY=1")

    watching = asyncio.create_task(WindowWatch(settings, memory, clock=time.time_ns, say=say).run(ready=ready))
    loop = asyncio.get_running_loop()
    ended = False

    def end() -> None:
        nonlocal ended
        ended = True
        watching.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        await watching
    except asyncio.CancelledError:
        if not ended:
            raise


def _print(said: Said, *, as_json: bool) -> None:
    """Write what was taken to standard output, and what was not to standard error."""
    told = None if said.announcement is None else json.loads(said.announcement.body)
    if told is not None and as_json and not said.fault:
        print(json.dumps(told), flush=True)
        return
    what = ""
    if told is not None:
        window = told["window"]
        what = f"{told['type']} {window['name']} (closes {window['closes']}): "
    print(printable(f"{what}{said.text}"), file=sys.stderr if said.fault else sys.stdout, flush=True)


def _hub(given: argparse.Namespace) -> HubClient | None:
    """Give the hub that was named; raises UsageError for one that does not answer to us. One that is away may come."""
    if not given.hub:
        return None
    from authz.cli.hub_client import HubAwayError, hub_of  # noqa: PLC0415 only what the command needs is imported

    # Whoever waits for the end of a watch waits so long for an answer at most.
    hub = replace(hub_of(given), timeout_s=HUB_TIMEOUT_S)
    with contextlib.suppress(HubAwayError):
        # Who tried stands in single calls, which not every role may read.
        for path, query in (("/windows", {}), ("/calls", {"limit": "1"})):
            hub.content(path, query)
    return hub


def _url(given: argparse.Namespace) -> NotifyUrl:
    try:
        return NotifyUrl.parse(given.notify, unsafe_plain_http=given.unsafe_plain_http)
    except AuthzError as error:
        raise UsageError(f"--notify: {error}") from error


def _leads_ns(text: str) -> tuple[int, ...]:
    try:
        return parse_leads_ns(text)
    except AuthzError as error:
        raise UsageError(f"--lead: {error}") from error


def _secrets(path: str | None) -> tuple[Secret, ...]:
    if path is None:
        print("warning: without --secret-file nobody can tell announcements from forged ones", file=sys.stderr)
        return ()
    shown = printable(path)
    try:
        with Path(path).open("rb") as file:
            if Path(path).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                print(
                    f"warning: --secret-file: {shown}: others than its owner may use it: `chmod 600 {shown}`",
                    file=sys.stderr,
                )
            return secrets_of_file(file.read(MAX_SECRET_FILE_BYTES + 1))
    except OSError as error:
        raise UsageError(f"--secret-file: {shown}: {(error.strerror or 'it cannot be read').lower()}") from error
    except AuthzError as error:
        raise UsageError(f"--secret-file: {shown}: {error}") from error
