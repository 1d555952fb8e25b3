"""What can go wrong at a hub."""

from __future__ import annotations

from authz.errors import AuthzError


class HubError(AuthzError):
    """The hub cannot do what it was asked or started for."""


class ArrivalError(HubError):
    """What was sent to the intake is no batch."""


class NotItsOwnError(ArrivalError):
    """A sidecar has sent what is another Service's to tell."""


class ParameterError(HubError):
    """A parameter of the API says something that cannot be answered; `parameter` names it."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class UnknownError(HubError):
    """What was asked for by its name or id is not known; `parameter` says by which."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class StoreError(HubError):
    """The store cannot be used."""
