"""The root of every error that this package raises on purpose.

Each package has one child of :class:`AuthzError` and raises only that child or its children. Whatever
else escapes is a fault of the program; the outermost edges (command line, check server) turn it into one
clear line or into a deny.
"""

from __future__ import annotations


class AuthzError(Exception):
    """What went wrong, in one line that a user can act on: position first, lower case, no full stop."""


class UsageError(AuthzError):
    """A command or a call was given arguments that cannot be understood (exit status 2)."""
