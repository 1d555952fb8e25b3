"""The policy decision point beside one Envoy: an I/O edge around the pure core."""
