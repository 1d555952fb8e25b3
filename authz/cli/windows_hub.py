"""Asks a hub who tried outside of windows: for commands that see the whole mesh and not one machine's decision logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.errors import AuthzError
from authz.insight.hub_windows import HubWindow, hub_windows

if TYPE_CHECKING:
    from authz.cli.hub_client import HubClient
    from authz.insight.attempt import WindowKind


def windows_of_hub(hub: HubClient) -> dict[tuple[WindowKind, str], HubWindow]:
    """Give what a hub knows of windows; raises HubAnswerError where it cannot be asked."""
    content = hub.content("/windows")
    try:
        return hub_windows(content)
    except AuthzError as error:
        raise hub.error(f"it is no answer of a hub ({error}): is the URL right?") from error
