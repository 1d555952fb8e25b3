"""The errors of the local mesh."""

from __future__ import annotations

from authz.errors import AuthzError, UsageError


class MeshError(AuthzError):
    """The mesh cannot do what was asked, and why."""


class NoMeshError(MeshError):
    """No mesh runs with this state directory."""


class MeshStartError(MeshError):
    """The mesh could not be brought up; whatever had been started is stopped again."""


class CallUsageError(UsageError):
    """A call through the mesh was asked for that cannot be made as it is written."""


class NoAnswerError(MeshError):
    """A call got no answer at all: the connection was refused, was cut, or nothing came within the time."""


def cause(error: OSError) -> str:
    """Say why the system refused, in the words of this program's messages."""
    return (error.strerror or str(error)).lower()
