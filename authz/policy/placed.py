"""A document in its set: what it is as far as it could be read, also where it has faults of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz.policy.document import Document, Key
    from authz.policy.errors import Fault, FaultCode
    from authz.policy.schema import Kind, Named


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """A document with its kind and name, and its value if it has no fault of its own."""

    document: Document
    kind: Kind
    name: str
    value: Named | None

    def fault(self, place: tuple[Key, ...], message: str, code: FaultCode) -> Fault:
        """Make a fault at a place of the document."""
        return self.document.fault(place, message, code)

    def where(self, *place: Key) -> str:
        """Give file and line of a place, to point to it from another document."""
        return f"{self.document.path}:{self.document.node(*place).line}"
