"""The JSON Schema of the policy files, for editors: what may be written where, and what it means.

Written by hand, because what a field is read into says little about how it is written. What this version does not
support is left out: a field is in the schema if the model of its kind has it and takes it. The schema is looser than
`authz lint`, never stricter: every set that loads is valid, not every valid document loads.

https://json-schema.org/draft/2020-12/json-schema-core
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic import TypeAdapter, ValidationError

from authz.decision import Reason, Verdict
from authz.policy.route import PathShape
from authz.policy.schema import API_VERSION, SPECS, Federation, Kind
from authz.policy.schema_fields import MAX_IDENTITIES, ApiField, Evidence, EvidenceField, Fields, ModeField, WindowField
from authz.request import Direction, TlsVersion

if TYPE_CHECKING:
    from collections.abc import Iterable

Schema: TypeAlias = "dict[str, Any]"

#: Names the schema; nothing is fetched from there.
SCHEMA_ID: Final = "https://picoseg.example/schema/authz-v1.json"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
#: a path's segments: literal, `{name}`, `{*}`, `{**}` or `{name=**}`
_PATH: Final = r"^(/([^/%?#;*{}\\]*|\{(\*\*?|[A-Za-z_][A-Za-z0-9_.-]*(=\*\*)?)\}))+$"
_IDENTITY: Final = r"^spiffe://[a-z0-9._-]+(/([A-Za-z0-9._-]+|\*))*/([A-Za-z0-9._-]+|\*\*?)$"
_HOST: Final = r"^(\*\.)?[^*/:\s]+(:[1-9][0-9]{0,4})?$"
_INSTANT: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,3})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_DNS_LABEL: Final = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


def json_schema() -> Schema:
    """Give the schema of one document; a file has one or several of them."""
    kinds = [kind for kind in Kind if kind in SPECS]
    return {
        "$schema": _DIALECT,
        "$id": SCHEMA_ID,
        "title": "A document of a Picoseg policy set",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"enum": [str(kind) for kind in kinds], "description": "What this document is."},
            "metadata": {"$ref": "#/$defs/metadata"},
            "spec": {"type": "object", "minProperties": 1},
        },
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": str(kind)}}, "required": ["kind"]},
                "then": {"properties": {"spec": {"$ref": f"#/$defs/{kind}"}}},
            }
            for kind in kinds
        ],
        "$defs": {**_DEFS, **{str(kind): _spec(kind) for kind in kinds}},
    }


def _spec(kind: Kind) -> Schema:
    """Give the schema of a kind's `spec`, with the fields that its model has and takes."""
    model, _ = SPECS[kind]
    taken = _taken(model)
    written = _SPECS[kind]
    return {
        **written,
        "type": "object",
        "additionalProperties": False,
        "properties": {name: value for name, value in written["properties"].items() if name in taken},
    }


def _taken(model: type[Fields]) -> frozenset[str]:
    """Give the fields of a model that this version supports, as they are written."""
    return frozenset(
        field.alias or name for name, field in model.model_fields.items() if field.annotation is not type(None)
    )


def _takes(field: Any, value: object) -> bool:
    """Whether a field takes a value in this version."""
    adapter: TypeAdapter[Any] = TypeAdapter(field)
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def _words(field: Any, words: Iterable[str]) -> list[str]:
    """Give those of some words that a field takes in this version."""
    return [word for word in words if _takes(field, word)]


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _list(items: Schema, description: str = "", **more: Any) -> Schema:
    """Give a list with something in it: an empty one is a fault."""
    said = {"description": description} if description else {}
    return {"type": "array", "minItems": 1, "items": items, **said, **more}


def _mapping(properties: Schema, description: str = "", **more: Any) -> Schema:
    said = {"description": description} if description else {}
    return {"type": "object", "additionalProperties": False, "properties": properties, **said, **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _all_or(items: Schema, description: str) -> Schema:
    return {"description": description, "oneOf": [{"const": "all"}, _list(items)]}


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
_GRPC: Final = _list(
    {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_.]*/(\*|[A-Za-z_][A-Za-z0-9_]*)$"},
    "gRPC methods: pkg.Service/Method, or pkg.Service/*.",
)
_API_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]{0,127}$"}
#: Of an operation's fields: `methods` and `paths`, or `grpc`.
_HTTP_OR_GRPC: Final[list[Schema]] = [
    {"required": ["methods", "paths"], "not": {"required": ["grpc"]}},
    {"required": ["grpc"], "not": {"anyOf": [{"required": ["methods"]}, {"required": ["paths"]}]}},
]
_HOURS: Final = _list(
    _mapping(
        {
            "days": _list({"enum": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}),
            "from": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"},
            "until": {"type": "string", "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"},
            "timezone": _text("An IANA time zone.", examples=["Europe/Berlin", "UTC"]),
        },
        required=["days", "from", "until", "timezone"],
    ),
    "Recurring hours by the wall clock: open inside any of them.",
)
_HOURS_EXAMPLE: Final = {
    "during": ({"days": ("mon",), "from": "08:00", "until": "18:00", "timezone": "Europe/Berlin"},)
}


