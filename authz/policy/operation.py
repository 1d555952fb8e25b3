"""What a rule's target allows to be done: HTTP methods on paths, gRPC methods, or operations that a Service names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from authz.policy.route import GrpcMethod, PathTemplate


class Everything(Enum):
    """The word `all`: never what an absent or empty list means."""

    ALL = "all"


ALL: Final = Everything.ALL
All: TypeAlias = Literal[Everything.ALL]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOperation:
    """Any of the methods on any of the paths, whatever the protocol."""

    methods: frozenset[str] | All
    paths: tuple[PathTemplate, ...] | All


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcOperation:
    """Any of the gRPC methods, by calls that say in their content type that they are gRPC."""

    methods: tuple[GrpcMethod, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOperation:
    """Any of the operations that the target's `api` gives these names to."""

    names: tuple[str, ...]


Operation: TypeAlias = HttpOperation | GrpcOperation | ApiOperation

EVERY_OPERATION: Final = HttpOperation(methods=ALL, paths=ALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiEntry:
    """One named operation of a Service; `long_lived`: one call of it may last longer than an ordinary request."""

    name: str
    operation: HttpOperation | GrpcOperation
    long_lived: bool = False
