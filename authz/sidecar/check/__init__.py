"""The ext_authz server: bytes of a CheckRequest in, bytes of a CheckResponse out."""
