"""What an OpenAPI document cannot say of the hub's API, for Schemathesis (SCHEMATHESIS_HOOKS)."""

from __future__ import annotations

import time
from typing import Any

import schemathesis

from authz.hub.errors import ParameterError
from authz.hub.moment import moment_ns


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """Leave `until` away where the span would end before it begins: a 400 that no schema tells."""
    query, now_ns = case.query, time.time_ns()
    if not query or "until" not in query:
        return
    declared = {each["name"]: each.get("schema", {}) for each in case.operation.definition.raw.get("parameters", ())}
    since = query.get("since", declared.get("since", {}).get("default"))
    try:
        if moment_ns(since, now_ns, "since") > moment_ns(query["until"], now_ns, "until"):
            del query["until"]
    except (ParameterError, TypeError):
        return  # one of them is wrong by itself, or not given
