"""From one document to what it says: whether it is a policy at all, its envelope, and its kind's own fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import ValidationError

from authz.policy.errors import MAX_FAULTS_AT_ONCE, Fault, nearest, quoted
from authz.policy.field_reading import Fields
from authz.policy.placed import Placed
from authz.policy.remedy import empty, known_field, unknown_field
from authz.policy.schema import API_VERSION, SPECS, Kind, Metadata
from authz.policy.schema_faults import required_fields, schema_faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.policy.document import Document, Key, Node

_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec")
#: what other systems call what allows, and what forbids
_KINDS_ELSEWHERE: Final = {
    **dict.fromkeys(
        ("Policy", "AuthorizationPolicy", "Allow", "Rule", "Permission", "NetworkPolicy"), Kind.MICRO_POLICY
    ),
    **dict.fromkeys(("Deny", "DenyPolicy", "Forbid", "Guard"), Kind.GUARDRAIL),
    **dict.fromkeys(("External", "ExternalService", "ServiceEntry", "Partner"), Kind.THIRD_PARTY),
    **dict.fromkeys(("Workload", "App", "Application"), Kind.SERVICE),
    **dict.fromkeys(("Test", "Tests"), Kind.POLICY_TEST),
}

F = TypeVar("F", bound=Fields)


def placed_document(document: Document) -> tuple[Placed | None, list[Fault]]:
    """Read one document: what it is as far as that is known, and what is wrong with it."""
    root = document.root.value
    if not isinstance(root, dict):  # the reader gives only mappings
        return None, []
    stranger = _stranger(document)
    if stranger is not None:
        return None, [stranger]
    faults = _of_the_envelope(document)
    kind = _kind(document, faults)
    empties = [(keys, node) for keys, node in _empties(document) if _may_not_be_empty(keys)]
    faults += [_empty(document, keys, node, kind) for keys, node in empties]
    metadata = _read(document, "metadata", Metadata, faults) if "metadata" in root else None
    value = spec = None
    if kind is not None:
        model, named = SPECS[kind]
        spec = _read(document, "spec", model, faults) if "spec" in root else None
        if spec is not None and metadata is not None and not faults:
            value = named.model_construct(metadata=metadata, **spec.__dict__)
    faults = _without_what_is_in_the_unknown(document, empties, faults)
    if kind is None:
        return None, faults
    return Placed(document=document, kind=kind, name=document.text("metadata", "name") or "", value=value), faults


def _stranger(document: Document) -> Fault | None:
    """Say once that a document is another system's, instead of each of its fields; None if it may be one of ours."""
    root = document.root.children
    version, kind = document.text("apiVersion"), document.text("kind")
    if version == API_VERSION:
        return None
    if not any(known_field(key, _FIELDS) for key in root if isinstance(key, str)):
        message = "this is no policy: it has neither `apiVersion` nor `kind`; keep the file in another folder"
        return document.fault((), message)
    if version is None or nearest(version.partition("/")[0], ["authz"]):
        return None
    if "/" not in version and (kind is None or _meant(kind, exact=False) is not None):
        return None
    if kind in list(Kind):
        return None
    what = "" if kind is None else f", {quoted(kind)}"
    message = (
        f"a document of another system ({quoted(version)}{what}); keep it in another folder, or write `{API_VERSION}` "
        f"and one of {_kinds()}"
    )
    return document.fault(("apiVersion",), message)


def _of_the_envelope(document: Document) -> list[Fault]:
    root = document.root.children
    unknown = [key for key in root if isinstance(key, str) and key not in _FIELDS][:MAX_FAULTS_AT_ONCE]
    faults = [document.fault_at_key((key,), _unknown(document, key)) for key in unknown]
    misspelt = {known_field(key, _FIELDS) for key in unknown}
    faults += [document.fault((), f"`{key}` is required") for key in _FIELDS if key not in root and key not in misspelt]
    version = root.get("apiVersion")
    if version is not None and version.value != API_VERSION:
        found = f", not {quoted(version.value)}" if isinstance(version.value, str) else ""
        faults.append(document.fault(("apiVersion",), f"must be `{API_VERSION}`{found}"))
    return faults


