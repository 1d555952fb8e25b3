"""A policy set as a configuration of Envoy's own RBAC filter: for tests, to have a second opinion on every call.

Made from the documents alone, without the engine or its parsers, in two forms that share no matching:

- `rules`: a list of RBAC policies for one destination. Callers are principals by URI SAN, paths are URI templates
  where Envoy's can say them, windows are CEL conditions on `request.time`.
- `matcher`: one tree for the whole set, hashed by destination and caller, with regular expressions for paths.

Envoy's RBAC takes the path as it was sent. So both forms say by regular expressions which requests are malformed, and
how a literal may be percent-encoded; `plain` leaves that out, to show what differs. What differs all the same is
explained in docs/differences-from-envoy-rbac.md.
Not said here: the limit of 8192 bytes, and serial numbers that are revoked (RBAC knows no serial numbers).
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

from tests.differential.path_expressions import (
    DOT_SEGMENTS,
    GRPC_CONTENT_TYPE,
    HOST,
    METHOD,
    SIMPLE_PATH,
    TARGET,
    path_expression,
    uri_template,
    well_formed_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json: TypeAlias = dict[str, Any]

HTTP_RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
#: the header by which the test's listener knows for which Service it stands
DESTINATION = "x-destination"

# --- windows -------------------------------------------------------------------------------------------------------

Window: TypeAlias = dict[str, str]


def _cel(windows: Iterable[Window]) -> Json | None:
    """Give the expression that is true inside all of the windows; None where that is always."""
    terms = [
        _called(f"_{operator}_", _REQUEST_TIME, _called("timestamp", {"const_expr": {"string_value": window[edge]}}))
        for window in windows
        for edge, operator in (("opens", ">="), ("closes", "<"))
        if edge in window
    ]
    if not terms:
        return None
    whole = terms[0]
    for term in terms[1:]:
        whole = _called("_&&_", whole, term)
    return whole


_REQUEST_TIME: Json = {"select_expr": {"operand": {"ident_expr": {"name": "request"}}, "field": "time"}}


def _called(function: str, *arguments: Json) -> Json:
    return {"call_expr": {"function": function, "args": list(arguments)}}


# --- callers -------------------------------------------------------------------------------------------------------


def _regex(expression: str) -> Json:
    return {"safe_regex": {"regex": expression}}


def id_expression(pattern: str) -> str:
    """Give an expression for the IDs that an identity pattern stands for."""
    return "/".join({"*": "[^/]+", "**": ".+"}.get(part, re.escape(part)) for part in pattern.split("/"))


def _principal(pattern: str) -> Json:
    name = _regex(id_expression(pattern)) if "*" in pattern else {"exact": pattern}
    return {"authenticated": {"principal_name": name}}


def _any_id(ids: Iterable[Json]) -> Json:
    return {"or_ids": {"ids": list(ids)}}


def _all_ids(*ids: Json) -> Json:
    return {"and_ids": {"ids": list(ids)}}


def _specificity(pattern: str) -> tuple[bool, int]:
    return "*" not in pattern, sum("*" not in part for part in pattern.split("/"))


class Translation:
    """The documents of one set, and what they are for the RBAC filter."""

    def __init__(self, documents: list[Json]) -> None:
        specs = {
            kind: {each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == kind}
            for kind in ("Mesh", "Service", "ThirdParty", "MicroPolicy")
        }
        (self._mesh,) = specs["Mesh"].values()
        self.services: dict[str, Json] = specs["Service"]
        self._third_parties: dict[str, Json] = specs["ThirdParty"]
        self._rules: dict[str, Json] = specs["MicroPolicy"]
        self._parties = {**self.services, **self._third_parties}

    # --- as a list of policies

    def rules(self, service: str, *, plain: bool = False) -> Json:
        """Give the filter of one destination, as a list of policies."""
        policies = {}
        for name, rule in self._rules.items():
            permissions = list(self._permissions(rule, service, plain=plain))
            if not permissions:
                continue
            for party, principals in self._principals(rule):
                window = _cel(self._windows(rule, party))
                policies[f"{name} {party or ''}"] = {
                    "permissions": permissions,
                    "principals": principals,
                    **({} if window is None else {"condition": window}),
                }
        return {"@type": HTTP_RBAC, "rules": {"action": "ALLOW", "policies": policies}}

    def _windows(self, rule: Json, third_party: str | None) -> list[Window]:
        windows = [rule.get("window", {})]
        return windows if third_party is None else [*windows, self._third_parties[third_party]["window"]]

    def _principals(self, rule: Json) -> Iterator[tuple[str | None, list[Json]]]:
        """Give whom a rule is for: ThirdParties one by one, because their windows count too, and all others (None)."""
        revoked = [_principal(each) for each in self._mesh.get("revoked", ()) if each.startswith("spiffe://")]
        known = {"not_id": _any_id(revoked)} if revoked else {"any": True}
        for third_party in (None, *self._third_parties):
            found = [
                _all_ids(
                    known,
                    who,
                    *([_any_id(map(_principal, selector["identities"]))] if "identities" in selector else []),
                )
                for selector in rule["from"]
                for who in self._selected(selector, third_party)
            ]
            if found:
                yield third_party, found

    def _selected(self, selector: Json, third_party: str | None) -> Iterator[Json]:
        if not {"services", "thirdParties", "attributes"} & set(selector):
            yield self._nobodys_or_services() if third_party is None else self._owned(third_party)
            return
        for name in self.services if third_party is None else (third_party,):
            if self._is_selected(selector, name):
                yield self._owned(name)

    def _is_selected(self, selector: Json, name: str) -> bool:
        if "services" in selector and name not in (set(selector["services"]) & set(self.services)):
            return False
        if "thirdParties" in selector and name not in (set(selector["thirdParties"]) & set(self._third_parties)):
            return False
        return self._has_attributes(selector, name)

    def _has_attributes(self, selector: Json, name: str) -> bool:
        given = self._parties[name].get("attributes", {})
        return all(
            given.get(key) in (value if isinstance(value, list) else [value])
            for key, value in selector.get("attributes", {}).items()
        )

    def _owned(self, name: str) -> Json:
        """Give the principal for the IDs that belong to a Service or ThirdParty."""
        others = [
            entry for other, spec in self._parties.items() if other != name for entry in spec.get("identities", ())
        ]
        found = []
        for entry in self._parties[name].get("identities", ()):
            better = [_principal(other) for other in others if _specificity(other) > _specificity(entry)]
            mine = _principal(entry)
            found.append(_all_ids(mine, {"not_id": _any_id(better)}) if better else mine)
        return _any_id(found) if found else {"not_id": {"any": True}}

    def _nobodys_or_services(self) -> Json:
        own = [_principal(f"spiffe://{domain}/**") for domain in self._mesh["trustDomains"]]
        either = _any_id([*own, *map(self._owned, self.services)])
        if not self._third_parties:
            return either
        return _all_ids(either, {"not_id": _any_id(map(self._owned, self._third_parties))})

    # --- operations

    def _operations(self, rule: Json, service: str) -> Iterator[Json]:
        """Give what a rule allows on one destination, `api` names resolved."""
        offered = {entry["name"]: entry for entry in self.services[service].get("api", ())}
        for target in rule["to"]:
            if service not in target.get("services", ()) and not (
                "attributes" in target and self._has_attributes(target, service)
            ):
                continue
            if target["operations"] == "all":
                yield {"methods": "all", "paths": "all"}
                continue
            for operation in target["operations"]:
                if "api" in operation:
                    yield from (offered[name] for name in operation["api"] if name in offered)
                else:
                    yield operation

    def _shapes(self, service: str) -> frozenset[str]:
        return frozenset(self.services[service].get("paths", {}).get("allow", ()))

    def _permissions(self, rule: Json, service: str, *, plain: bool) -> Iterator[Json]:
        shapes = self._shapes(service)
        guards = [] if plain else [
            {"url_path": {"path": _regex(well_formed_path(shapes))}},
            {"not_rule": {"url_path": {"path": _regex(DOT_SEGMENTS)}}},
            _header(":path", _regex(TARGET)),
            _header(":authority", _regex(HOST)),
            _header(":method", _regex(METHOD)),
        ]  # fmt: skip
        for operation in self._operations(rule, service):
            wanted = [*guards]
            if "grpc" in operation:
                wanted += [_header(":method", {"exact": "POST"}), _header("content-type", _regex(GRPC_CONTENT_TYPE))]
                paths: Any = _grpc_paths(operation)
            else:
                if operation["methods"] != "all":
                    wanted.append(_any_rule(_header(":method", {"exact": method}) for method in operation["methods"]))
                paths = operation["paths"]
            if paths != "all":
                wanted.append(_any_rule(_path_permission(path, shapes, plain=plain) for path in paths))
            yield {"and_rules": {"rules": wanted}} if wanted else {"any": True}

    # --- as a hashed tree

    def matcher(self, callers: Iterable[str]) -> Json:
        """Give the filter of all destinations as one tree, hashed by destination and by these callers."""
        ids = list(callers)
        by_destination = {
            service: {"matcher": _tree(_URI_SAN, {each: {"matcher": self._choices(each, service)} for each in ids})}
            for service in self.services
        }
        return {"@type": HTTP_RBAC, "matcher": _tree(_header_input(DESTINATION), by_destination)}

    def _choices(self, caller: str, service: str) -> Json:
        owner = self._owner(caller)
        shapes = self._shapes(service)
        guards = [
            _matches(":path", f"{well_formed_path(shapes)}(?:\\?.*)?"),
            {"not_matcher": _matches(":path", DOT_SEGMENTS)},
            _matches(":path", TARGET),
            _matches(":authority", HOST),
            _matches(":method", METHOD),
        ]
        matchers = [
            {"predicate": _all_of([*guards, *wanted]), "on_match": _action("ALLOW", name)}
            for name, rule in self._rules.items()
            if self._is_for(rule, caller, owner)
            for operation in self._operations(rule, service)
            for wanted in _predicates(
                operation, _cel(self._windows(rule, owner if owner in self._third_parties else None))
            )
        ]
        if not matchers:
            return {"matcher_list": {"matchers": [_NEVER]}, "on_no_match": _action("DENY", "nothing")}
        return {"matcher_list": {"matchers": matchers}, "on_no_match": _action("DENY", "nothing")}

    def _owner(self, caller: str) -> str | None:
        entries = [
            (_specificity(entry), name)
            for name, spec in self._parties.items()
            for entry in spec.get("identities", ())
            if re.fullmatch(id_expression(entry), caller)
        ]
        return max(entries)[1] if entries else None

    def _is_for(self, rule: Json, caller: str, owner: str | None) -> bool:
        domain = caller.split("/")[2]
        if caller in self._mesh.get("revoked", ()) or (owner is None and domain not in self._mesh["trustDomains"]):
            return False
        return any(
            (
                owner is not None and self._is_selected(selector, owner)
                if {"services", "thirdParties", "attributes"} & set(selector)
                else True
            )
            and (
                "identities" not in selector
                or any(re.fullmatch(id_expression(each), caller) for each in selector["identities"])
            )
            for selector in rule["from"]
        )


def _grpc_paths(operation: Json) -> list[str]:
    return ["/" + method.replace("*", "{method}") for method in operation["grpc"]]


def _header(name: str, matcher: Json) -> Json:
    return {"header": {"name": name, "string_match": matcher}}


def _any_rule(rules: Iterable[Json]) -> Json:
    return {"or_rules": {"rules": list(rules)}}


def _path_permission(path: str, shapes: frozenset[str], *, plain: bool) -> Json:
    expression = {"url_path": {"path": _regex(path_expression(path))}}
    template = uri_template(path)
    if template is None:
        return expression
    typed = {
        "name": "envoy.path.match.uri_template.uri_template_matcher",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            "path_template": template,
        },
    }
    if plain:
        return {"uri_template": typed}
    if "double-slash" in shapes:  # Envoy's `**` takes empty segments, too
        return expression
    simple = {"url_path": {"path": _regex(SIMPLE_PATH)}}
    rules = [simple, {"uri_template": typed}]
    if template.endswith("**"):  # Envoy's takes no segment at all, too
        rules.append({"not_rule": {"url_path": {"path": {"suffix": "/"}}}})
    return _any_rule([{"and_rules": {"rules": rules}}, {"and_rules": {"rules": [{"not_rule": simple}, expression]}}])


# --- the words of the unified matcher -------------------------------------------------------------------------------


def _typed(name: str, message: str, /, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{message}", **fields}}


def _header_input(name: str) -> Json:
    return _typed("header", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name)


_URI_SAN = _typed("uri", "envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput")


def _tree(key: Json, choices: dict[str, Json]) -> Json:
    return {
        "matcher_tree": {"input": key, "exact_match_map": {"map": choices}},
        "on_no_match": _action("DENY", "nobody"),
    }


def _action(action: str, name: str) -> Json:
    return {"action": _typed("action", "envoy.config.rbac.v3.Action", name=name, action=action)}


def _matches(header: str, expression: str) -> Json:
    return {
        "single_predicate": {
            "input": _header_input(header),
            "value_match": {"safe_regex": {"google_re2": {}, "regex": expression}},
        }
    }


_NEVER: Json = {"predicate": _matches(":method", "never"), "on_match": _action("DENY", "never")}


def _all_of(predicates: list[Json]) -> Json:
    return predicates[0] if len(predicates) == 1 else {"and_matcher": {"predicate": predicates}}


def _predicates(operation: Json, window: Json | None) -> Iterator[list[Json]]:
    """Give, for each method and path of an operation, what must hold besides."""
    when = [] if window is None else [
        {
            "single_predicate": {
                "input": _typed("time", "xds.type.matcher.v3.HttpAttributesCelMatchInput"),
                "custom_match": _typed(
                    "cel", "xds.type.matcher.v3.CelMatcher", expr_match={"cel_expr_parsed": {"expr": window}}
                ),
            }
        }
    ]  # fmt: skip
    if "grpc" in operation:
        when = [*when, _matches("content-type", GRPC_CONTENT_TYPE)]
        methods, paths = ["POST"], _grpc_paths(operation)
    else:
        methods, paths = operation["methods"], operation["paths"]
    for method, path in product([None] if methods == "all" else methods, [None] if paths == "all" else paths):
        yield [
            *([] if method is None else [_matches(":method", method)]),
            *([] if path is None else [_matches(":path", f"{path_expression(path)}(?:\\?.*)?")]),
            *when,
        ]
