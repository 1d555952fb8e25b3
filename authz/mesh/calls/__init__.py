"""Calls through a running mesh, with exactly the bytes that were given."""
