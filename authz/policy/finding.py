"""What `authz lint` has to say: codes, how grave each is, and where it stands (see docs/lint-codes.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from authz.policy.errors import FaultCode, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The annotation that turns a finding of its document into a note: lines of `CODE reason`.
ACCEPT: Final = "authz/accept"


class Level(StrEnum):
    """How grave a finding is; SARIF has the same words."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class LintCode(StrEnum):
    """What can be found in a set without faults."""

    WINDOW_ENDED = "window-ended"
    WINDOW_ENDING = "window-ending"
    NEVER_OPEN = "never-open"
    UNUSED_SERVICE = "unused-service"
    UNUSED_THIRD_PARTY = "unused-third-party"
    OVER_BROAD = "over-broad"
    OVER_BROAD_CALLER = "over-broad-caller"
    SHADOWED = "shadowed"
    FORBIDDEN = "forbidden"
    SELECTS_NOTHING = "selects-nothing"
    UNREACHABLE_PATH = "unreachable-path"
    LITERAL_PLACEHOLDER = "literal-placeholder"
    HOST_OVERLAP = "host-overlap"
    UNREACHABLE_TUNNEL = "unreachable-tunnel"
    UNUSED_FORWARDERS = "unused-forwarders"
    REVOKED_IN_USE = "revoked-in-use"
    BAD_ACCEPT = "bad-accept"
    UNUSED_ACCEPT = "unused-accept"


#: What each code means, in one sentence.
MEANING: Final[Mapping[str, str]] = {
    FaultCode.SYNTAX: "The file is no YAML, or uses a part of it that policies do not.",
    FaultCode.SCHEMA: "A field is unknown, missing, of the wrong type or malformed.",
    FaultCode.REFERENCE: "A name or trust domain does not exist.",
    FaultCode.CONFLICT: "Two documents claim the same name, identity, certificate or host.",
    LintCode.WINDOW_ENDED: "The window is over: the document has no effect any more.",
    LintCode.WINDOW_ENDING: "The window ends within 14 days.",
    LintCode.NEVER_OPEN: "The rule's window is never open, or never while its ThirdParty's is.",
    LintCode.UNUSED_SERVICE: "No rule is about this Service, neither as caller nor as destination.",
    LintCode.UNUSED_THIRD_PARTY: "No rule is about this ThirdParty, neither as caller nor as destination.",
    LintCode.OVER_BROAD: "The rule allows every operation, or every path.",
    LintCode.OVER_BROAD_CALLER: "The rule is for every workload of a trust domain.",
    LintCode.SHADOWED: "Another rule allows all of this one, at all of its times.",
    LintCode.FORBIDDEN: "A Guardrail forbids all that the rule allows.",
    LintCode.SELECTS_NOTHING: "The selector matches no Service and no ThirdParty of the set.",
    LintCode.UNREACHABLE_PATH: "Requests to this path are refused before any rule is read.",
    LintCode.LITERAL_PLACEHOLDER: "A segment of a path is taken as it is written, and looks like a placeholder.",
    LintCode.HOST_OVERLAP: "Two ThirdParties share a host name; the port decides between them.",
    LintCode.UNREACHABLE_TUNNEL: "No ThirdParty has the host and port of this tunnel.",
    LintCode.UNUSED_FORWARDERS: "The Service names forwarders, and accepts no tokens.",
    LintCode.REVOKED_IN_USE: "A revoked identity is still listed as somebody's.",
    LintCode.BAD_ACCEPT: "The annotation does not say which code it accepts, or why.",
    LintCode.UNUSED_ACCEPT: "The annotation accepts what is not found here.",
}

LEVELS: Final[Mapping[str, Level]] = {
    **dict.fromkeys(FaultCode, Level.ERROR),
    **dict.fromkeys(LintCode, Level.WARNING),
    LintCode.REVOKED_IN_USE: Level.NOTE,
    LintCode.UNUSED_ACCEPT: Level.NOTE,
}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing to look at; line and column count from 1. `accepted` is the reason that the document gives for it."""

    path: str
    line: int
    column: int
    code: str
    message: str
    level: Level
    accepted: str = ""

    def __str__(self) -> str:
        accepted = f" (accepted: {printable(self.accepted)})" if self.accepted else ""
        return f"{printable(self.path)}:{self.line}:{self.column}: {self.level}: {self.message}{accepted} [{self.code}]"

    def accept(self, reason: str) -> Finding:
        """Give the note that remains of a finding that its document accepts."""
        return replace(self, level=Level.NOTE, accepted=reason)
