"""A difference between two policy sets as a JSON object, for the command line and for whoever else shows one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authz.instant import rfc3339_from_ns

if TYPE_CHECKING:
    from authz.policy.difference_groups import Difference
    from authz.request import Call


def difference_object(difference: Difference) -> dict[str, Any]:
    """Give a difference as JSON has it; `spans` are the first of `times`."""
    change = difference.change
    return {
        "callers": list(difference.callers),
        "destinations": list(difference.destinations),
        "operation": difference.operation,
        "becomes": change.becomes.value,
        "spans": [{"from": _instant(span.from_ns), "until": _instant(span.until_ns)} for span in change.spans],
        "times": change.times.count,
        "recurring": change.times.recurring,
        "policy": change.policy,
        "reason": change.reason.value,
        "example": call_object(difference.example, change.example_at_ns),
    }


def _instant(at_ns: int | None) -> str | None:
    return None if at_ns is None else rfc3339_from_ns(at_ns)


def call_object(call: Call, at_ns: int) -> dict[str, Any]:
    """Give a call as a line for `authz check --calls`; with `presentedBy` it is none, as a line has no tokens."""
    headers = {name: value.decode("utf-8", "replace") for name, value in call.headers}
    return {
        "from": call.third_party if call.caller is None else str(call.caller),
        **({} if call.presenter is None else {"presentedBy": str(call.presenter)}),
        "to": call.service if call.direction == "inbound" else call.host,
        "method": call.method,
        "path": call.path,
        **({"headers": headers} if headers else {}),
        **({"tls": call.tls.value} if call.tls is not None else {}),
        "direction": call.direction.value,
        "at": rfc3339_from_ns(at_ns),
    }
