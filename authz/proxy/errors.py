"""The one error of this package: a sidecar that cannot be configured as asked."""

from __future__ import annotations

from authz.errors import AuthzError


class ProxyError(AuthzError):
    """The sidecar's configuration was asked for something that it cannot say to Envoy."""
