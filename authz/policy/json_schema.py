"""The JSON Schema of the policy files, for editors: what may be written where, and what it means.

Written by hand, because what a field is read into says little about how it is written. The schema is looser than
`authz lint`, never stricter: every set that loads is valid, not every valid document loads.

https://json-schema.org/draft/2020-12/json-schema-core
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.policy.json_schema_definitions import DEFINITIONS, list_schema, mapping_schema, reference, text_schema
from authz.policy.schema import API_VERSION, Kind
from authz.policy.schema_fields import Evidence

if TYPE_CHECKING:
    from authz.policy.json_schema_definitions import Schema

#: Names the schema; nothing is fetched from there.
SCHEMA_ID: Final = "https://picoseg.example/schema/authz-v1.json"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_HOST: Final = r"^(\*\.)?[^*/:\s]+(:[1-9][0-9]{0,4})?$"


def json_schema() -> Schema:
    """Give the schema of one document; a file has one or several of them."""
    return {
        "$schema": _DIALECT,
        "$id": SCHEMA_ID,
        "title": "A document of a Picoseg policy set",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"enum": [str(kind) for kind in Kind], "description": "What this document is."},
            "metadata": {"$ref": "#/$defs/metadata"},
            "spec": {"type": "object", "minProperties": 1},
        },
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": str(kind)}}, "required": ["kind"]},
                "then": {"properties": {"spec": {"$ref": f"#/$defs/{kind}"}}},
            }
            for kind in Kind
        ],
        "$defs": {**DEFINITIONS, **{str(kind): _spec(kind) for kind in Kind}},
    }


def _spec(kind: Kind) -> Schema:
    return {**_SPECS[kind], "type": "object", "additionalProperties": False}


_RULE: Final[Schema] = {
    "from": list_schema(reference("caller"), "Callers: any of these."),
    "to": list_schema(reference("target"), "Destinations with operations: any of these."),
    "when": list_schema({"type": "string"}, "Conditions in CEL: all of them.", maxItems=16),
    "window": reference("window"),
    "mode": reference("mode"),
}

_SPECS: Final[dict[Kind, Schema]] = {
    Kind.MESH: {
        "description": "What holds for the whole set; exactly one.",
        "required": ["trustDomains"],
        "properties": {
            "trustDomains": list_schema(reference("trustDomain"), "Our own; the first is the local one."),
            "federates": list_schema(reference("federation"), "Trust domains that are not ours."),
            "defaults": mapping_schema({"mode": reference("mode")}, minProperties=1),
            "revoked": list_schema(
                {"type": "string", "pattern": "^(spiffe://|serial:)"},
                "Identities, or certificates (serial:TRUSTDOMAIN/HEX), that are taken back.",
            ),
        },
    },
    Kind.SERVICE: {
        "description": "A workload that calls and is called.",
        "required": ["identities"],
        "properties": {
            "identities": reference("identities"),
            "attributes": reference("attributes"),
            "api": list_schema(reference("apiEntry"), "What it offers, by name."),
            "hosts": list_schema({"type": "string", "pattern": r"^[^*/:\s]+$"}, "Further names that callers use."),
            "accepts": list_schema({"enum": [str(each) for each in Evidence]}, "What proves a caller."),
            "forwarders": list_schema(reference("name"), "Services that may present another workload's JWT-SVID."),
            "mode": reference("mode"),
            "paths": reference("pathsAllowed"),
            "egress": mapping_schema(
                {"connect": list_schema({"type": "string", "pattern": ":[0-9]+$"}, "host:port of ThirdParties.")},
                "Opaque tunnels that it may open.",
                required=["connect"],
            ),
            "attest": list_schema(reference("attestation"), "What its workloads are: any of these."),
        },
    },
    Kind.THIRD_PARTY: {
        "description": "A service outside the mesh, and from when until when it takes part, in both directions.",
        "required": ["window"],
        "properties": {
            "identities": reference("identities"),
            "certificates": list_schema(reference("certificate"), "What proves it as a caller without SPIFFE ID."),
            "hosts": list_schema(
                {"type": "string", "pattern": _HOST}, "Where it is called: names, *.names, with or without a port."
            ),
            "window": mapping_schema(
                {"opens": reference("instant"), "closes": reference("instant")},
                "Both dates.",
                required=["opens", "closes"],
            ),
            "attributes": reference("attributes"),
            "tls": reference("tls"),
            "paths": reference("pathsAllowed"),
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
            "require": mapping_schema(
                {
                    "tls": reference("tls"),
                    "maxWindow": text_schema("A whole number and s, m, h or d.", pattern="^[0-9]{1,12}[smhd]$"),
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
            "now": reference("instant"),
            "cases": list_schema(
                mapping_schema(
                    {
                        "name": text_schema("What the case claims."),
                        "call": reference("call"),
                        "at": reference("instant"),
                        "expect": reference("expectation"),
                    },
                    required=["name", "call", "expect"],
                )
            ),
        },
    },
}
