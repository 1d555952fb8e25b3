"""What the Workload API's client, server and sockets raise."""

from __future__ import annotations

from authz.errors import AuthzError


class WorkloadApiError(AuthzError):
    """A Workload API, or the socket that it stands on, cannot be used as it should be."""
