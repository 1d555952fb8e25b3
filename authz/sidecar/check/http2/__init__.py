"""HTTP/2 for unary gRPC calls, as Envoy's ext_authz makes them. It knows nothing of policies: bytes in, bytes out."""
