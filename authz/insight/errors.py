"""The errors of insight."""

from __future__ import annotations

from authz.errors import AuthzError


class InsightError(AuthzError):
    """What is to be looked into is not what it should be."""


class DamagedLineError(InsightError):
    """A line of a decision log is no decision record."""
