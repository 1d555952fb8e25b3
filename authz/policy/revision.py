"""The name of a policy set by its content: the same for the same policies, however they are spread over files.

sha256 over the canonical form of every document but the PolicyTests. File names, comments, YAML style and the order
of files, documents, fields and list entries are no part of it; neither is writing an entry of a list twice.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.policy.document import Document, Value

_UNRELATED: Final = "PolicyTest"


def revision_of(documents: Iterable[Document]) -> str:
    """Give the revision, 64 hex digits, of a set that has no faults."""
    return revision_of_forms(form for form in map(canonical_form, documents) if form is not None)


def canonical_form(document: Document) -> str | None:
    """Give what a document without faults adds to its set's revision, None where it is no part of it."""
    value = document.root.value
    if not isinstance(value, dict) or value.get("kind") == _UNRELATED:
        return None
    return _text(_mesh(document) if value.get("kind") == "Mesh" else _canonical(value))


def revision_of_forms(forms: Iterable[str]) -> str:
    """Give the revision of a set whose documents have these forms."""
    digest = hashlib.sha256()
    for form in sorted(forms):
        digest.update(form.encode("utf-8"))
        digest.update(b"\n")
    return digest.hexdigest()


def _mesh(document: Document) -> Any:
    """Give a Mesh's canonical form: the first trust domain is the local one, so that it stays the first."""
    form: dict[str, Any] = _canonical(document.root.value)
    spec = document.node("spec").value
    domains = spec["trustDomains"] if isinstance(spec, dict) else ()
    if isinstance(domains, tuple) and domains:
        form["spec"]["trustDomains"] = [domains[0], *_canonical(domains[1:])]
    return form


def _canonical(value: Value) -> Any:
    """Give a value in which order says nothing: every list of the language is a set."""
    if isinstance(value, tuple):
        entries = [_canonical(entry) for entry in value]
        if all(isinstance(entry, str) for entry in entries):
            return sorted(set(entries))
        by_text = {_text(entry): entry for entry in entries}
        return [by_text[text] for text in sorted(by_text)]
    if isinstance(value, dict):
        return {key: _canonical(entry) for key, entry in value.items()}
    return value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
