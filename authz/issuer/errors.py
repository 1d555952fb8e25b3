"""What the issuer raises."""

from __future__ import annotations

from authz.errors import AuthzError


class IssuerError(AuthzError):
    """The issuer cannot start, go on, or keep what it has to keep."""


class AttestationError(IssuerError):
    """Who asks is nobody that this issuer knows; the text says why, for the record, never for who asks."""
