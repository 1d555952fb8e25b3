"""How Envoy is told to ask: typed configuration of a sidecar's listeners, clusters and TLS. Pure."""
