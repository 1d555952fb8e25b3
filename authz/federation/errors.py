"""What the federation package raises."""

from __future__ import annotations

from authz.errors import AuthzError


class FederationError(AuthzError):
    """A bundle of another trust domain cannot be had, or may not be used."""