def _window() -> Schema:
    hours = {"during": _HOURS} if _takes(WindowField, _HOURS_EXAMPLE) else {}
    return _mapping({"opens": _ref("instant"), "closes": _ref("instant"), **hours}, "When it is open.", minProperties=1)


def _api_entry() -> Schema:
    long_lived = {"name": "x", "grpc": ("a.B/C",), "longLived": True}
    return _mapping(
        {
            "name": _API_NAME,
            "methods": _METHODS,
            "paths": _PATHS,
            "grpc": _GRPC,
            "longLived": {
                **({"type": "boolean"} if _takes(ApiField, long_lived) else {"const": False}),
                "description": "Whether one call may last longer than an ordinary request.",
            },
        },
        required=["name"],
        oneOf=_HTTP_OR_GRPC,
    )


def _federation() -> Schema:
    endpoint = _mapping(
        {
            "url": {"type": "string", "pattern": "^https://"},
            "profile": {"enum": ["https_web", "https_spiffe"]},
            "spiffeId": {"type": "string", "pattern": "^spiffe://"},
        },
        "Where the bundle is fetched from.",
        required=["url", "profile"],
    )
    written = {
        "trustDomain": _ref("trustDomain"),
        "bundle": _text("The file with the authorities of the trust domain."),
        "endpoint": endpoint,
    }
    taken = _taken(Federation)
    return _mapping({name: value for name, value in written.items() if name in taken}, required=["trustDomain"])


_DEFS: Final[Schema] = {
    "name": _text("A DNS label, unique in its kind.", pattern=_DNS_LABEL),
    "names": _list(_ref("name")),
    "instant": _text("A time of RFC 3339, always with an offset.", pattern=_INSTANT, examples=["2026-11-01T00:00:00Z"]),
    "trustDomain": _text("A SPIFFE trust domain.", pattern="^[a-z0-9._-]+$"),
    "identities": _list(
        {"type": "string", "pattern": _IDENTITY, "examples": ["spiffe://shop.example/ns/shop/sa/orders"]},
        "SPIFFE IDs; `*` is one whole segment, `**` one or more, last only.",
        maxItems=MAX_IDENTITIES,
    ),
    "attributes": _ATTRIBUTES,
    "attributeSelector": {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"oneOf": [{"type": "string"}, _list({"type": "string"})]},
        "description": "Every key must be there, with one of the values.",
    },
    "mode": {
        "enum": _words(ModeField, ["enforce", "observe"]),
        "description": "enforce: it holds. observe: it is only recorded.",
    },
    "tls": {"enum": [str(version) for version in TlsVersion], "description": "A version of TLS."},
    "pathsAllowed": _mapping(
        {"allow": _list({"enum": [str(shape) for shape in PathShape]})},
        "Shapes of path that are refused elsewhere and allowed here.",
        required=["allow"],
    ),
    "window": _window(),
    "apiEntry": _api_entry(),
    "federation": _federation(),
    "operation": _mapping(
        {
            "methods": _METHODS,
            "paths": _PATHS,
            "grpc": _GRPC,
            "api": _list(_API_NAME, "Operations by the names that the Service's api gives them."),
        },
        oneOf=[
            *({**each, "not": {"anyOf": [each["not"], {"required": ["api"]}]}} for each in _HTTP_OR_GRPC),
            {"required": ["api"], "maxProperties": 1},
        ],
    ),
    "caller": _mapping(
        {
            "services": _ref("names"),
            "thirdParties": _ref("names"),
            "identities": _ref("identities"),
            "attributes": _ref("attributeSelector"),
        },
        "Callers for whom every field given holds.",
        minProperties=1,
        **{"not": {"required": ["services", "thirdParties"]}},
    ),
    "target": _mapping(
        {
            "services": _ref("names"),
            "thirdParties": _ref("names"),
            "attributes": _ref("attributeSelector"),
            "operations": {
                "description": "What may be done there: the word all, or a list.",
                "oneOf": [{"const": "all"}, _list(_ref("operation"))],
            },
        },
        "Destinations, and what may be done there.",
        required=["operations"],
        oneOf=[{"required": [each]} for each in ("services", "thirdParties", "attributes")],
    ),
    "metadata": _mapping(
        {
            "name": _ref("name"),
            "owner": _text("The team that this belongs to."),
            "labels": _ATTRIBUTES,
            "annotations": _ATTRIBUTES,
        },
        required=["name"],
    ),
    "call": _mapping(
        {
            "from": _text("A Service or ThirdParty by name, or a SPIFFE ID; empty: nobody."),
            "to": _text("A Service or ThirdParty by name, or a host."),
            "method": _text("The HTTP method."),
            "path": _text("The path as it is sent, with its query."),
            "grpc": _text("pkg.Service/Method, in place of method and path."),
            "headers": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
            "tls": _ref("tls"),
            "direction": {"enum": [str(each) for each in Direction]},
            "host": _text("What the Host header says."),
        },
        required=["to"],
    ),
    "expectation": {
        "oneOf": [
            {"enum": [str(verdict) for verdict in Verdict]},
            _mapping(
                {
                    "decision": {"enum": [str(verdict) for verdict in Verdict]},
                    "reason": {"enum": [str(reason) for reason in Reason]},
                    "policy": _ref("name"),
                },
                minProperties=1,
            ),
        ]
    },
}

