"""The errors of records."""

from __future__ import annotations

from authz.errors import AuthzError


class RecordError(AuthzError):
    """What should be a record is none."""
