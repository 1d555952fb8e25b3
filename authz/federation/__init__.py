"""Bundles of other trust domains, and of our own for them: SPIFFE bundle endpoints, client and server."""
