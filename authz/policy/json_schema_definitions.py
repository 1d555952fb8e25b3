"""The definitions that the JSON Schema's kinds share: how each field of the policy files is written.

https://json-schema.org/draft/2020-12/json-schema-core
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from authz.decision import Reason, Verdict
from authz.policy.evidence_fields import MAX_UNIX_ID, EndpointProfile
from authz.policy.route import PathShape
from authz.policy.schema_fields import MAX_IDENTITIES, Mode
from authz.request import Direction, TlsVersion

Schema: TypeAlias = "dict[str, Any]"

#: a path's segments: literal, `{name}`, `{*}`, `{**}` or `{name=**}`
_PATH: Final = r"^(/([^/%?#;*{}\\]*|\{(\*\*?|[A-Za-z_][A-Za-z0-9_.-]*(=\*\*)?)\}))+$"
_IDENTITY: Final = r"^spiffe://[a-z0-9._-]+(/([A-Za-z0-9._-]+|\*))*/([A-Za-z0-9._-]+|\*\*?)$"
_INSTANT: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,3})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_DNS_LABEL: Final = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


def text_schema(description: str, **more: Any) -> Schema:
    """Give a text."""
    return {"type": "string", "description": description, **more}


def list_schema(items: Schema, description: str = "", **more: Any) -> Schema:
    """Give a list with something in it: an empty one is a fault."""
    said = {"description": description} if description else {}
    return {"type": "array", "minItems": 1, "items": items, **said, **more}


def mapping_schema(properties: Schema, description: str = "", **more: Any) -> Schema:
    """Give a mapping that has no other fields."""
    said = {"description": description} if description else {}
    return {"type": "object", "additionalProperties": False, "properties": properties, **said, **more}


def reference(name: str) -> Schema:
    """Refer to a definition by its name."""
    return {"$ref": f"#/$defs/{name}"}


def _all_or(items: Schema, description: str) -> Schema:
    return {"description": description, "oneOf": [{"const": "all"}, list_schema(items)]}


_ATTRIBUTES: Final[Schema] = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "description": "Key-value pairs of text; put numbers and words like `no` in quotes.",
}
_METHODS: Final = _all_or(
    {
        "type": "string",
        "pattern": "^[A-Z_-]+$",
        "examples": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
    },
    "HTTP methods in upper case, or the word all.",
)
_PATHS: Final = _all_or(
    {"type": "string", "pattern": _PATH, "examples": ["/items/{id}", "/files/{**}"]},
    "Path patterns: {name} is one segment, {**} all the rest; or the word all.",
)
_GRPC: Final = list_schema(
    {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_.]*/(\*|[A-Za-z_][A-Za-z0-9_]*)$"},
    "gRPC methods: pkg.Service/Method, or pkg.Service/*.",
)
_API_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]{0,127}$"}
#: Of an operation's fields: `methods` and `paths`, or `grpc`.
_HTTP_OR_GRPC: Final[list[Schema]] = [
    {"required": ["methods", "paths"], "not": {"required": ["grpc"]}},
    {"required": ["grpc"], "not": {"anyOf": [{"required": ["methods"]}, {"required": ["paths"]}]}},
]
_FILE: Final[Schema] = {"type": "string", "minLength": 1, "description": "The file with the authorities, PEM."}
_HOURS: Final = list_schema(
    mapping_schema(
        {
            "days": list_schema({"enum": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}),
            "from": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"},
            "until": {"type": "string", "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"},
            "timezone": text_schema("An IANA time zone.", examples=["Europe/Berlin", "UTC"]),
        },
        required=["days", "from", "until", "timezone"],
    ),
    "Recurring hours by the wall clock: open inside any of them.",
)


DEFINITIONS: Final[Schema] = {
    "name": text_schema("A DNS label, unique in its kind.", pattern=_DNS_LABEL),
    "names": list_schema(reference("name")),
    "instant": text_schema(
        "A time of RFC 3339, always with an offset.", pattern=_INSTANT, examples=["2026-11-01T00:00:00Z"]
    ),
    "trustDomain": text_schema("A SPIFFE trust domain.", pattern="^[a-z0-9._-]+$"),
    "identities": list_schema(
        {"type": "string", "pattern": _IDENTITY, "examples": ["spiffe://shop.example/ns/shop/sa/orders"]},
        "SPIFFE IDs; `*` is one whole segment, `**` one or more, last only.",
        maxItems=MAX_IDENTITIES,
    ),
    "attributes": _ATTRIBUTES,
    "attributeSelector": {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"oneOf": [{"type": "string"}, list_schema({"type": "string"})]},
        "description": "Every key must be there, with one of the values.",
    },
    "mode": {
        "enum": [str(mode) for mode in Mode],
        "description": "enforce: it holds. observe: it is only recorded.",
    },
    "tls": {"enum": [str(version) for version in TlsVersion], "description": "A version of TLS."},
    "pathsAllowed": mapping_schema(
        {"allow": list_schema({"enum": [str(shape) for shape in PathShape]})},
        "Shapes of path that are refused elsewhere and allowed here.",
        required=["allow"],
    ),
    "window": mapping_schema(
        {"opens": reference("instant"), "closes": reference("instant"), "during": _HOURS},
        "When it is open.",
        minProperties=1,
    ),
    "apiEntry": mapping_schema(
        {
            "name": _API_NAME,
            "methods": _METHODS,
            "paths": _PATHS,
            "grpc": _GRPC,
            "longLived": {
                "type": "boolean",
                "description": "Whether one call may last longer than an ordinary request.",
            },
        },
        required=["name"],
        oneOf=_HTTP_OR_GRPC,
    ),
    "federation": mapping_schema(
        {
            "trustDomain": reference("trustDomain"),
            "bundle": _FILE,
            "endpoint": mapping_schema(
                {
                    "url": {"type": "string", "pattern": "^[hH][tT][tT][pP][sS]://"},
                    "profile": {"enum": [str(each) for each in EndpointProfile]},
                    "spiffeId": {"type": "string", "pattern": "^spiffe://[^/*]+/"},
                },
                "Where the bundle is fetched from; spiffeId is the server's, with https_spiffe.",
                required=["url", "profile"],
            ),
        },
        "A trust domain that is not ours, and the file of its authorities or where they are fetched from.",
        required=["trustDomain"],
        anyOf=[{"required": ["bundle"]}, {"required": ["endpoint"]}],
    ),
    "certificate": mapping_schema(
        {
            "authority": _FILE,
            "dns": list_schema({"type": "string"}, "DNS names that stand in the certificate: any of them."),
            "uri": list_schema(
                {"type": "string", "pattern": ":"}, "URIs that stand in it, no SPIFFE IDs: any of them."
            ),
        },
        "Certificates of one authority, without SPIFFE IDs, that prove the ThirdParty as a caller.",
        required=["authority"],
        oneOf=[{"required": ["dns"]}, {"required": ["uri"]}],
    ),
    "attestation": mapping_schema(
        {
            "unix": mapping_schema(
                {
                    "uid": {"type": "integer", "minimum": 0, "maximum": MAX_UNIX_ID},
                    "gid": {"type": "integer", "minimum": 0, "maximum": MAX_UNIX_ID},
                    "path": {"type": "string", "pattern": "^/"},
                    "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
                },
                "A process: every field given holds.",
                minProperties=1,
            ),
            "container": mapping_schema(
                {"image": {"type": "string"}, "labels": _ATTRIBUTES},
                "A container: every field given holds.",
                minProperties=1,
            ),
        },
        "What a workload must be to get the Service's identity.",
        minProperties=1,
        maxProperties=1,
    ),
    "operation": mapping_schema(
        {
            "methods": _METHODS,
            "paths": _PATHS,
            "grpc": _GRPC,
            "api": list_schema(_API_NAME, "Operations by the names that the Service's api gives them."),
        },
        oneOf=[
            *({**each, "not": {"anyOf": [each["not"], {"required": ["api"]}]}} for each in _HTTP_OR_GRPC),
            {"required": ["api"], "maxProperties": 1},
        ],
    ),
    "caller": mapping_schema(
        {
            "services": reference("names"),
            "thirdParties": reference("names"),
            "identities": reference("identities"),
            "attributes": reference("attributeSelector"),
        },
        "Callers for whom every field given holds.",
        minProperties=1,
        **{"not": {"required": ["services", "thirdParties"]}},
    ),
    "target": mapping_schema(
        {
            "services": reference("names"),
            "thirdParties": reference("names"),
            "attributes": reference("attributeSelector"),
            "operations": {
                "description": "What may be done there: the word all, or a list.",
                "oneOf": [{"const": "all"}, list_schema(reference("operation"))],
            },
        },
        "Destinations, and what may be done there.",
        required=["operations"],
        oneOf=[{"required": [each]} for each in ("services", "thirdParties", "attributes")],
    ),
    "metadata": mapping_schema(
        {
            "name": reference("name"),
            "owner": text_schema("The team that this belongs to."),
            "labels": _ATTRIBUTES,
            "annotations": _ATTRIBUTES,
        },
        required=["name"],
    ),
    "call": mapping_schema(
        {
            "from": text_schema("A Service or ThirdParty by name, or a SPIFFE ID; empty: nobody."),
            "to": text_schema("A Service or ThirdParty by name, or a host."),
            "method": text_schema("The HTTP method."),
            "path": text_schema("The path as it is sent, with its query."),
            "grpc": text_schema("pkg.Service/Method, in place of method and path."),
            "headers": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
            "tls": reference("tls"),
            "direction": {"enum": [str(each) for each in Direction]},
            "host": text_schema("What the Host header says."),
        },
        required=["to"],
    ),
    "expectation": {
        "oneOf": [
            {"enum": [str(verdict) for verdict in Verdict]},
            mapping_schema(
                {
                    "decision": {"enum": [str(verdict) for verdict in Verdict]},
                    "reason": {"enum": [str(reason) for reason in Reason]},
                    "policy": reference("name"),
                },
                minProperties=1,
            ),
        ]
    },
}
