"""The errors of the sidecar."""

from __future__ import annotations

from authz.errors import AuthzError


class SidecarError(AuthzError):
    """The sidecar cannot start or go on, and why."""


class CheckMessageError(SidecarError):
    """A message is no CheckRequest that this sidecar can answer: a deny, reason `internal_error`."""