_RULE: Final[Schema] = {
    "from": _list(_ref("caller"), "Callers: any of these."),
    "to": _list(_ref("target"), "Destinations with operations: any of these."),
    "when": _list({"type": "string"}, "Conditions in CEL: all of them.", maxItems=16),
    "window": _ref("window"),
    "mode": _ref("mode"),
}

_SPECS: Final[dict[Kind, Schema]] = {
    Kind.MESH: {
        "description": "What holds for the whole set; exactly one.",
        "required": ["trustDomains"],
        "properties": {
            "trustDomains": _list(_ref("trustDomain"), "Our own; the first is the local one."),
            "federates": _list(_ref("federation"), "Trust domains that are not ours."),
            "defaults": _mapping({"mode": _ref("mode")}, minProperties=1),
            "revoked": _list(
                {"type": "string", "pattern": "^(spiffe://|serial:)"},
                "Identities, or certificates (serial:TRUSTDOMAIN/HEX), that are taken back.",
            ),
        },
    },
    Kind.SERVICE: {
        "description": "A workload that calls and is called.",
        "required": ["identities"],
        "properties": {
            "identities": _ref("identities"),
            "attributes": _ref("attributes"),
            "api": _list(_ref("apiEntry"), "What it offers, by name."),
            "hosts": _list({"type": "string", "pattern": r"^[^*/:\s]+$"}, "Further names that callers use."),
            "accepts": _list({"enum": _words(EvidenceField, [str(each) for each in Evidence])}),
            "forwarders": _ref("names"),
            "mode": _ref("mode"),
            "paths": _ref("pathsAllowed"),
            "egress": _mapping({"connect": _list({"type": "string", "pattern": ":[0-9]+$"})}, required=["connect"]),
            "attest": _list({"type": "object"}),
        },
    },
    Kind.THIRD_PARTY: {
        "description": "A service outside the mesh, and from when until when it takes part, in both directions.",
        "required": ["window"],
        "properties": {
            "identities": _ref("identities"),
            "certificates": _list({"type": "object"}),
            "hosts": _list(
                {"type": "string", "pattern": _HOST}, "Where it is called: names, *.names, with or without a port."
            ),
            "window": _mapping(
                {"opens": _ref("instant"), "closes": _ref("instant")}, "Both dates.", required=["opens", "closes"]
            ),
            "attributes": _ref("attributes"),
            "tls": _ref("tls"),
            "paths": _ref("pathsAllowed"),
        },
    },
    Kind.MICRO_POLICY: {
        "description": "Allows; nothing else does.",
        "required": ["from", "to"],
        "properties": _RULE,
    },
    Kind.GUARDRAIL: {
        "description": "Forbids, whatever a MicroPolicy allows.",
        "minProperties": 1,
        "properties": {
            **_RULE,
            "require": _mapping(
                {
                    "tls": _ref("tls"),
                    "maxWindow": _text("A whole number and s, m, h or d.", pattern="^[0-9]{1,12}[smhd]$"),
                },
                "It then forbids only what does not meet this.",
                minProperties=1,
            ),
        },
    },
    Kind.POLICY_TEST: {
        "description": "Calls, and the answers that are expected.",
        "required": ["cases"],
        "properties": {
            "now": _ref("instant"),
            "cases": _list(
                _mapping(
                    {
                        "name": _text("What the case claims."),
                        "call": _ref("call"),
                        "at": _ref("instant"),
                        "expect": _ref("expectation"),
                    },
                    required=["name", "call", "expect"],
                )
            ),
        },
    },
}
