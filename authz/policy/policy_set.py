"""From files to a policy set: all of it, or all of its faults.

# INVARIANT (whole or not at all): a PolicySet that exists came from documents without a single fault, and every name,
# trust domain and host in it resolves.
# INVARIANT (order says nothing): the order of files, documents and entries changes neither the set nor its revision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import ValidationError

from authz.policy.document import MAX_SET_BYTES, read_documents
from authz.policy.errors import MAX_FAULTS, MAX_FAULTS_AT_ONCE, Fault, FaultCode, PolicySetFaults, nearest, quoted
from authz.policy.field_reading import Fields
from authz.policy.garbage import collector_at_rest
from authz.policy.ownership import ownership_faults
from authz.policy.placed import Placed
from authz.policy.references import reference_faults
from authz.policy.revision import revision_of
from authz.policy.schema import (
    API_VERSION,
    SPECS,
    Guardrail,
    Kind,
    Mesh,
    Metadata,
    MicroPolicy,
    Named,
    PolicyTest,
    Service,
    ThirdParty,
)
from authz.policy.schema_faults import schema_faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from authz.policy.document import Document, Key, SourceFile

#: A set of one policy a file has as many files as policies.
MAX_FILES: Final = 100_000

_ENVELOPE: Final = ("apiVersion", "kind", "metadata", "spec")

F = TypeVar("F", bound=Fields)
N = TypeVar("N", bound=Named)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySet:
    """The policies of one folder; every tuple is sorted by name.

    `documents` says where each stands, for those who have something to say about it.
    """

    mesh: Mesh
    services: tuple[Service, ...]
    third_parties: tuple[ThirdParty, ...]
    micro_policies: tuple[MicroPolicy, ...]
    guardrails: tuple[Guardrail, ...]
    policy_tests: tuple[PolicyTest, ...]
    revision: str
    documents: Mapping[tuple[Kind, str], Document] = field(repr=False, compare=False)

    @property
    def parties(self) -> tuple[Service | ThirdParty, ...]:
        """The Services and the ThirdParties: all that calls or is called."""
        return *self.services, *self.third_parties


def parse_policy_set(files: Sequence[SourceFile]) -> PolicySet:
    """Read a policy set; raises PolicySetFaults with every fault of every file.

    Cost: linear in the size of the files, which is limited.
    """
    _refuse_oversized(files)
    with collector_at_rest():
        return _parsed(files)


def _parsed(files: Sequence[SourceFile]) -> PolicySet:
    faults: list[Fault] = []
    placed: list[Placed] = []
    unreadable: list[str] = []
    for file in sorted(files, key=lambda each: each.path):
        read = read_documents(file)
        faults.extend(read.faults)
        told = {(fault.line, fault.column) for fault in read.faults}
        if not read.complete:
            unreadable.append(file.content.decode("utf-8", errors="replace"))
        for document in read.documents:
            each, found = _placed(document)
            # What the reader has said of a place, the schema need not say again.
            faults.extend(fault for fault in found if (fault.line, fault.column) not in told)
            if each is not None:
                placed.append(each)
            else:  # of an unknown kind: what it was to define is not missing besides
                unreadable.append(document.text("metadata", "name") or "")
            if len(faults) > MAX_FAULTS:
                raise PolicySetFaults(faults)
    faults.extend(islice(reference_faults(placed, unreadable), MAX_FAULTS))
    faults.extend(islice(ownership_faults(placed), MAX_FAULTS))
    if not any(each.kind is Kind.MESH for each in placed) and not any("Mesh" in text for text in unreadable):
        first = min((file.path for file in files), default="")
        faults.append(_no_mesh(first))
    if faults:
        raise PolicySetFaults(faults)
    return _policy_set(placed)


def _refuse_oversized(files: Sequence[SourceFile]) -> None:
    size_bytes = sum(len(file.content) for file in files)
    first = min((file.path for file in files), default="")
    if len(files) > MAX_FILES:
        raise PolicySetFaults([Fault(first, 1, 1, f"the set has {len(files)} files; {MAX_FILES} are allowed")])
    if size_bytes > MAX_SET_BYTES:
        raise PolicySetFaults([Fault(first, 1, 1, f"the set has {size_bytes} bytes; {MAX_SET_BYTES} are allowed")])


def _no_mesh(path: str) -> Fault:
    message = "the set has no Mesh; exactly one says which trust domains are its own"
    return Fault(path or "policies", 1, 1, message, FaultCode.REFERENCE)


def _policy_set(placed: Sequence[Placed]) -> PolicySet:
    values = [each.value for each in placed if each.value is not None]
    (mesh,) = _of_kind(values, Mesh)
    return PolicySet(
        mesh=mesh,
        services=_of_kind(values, Service),
        third_parties=_of_kind(values, ThirdParty),
        micro_policies=_of_kind(values, MicroPolicy),
        guardrails=_of_kind(values, Guardrail),
        policy_tests=_of_kind(values, PolicyTest),
        revision=revision_of(each.document for each in placed),
        documents={(each.kind, each.name): each.document for each in placed},
    )


def _of_kind(values: Iterable[Named], kind: type[N]) -> tuple[N, ...]:
    return tuple(sorted((value for value in values if isinstance(value, kind)), key=lambda value: value.name))


def _placed(document: Document) -> tuple[Placed | None, list[Fault]]:
    """Read one document: what it is as far as that is known, and what is wrong with it."""
    root = document.root.value
    if not isinstance(root, dict):  # the reader gives only mappings
        return None, []
    unknown = [key for key in root if key not in _ENVELOPE][:MAX_FAULTS_AT_ONCE]
    faults = [document.fault_at_key((key,), f"unknown field {quoted(key)}{nearest(key, _ENVELOPE)}") for key in unknown]
    faults += [document.fault((), f"`{key}` is required") for key in _ENVELOPE if key not in root]
    if "apiVersion" in root and root["apiVersion"] != API_VERSION:
        faults.append(document.fault(("apiVersion",), f"must be `{API_VERSION}`"))
    faults += _empty(document)
    kind = _kind(document, faults)
    metadata = _read(document, "metadata", Metadata, faults) if "metadata" in root else None
    if kind is None:
        return None, faults
    name = document.text("metadata", "name")
    value = None
    model, named = SPECS[kind]
    spec = _read(document, "spec", model, faults) if "spec" in root else None
    if spec is not None and metadata is not None and not faults:
        value = named.model_construct(metadata=metadata, **spec.__dict__)
    return Placed(document=document, kind=kind, name=name or "", value=value), faults


def _kind(document: Document, faults: list[Fault]) -> Kind | None:
    root = document.root.value
    if not isinstance(root, dict) or "kind" not in root:
        return None
    text = root["kind"]
    for kind in Kind:
        if text == str(kind):
            return kind
    if isinstance(text, str):
        hint = nearest(text, [str(kind) for kind in Kind])
        faults.append(document.fault(("kind",), f"unknown kind {quoted(text)}{hint}"))
    else:
        faults.append(document.fault(("kind",), "must be text: the kind of the document"))
    return None


def _read(document: Document, part: Key, model: type[F], faults: list[Fault]) -> F | None:
    try:
        return model.model_validate(document.node(part).value)
    except ValidationError as error:
        told = {(fault.line, fault.column) for fault in faults}
        found = schema_faults(document, (part,), error, model)
        faults.extend(fault for fault in found if (fault.line, fault.column) not in told)
        return None


def _empty(document: Document) -> list[Fault]:
    """Give a fault for each empty list and mapping: neither `nothing` nor `everything` is what it says."""
    metadata = document.node("metadata").children
    # Only labels and annotations may have nothing in them.
    allowed = [metadata[name] for name in ("labels", "annotations") if name in metadata]
    return [
        Fault(
            document.path,
            node.line,
            node.column,
            f"an empty {'mapping' if isinstance(node.value, dict) else 'list'} is not allowed; "
            "leave the field out, or give it a value",
        )
        for node in document.empty
        if not any(node is each for each in allowed)
    ]
