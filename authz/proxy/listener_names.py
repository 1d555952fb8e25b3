"""What the file of listeners and its filter chains are called; apart, for who rewrites it without Envoy's API."""

from __future__ import annotations

from typing import Final

#: The file in the listeners' directory.
LISTENERS_FILE: Final = "listeners.json"
#: The filter chain that connections come to which no other one takes.
MAIN_CHAIN: Final = "main"
#: The one of callers without SPIFFE IDs.
THIRD_PARTY_DOOR: Final = "third-party-door"
#: The one of held calls alone, and the server name (SNI) by which another sidecar chooses it.
HELD_CHAIN: Final = "held"
HELD_SERVER_NAME: Final = "held.authz.internal"
#: A chain's metadata, by our name: how often its connections were drained.
DRAIN_METADATA: Final = "authz"
DRAINED: Final = "drained"
#: How Envoy is to be started for it: a drained connection is told to end at once, and closed a second later. With less,
#: calls that are under way and new ones break; without these it is ten minutes.
ENVOY_FLAGS: Final = ("--drain-time-s", "1", "--drain-strategy", "immediate")
