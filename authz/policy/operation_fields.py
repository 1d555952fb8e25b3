"""The fields of operations: what a target allows to be done, and what a Service's `api` offers by name."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Final, TypeAlias

from pydantic import Discriminator, Field, Tag

from authz.policy.errors import quoted
from authz.policy.field_reading import LIST, WORD, Becomes, Fields, problem, text_by, word_or_list
from authz.policy.operation import (
    ALL,
    EVERY_OPERATION,
    All,
    ApiEntry,
    ApiOperation,
    GrpcOperation,
    HttpOperation,
    Operation,
)
from authz.policy.remedy import instead_of_all, instead_of_operations
from authz.policy.route import GrpcMethod, PathTemplate, parse_method

_API_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")


def _api_name(text: str) -> str:
    if not _API_NAME.fullmatch(text):
        raise problem(f"{quoted(text)} is no name of an operation: letters, digits, `_`, `.` and `-`")
    return text


def _all(text: str) -> All:
    if text != "all":
        raise problem(f"{quoted(text)} is neither `all` nor a list{instead_of_all(text)}")
    return ALL


_AllField: TypeAlias = Annotated[All, text_by(_all), Tag(WORD)]
_Methods: TypeAlias = Annotated[
    _AllField | Annotated[tuple[Annotated[str, text_by(parse_method)], ...], Field(min_length=1), Tag(LIST)],
    Discriminator(word_or_list),
]
_Paths: TypeAlias = Annotated[
    _AllField
    | Annotated[tuple[Annotated[PathTemplate, text_by(PathTemplate.parse)], ...], Field(min_length=1), Tag(LIST)],
    Discriminator(word_or_list),
]
_GrpcMethods: TypeAlias = Annotated[tuple[Annotated[GrpcMethod, text_by(GrpcMethod.parse)], ...], Field(min_length=1)]
_ApiName: TypeAlias = Annotated[str, text_by(_api_name)]


class _OperationFields(Fields):
    methods: _Methods | None = None
    paths: _Paths | None = None
    grpc: _GrpcMethods | None = None


class _TargetOperationFields(_OperationFields):
    api: Annotated[tuple[_ApiName, ...], Field(min_length=1)] | None = None


class _ApiEntryFields(_OperationFields):
    name: _ApiName
    long_lived: bool = False


def _http_or_grpc(fields: _OperationFields) -> HttpOperation | GrpcOperation:
    """Make the operation that the fields say; each of the two ways to say it is complete and alone."""
    if fields.grpc is not None:
        for name, value in (("methods", fields.methods), ("paths", fields.paths)):
            if value is not None:
                raise problem(f"`grpc` says method and path; leave `{name}` out", at=(name,))
        return GrpcOperation(methods=fields.grpc)
    if fields.methods is None and fields.paths is None:
        raise problem("an operation is `methods` and `paths`, or `grpc`, or `api`")
    if fields.methods is None or fields.paths is None:
        missing, there = ("methods", "paths") if fields.methods is None else ("paths", "methods")
        raise problem(f"`{missing}` is required beside `{there}`; write `all` for every one")
    methods = ALL if fields.methods is ALL else _methods(fields.methods)
    return HttpOperation(methods=methods, paths=fields.paths)


@lru_cache(maxsize=256)
def _methods(given: tuple[str, ...]) -> frozenset[str]:
    """Give the methods as a set, the same one for the few combinations that all rules have."""
    return frozenset(given)


def _operation(fields: _TargetOperationFields) -> Operation:
    if fields.api is None:
        return _http_or_grpc(fields)
    for name, value in (("methods", fields.methods), ("paths", fields.paths), ("grpc", fields.grpc)):
        if value is not None:
            raise problem(f"`api` says what is allowed by name; put `{name}` into an entry of its own", at=(name,))
    return ApiOperation(names=fields.api)


def _api_entry(fields: _ApiEntryFields) -> ApiEntry:
    return ApiEntry(name=fields.name, operation=_http_or_grpc(fields), long_lived=fields.long_lived)


def _every_operation(text: str) -> tuple[Operation, ...]:
    if text != "all":
        raise problem(f"{quoted(text)} is neither `all` nor a list{instead_of_operations(text)}")
    return (EVERY_OPERATION,)


ApiField: TypeAlias = Annotated[ApiEntry, Becomes(_ApiEntryFields, _api_entry)]
OperationsField: TypeAlias = Annotated[
    Annotated[tuple[Operation, ...], text_by(_every_operation), Tag(WORD)]
    | Annotated[
        tuple[Annotated[Operation, Becomes(_TargetOperationFields, _operation)], ...],
        Field(min_length=1),
        Tag(LIST),
    ],
    Discriminator(word_or_list),
]
