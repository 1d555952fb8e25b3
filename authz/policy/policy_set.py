"""From files to a policy set: all of it, or all of its faults.

# INVARIANT (whole or not at all): a PolicySet that exists came from documents without a single fault, and every name,
# trust domain and host in it resolves.
# INVARIANT (order says nothing): the order of files, documents and entries changes neither the set nor its revision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

from authz.policy.document import MAX_FILES, MAX_SET_BYTES
from authz.policy.document_reader import read_documents
from authz.policy.envelope import placed_document
from authz.policy.errors import MAX_FAULTS, Fault, FaultCode, PolicySetFaults
from authz.policy.garbage import collector_at_rest
from authz.policy.ownership import ownership_faults
from authz.policy.references import reference_faults
from authz.policy.revision import canonical_form, revision_of_forms
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


def parse_policy_set(files: Sequence[SourceFile], known: KnownFiles | None = None) -> PolicySet:
    """Read a policy set; raises PolicySetFaults with every fault of every file.

    Files that are `known` are not read again, and those that are read are known afterwards. What was there before
    is the same object in the new set.

    Cost: linear in the size of the files, which is limited.
    """
    _refuse_oversized(files)
    with collector_at_rest():
        return _parsed(files, KnownFiles() if known is None else known)


@dataclass(slots=True, kw_only=True)
class _ReadFile:
    """What one file says, whatever stands in the others; `unreadable` are texts of what it may define besides."""

    documents: tuple[Placed, ...] = ()
    faults: tuple[Fault, ...] = ()
    unreadable: tuple[str, ...] = ()
    _forms: tuple[str, ...] | None = None

    @property
    def forms(self) -> tuple[str, ...]:
        """What its documents add to the revision of a set without faults; worked out once."""
        if self._forms is None:
            forms = (canonical_form(each.document) for each in self.documents)
            self._forms = tuple(form for form in forms if form is not None)
        return self._forms


class KnownFiles:
    """Files as they were read last, by path and content: an edit of one of ten thousand reads that one.

    For one thread. It holds what a set of the same files holds, and nothing of files that are gone.
    """

    __slots__ = ("_read",)

    def __init__(self) -> None:
        self._read: dict[str, tuple[bytes, _ReadFile]] = {}

    def read(self, file: SourceFile) -> _ReadFile:
        """Give what a file says."""
        known = self._read.get(file.path)
        if known is not None and known[0] == file.content:
            return known[1]
        read = _read_file(file)
        self._read[file.path] = file.content, read
        return read

    def unknown_bytes(self, files: Sequence[SourceFile]) -> int:
        """Give how much is still to be read of some files."""
        return sum(len(file.content) for file in files if self._read.get(file.path, (None, None))[0] != file.content)

    def keep(self, files: Sequence[SourceFile]) -> None:
        """Forget all but these."""
        paths = {file.path for file in files}
        for path in self._read.keys() - paths:
            del self._read[path]


def _read_file(file: SourceFile) -> _ReadFile:
    faults: list[Fault] = []
    documents: list[Placed] = []
    unreadable: list[str] = []
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
            return _ReadFile(faults=tuple(faults))
    faults.extend(fault for fault in read.faults if fault not in read.doubtful)
    faults.extend(doubtful.values())
    return _ReadFile(documents=tuple(documents), faults=tuple(faults), unreadable=tuple(unreadable))


def _parsed(files: Sequence[SourceFile], known: KnownFiles) -> PolicySet:
    faults: list[Fault] = []
    documents: list[Placed] = []
    unreadable: list[str] = []
    known.keep(files)
    every: list[_ReadFile] = []
    for file in sorted(files, key=lambda each: each.path):
        read = known.read(file)
        every.append(read)
        documents.extend(read.documents)
        faults.extend(read.faults)
        unreadable.extend(read.unreadable)
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
    return _policy_set(documents, revision_of_forms(chain.from_iterable(read.forms for read in every)))


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


def _policy_set(documents: Sequence[Placed], revision: str) -> PolicySet:
    values = [each.value for each in documents if each.value is not None]
    (mesh,) = _of_kind(values, Mesh)
    return PolicySet(
        mesh=mesh,
        services=_of_kind(values, Service),
        third_parties=_of_kind(values, ThirdParty),
        micro_policies=_of_kind(values, MicroPolicy),
        guardrails=_of_kind(values, Guardrail),
        policy_tests=_of_kind(values, PolicyTest),
        revision=revision,
        documents={(each.kind, each.name): each.document for each in documents},
    )


def _of_kind(values: Iterable[Named], kind: type[N]) -> tuple[N, ...]:
    return tuple(sorted((value for value in values if isinstance(value, kind)), key=lambda value: value.name))
