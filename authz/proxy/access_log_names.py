"""What Envoy and the receiver of its access logs call things; apart, so that the receiver need not load Envoy's API."""

from __future__ import annotations

from typing import Final

#: By this name the receiver knows what the entries of a stream are about.
HANDSHAKES_LOG: Final = "handshakes"
#: Has the milliseconds that the handshake took, and is missing where none succeeded.
HANDSHAKE_TAG: Final = "handshake_ms"
