"""What is in force: the policy index that decides, and how it stands to the files. Replaced whole, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz.policy.index import PolicyIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInForce:
    """The index that decides, None where no usable set has been seen; `faults` say why newer files do not."""

    index: PolicyIndex | None = None
    faults: tuple[str, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether something else stands in the folder than what decides."""
        return bool(self.faults)

    @property
    def revision(self) -> str | None:
        """The revision that decides."""
        return None if self.index is None else self.index.revision


class InForce:
    """The one reference that checks read and the policy follower replaces; reading it takes no lock."""

    __slots__ = ("policy",)

    def __init__(self) -> None:
        self.policy = PolicyInForce()
