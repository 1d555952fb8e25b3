"""The OpenAPI document, made from the questions and the types of their answers: it says what the hub does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from authz import __version__
from authz.hub.answers import Fault
from authz.hub.operations import OPERATIONS

if TYPE_CHECKING:
    from authz.hub.operation import Operation, Parameter

API: Final = "/api/v1"
_SCHEMAS: Final = "#/components/schemas/"


def openapi_document() -> dict[str, Any]:
    """Give the document (OpenAPI 3.1, JSON Schema 2020-12)."""
    schemas: dict[str, Any] = {}
    fault = _reference(Fault, schemas)
    paths = {f"{API}{each.path}": {"get": _get(each, schemas, fault)} for each in OPERATIONS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "authz hub",
            "version": __version__,
            "summary": "Who talks to whom, how it was answered, and how it is encrypted.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}, {"identity": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "identity": {"type": "mutualTLS", "description": "an X.509-SVID"},
            },
        },
    }


def _get(operation: Operation, schemas: dict[str, Any], fault: dict[str, Any]) -> dict[str, Any]:
    def no(why: str) -> dict[str, Any]:
        return {"description": why, "content": {"application/json": {"schema": fault}}}

    if operation.answer is None:
        answer: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}}}
    else:
        answer = {"application/json": {"schema": _reference(operation.answer, schemas)}}
    answers = {
        "200": {"description": "the answer", "content": answer},
        "400": no("a parameter is wrong"),
        "401": no("nobody has said who asks"),
        "403": no("who asks may not; it is recorded"),
        "421": no("the Host is none of this hub's"),
        "429": no("too many questions at once"),
        "503": no("the store does not answer now"),
    }
    if operation.can_be_unknown:
        answers["404"] = no("what was named is not known")
    return {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Role: {operation.role.name.lower()}{_whole_for(operation)}.",
        "parameters": [_parameter(each) for each in operation.parameters],
        "responses": dict(sorted(answers.items())),
    }


def _whole_for(operation: Operation) -> str:
    return "" if operation.whole_for is None else f"; addresses are null below {operation.whole_for.name.lower()}"


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = dict(parameter.schema)
    if parameter.default is not None:
        schema["default"] = int(parameter.default) if schema.get("type") == "integer" else parameter.default
    return {
        "name": parameter.name,
        "in": "path" if parameter.in_path else "query",
        "required": parameter.in_path,
        "description": parameter.says,
        "schema": schema,
        "example": int(parameter.example) if schema.get("type") == "integer" else parameter.example,
    }


def _reference(answer: type, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = TypeAdapter(answer).json_schema(ref_template=_SCHEMAS + "{model}", mode="serialization")
    schemas.update(schema.pop("$defs", {}))
    if "$ref" in schema:
        return schema
    schemas[answer.__name__] = schema
    return {"$ref": _SCHEMAS + answer.__name__}
