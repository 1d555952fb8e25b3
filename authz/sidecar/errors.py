"""The errors of the sidecar."""

from __future__ import annotations

from authz.errors import AuthzError


class SidecarError(AuthzError):
    """The sidecar cannot start or go on, and why."""


class ClockError(SidecarError):
    """What is to be taken for the time cannot be told: a deny, reason `internal_error`."""


class CheckMessageError(SidecarError):
    """A message is no CheckRequest that this sidecar can answer: a deny, reason `internal_error`."""


class HoldError(SidecarError):
    """The hold cannot start, or what it was told cannot be read."""