def _unknown(document: Document, key: str) -> str:
    """Say what is wrong with an unknown field at the top; one of `spec` or `metadata` is only in the wrong place."""
    kind = _meant(document.text("kind") or "", exact=True)
    if kind is not None:
        model, _ = SPECS[kind]
        for part, fields in (("spec", model), ("metadata", Metadata)):
            if key in {field.alias or name for name, field in fields.model_fields.items()}:
                return f"unknown field {quoted(key)}; it belongs to `{part}`: indent it below"
    return unknown_field(key, _FIELDS)


def _kind(document: Document, faults: list[Fault]) -> Kind | None:
    node = document.root.children.get("kind")
    if node is None:
        return None
    if not isinstance(node.value, str):
        faults.append(document.fault(("kind",), f"must be text: one of {_kinds()}"))
        return None
    if node.value in list(Kind):
        return Kind(node.value)
    meant = _meant(node.value, exact=False)
    hint = f"; did you mean `{meant}`?" if meant is not None else f"; it is one of {_kinds()}"
    faults.append(document.fault(("kind",), f"unknown kind {quoted(node.value)}{hint}"))
    return None


def _meant(text: str, *, exact: bool) -> Kind | None:
    """Give the kind that a text says, or, where that is enough, most likely means."""
    if exact:
        return next((kind for kind in Kind if kind == text), None)
    if text in _KINDS_ELSEWHERE:
        return _KINDS_ELSEWHERE[text]
    return next((kind for kind in Kind if f"`{kind}`" in nearest(text, list(Kind))), None)


def _kinds() -> str:
    return ", ".join(f"`{kind}`" for kind in Kind)


def _read(document: Document, part: Key, model: type[F], faults: list[Fault]) -> F | None:
    try:
        return model.model_validate(document.node(part).value)
    except ValidationError as error:
        told = {(fault.line, fault.column) for fault in faults}
        found = schema_faults(document, (part,), error, model)
        faults.extend(fault for fault in found if (fault.line, fault.column) not in told)
        return None


# --- what is empty -------------------------------------------------------------------------------------------------


def _empties(document: Document) -> Iterator[tuple[tuple[Key, ...], Node]]:
    """Give the lists and mappings that have nothing in them, each with the keys that lead to it."""
    if not document.empty:
        return
    wanted = {id(node) for node in document.empty}
    stack: list[tuple[tuple[Key, ...], Node]] = [((), document.root)]
    while stack:
        keys, node = stack.pop()
        if id(node) in wanted:
            yield keys, node
        stack.extend(((*keys, key), child) for key, child in node.children.items())


def _may_not_be_empty(keys: tuple[Key, ...]) -> bool:
    """Whether it is said of this place that it has something in it: only labels and annotations need not."""
    return keys not in {("metadata", "labels"), ("metadata", "annotations")}


def _empty(document: Document, keys: tuple[Key, ...], node: Node, kind: Kind | None) -> Fault:
    """Make the fault of an empty list or mapping: neither `nothing` nor `everything` is what it says."""
    required = len(keys) == 1
    if kind is not None and len(keys) > 1 and keys[0] == "spec":
        required = keys[-1] in required_fields(keys[1:-1], SPECS[kind][0])
    message = empty(
        keys,
        is_list=isinstance(node.value, tuple),
        is_required=required,
        of_guardrail=kind is Kind.GUARDRAIL,
    )
    return Fault(document.path, node.line, node.column, message)


def _without_what_is_in_the_unknown(
    document: Document, empties: list[tuple[tuple[Key, ...], Node]], faults: list[Fault]
) -> list[Fault]:
    """Leave out what is empty in a field that is not known: who removes the field removes it, too."""
    told = {(fault.line, fault.column) for fault in faults}
    inside = set()
    for keys, node in empties:
        for length in range(1, len(keys) + 1):
            above = document.node(*keys[:length])
            is_named = isinstance(keys[length - 1], str)
            if is_named and (above.key_line, above.key_column) in told:
                inside.add((node.line, node.column))
    return [fault for fault in faults if (fault.line, fault.column) not in inside]
