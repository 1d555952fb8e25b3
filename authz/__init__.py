"""Picoseg: time-boxed, identity-based authorization for every API call between microservices."""

__version__ = "0.1.0"
