"""The errors of the watch."""

from __future__ import annotations

from authz.errors import AuthzError


class WindowWatchError(AuthzError):
    """The watch cannot be started as it was asked for, or cannot keep what it has told."""
