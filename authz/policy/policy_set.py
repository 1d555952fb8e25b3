"""From files to a policy set: all of it, or all of its faults.

# INVARIANT (whole or not at all): a PolicySet that exists came from documents without a single fault, and every name,
# trust domain and host in it resolves.
# INVARIANT (order says nothing): the order of files, documents and entries changes neither the set nor its revision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from authz.policy.document import MAX_FILES, MAX_SET_BYTES
from authz.policy.document_reader import read_documents
from authz.policy.envelope import placed_document
from authz.policy.errors import MAX_FAULTS, Fault, FaultCode, PolicySetFaults
from authz.policy.garbage import collector_at_rest
from authz.policy.ownership import ownership_faults
from authz.policy.references import reference_faults
from authz.policy.revision import revision_of
from authz.policy.schema import (
    Guardrail,
    Kind,
    Mesh,
    MicroPolicy,
    Named,
    PolicyTest,
    Service,
    ThirdParty,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from authz.policy.document import Document, SourceFile
    from authz.policy.placed import Placed


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
    documents: list[Placed] = []
    unreadable: list[str] = []
    for file in sorted(files, key=lambda each: each.path):
        read = read_documents(file)
        doubtful = {(fault.line, fault.column): fault for fault in read.doubtful}
        told = {(fault.line, fault.column) for fault in read.faults} - doubtful.keys()
        if not read.complete:
            unreadable.append(file.content.decode("utf-8", errors="replace"))
        for document in read.documents:
            each, found = placed_document(document)
            # What the reader has said of a place, the schema need not say again.
            faults.extend(fault for fault in found if (fault.line, fault.column) not in told)
            # What is no good in quotes either is not to be put in quotes.
            for fault in found:
                doubtful.pop((fault.line, fault.column), None)
            if each is not None:
                documents.append(each)
            else:  # of an unknown kind: what it was to define is not missing besides
                unreadable.append(document.text("metadata", "name") or "")
            if len(faults) > MAX_FAULTS:
                raise PolicySetFaults(faults)
        faults.extend(fault for fault in read.faults if fault not in read.doubtful)
        faults.extend(doubtful.values())
        if len(faults) > MAX_FAULTS:
            raise PolicySetFaults(faults)
    form = {(fault.path, fault.line, fault.column) for fault in faults}
    about_names = islice(reference_faults(documents, unreadable), MAX_FAULTS)
    faults.extend(fault for fault in about_names if (fault.path, fault.line, fault.column) not in form)
    faults.extend(islice(ownership_faults(documents), MAX_FAULTS))
    if not any(each.kind is Kind.MESH for each in documents) and not any("Mesh" in text for text in unreadable):
        first = min((file.path for file in files), default="")
        faults.append(_no_mesh(first))
    if faults:
        raise PolicySetFaults(faults)
    return _policy_set(documents)


def _refuse_oversized(files: Sequence[SourceFile]) -> None:
    size_bytes = sum(len(file.content) for file in files)
    first = min((file.path for file in files), default="")
    if len(files) > MAX_FILES:
        raise PolicySetFaults([Fault(first, 1, 1, f"the set has {len(files)} files; {MAX_FILES} are allowed")])
    if size_bytes > MAX_SET_BYTES:
        raise PolicySetFaults([Fault(first, 1, 1, f"the set has {size_bytes} bytes; {MAX_SET_BYTES} are allowed")])


def _no_mesh(path: str) -> Fault:
    message = "the set has no Mesh; exactly one says which trust domains are its own: `spec: {trustDomains: [NAME]}`"
    return Fault(path or "policies", 1, 1, message, FaultCode.REFERENCE)


def _policy_set(documents: Sequence[Placed]) -> PolicySet:
    values = [each.value for each in documents if each.value is not None]
    (mesh,) = _of_kind(values, Mesh)
    return PolicySet(
        mesh=mesh,
        services=_of_kind(values, Service),
        third_parties=_of_kind(values, ThirdParty),
        micro_policies=_of_kind(values, MicroPolicy),
        guardrails=_of_kind(values, Guardrail),
        policy_tests=_of_kind(values, PolicyTest),
        revision=revision_of(each.document for each in documents),
        documents={(each.kind, each.name): each.document for each in documents},
    )


def _of_kind(values: Iterable[Named], kind: type[N]) -> tuple[N, ...]:
    return tuple(sorted((value for value in values if isinstance(value, kind)), key=lambda value: value.name))
