"""The versions of a caller's connection that two policy sets can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.policy.schema_fields import Mode
from authz.request import TlsVersion

if TYPE_CHECKING:
    from authz.policy.policy_set import PolicySet


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsClass:
    """Versions that every Guardrail judges alike; None is a connection whose version is not known."""

    versions: tuple[TlsVersion | None, ...]

    @property
    def example(self) -> TlsVersion | None:
        """The newest of them: one that is known, where there is one."""
        return self.versions[0]

    def __str__(self) -> str:
        if self.example is None:
            return "a version of TLS that is not known"
        if None in self.versions:
            return f"{self.example} or less"
        return str(self.example) if len(self.versions) == 1 else f"{self.versions[-1]} or more"


def tls_classes(old: PolicySet, new: PolicySet) -> tuple[TlsClass | None, ...]:
    """Give the classes, the newest version first; only None where no Guardrail asks for a version."""
    required = {
        guard.require.tls
        for guard in (*old.guardrails, *new.guardrails)
        if guard.mode is Mode.ENFORCE and guard.require is not None and guard.require.tls is not None
    }
    if not required:
        return (None,)
    newest_first: tuple[TlsVersion | None, ...] = (*reversed(TlsVersion), None)
    by_met: dict[frozenset[TlsVersion], list[TlsVersion | None]] = {}
    for version in newest_first:
        met = frozenset(each for each in required if version is not None and version >= each)
        by_met.setdefault(met, []).append(version)
    return tuple(TlsClass(versions=tuple(versions)) for versions in by_met.values())
