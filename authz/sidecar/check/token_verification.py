"""Whether a token that comes with a call proves its subject now, by the bundles that are trusted now.

Verifying a signature costs more than all the rest of a check, and callers bring one token many times: what was
verified is remembered by the token's bytes.

# INVARIANT (nothing outlives its key): what is remembered was verified by the very bundles that are trusted now;
# where they are others, everything is verified anew.
# INVARIANT (nothing expires in the memo): a token's times are compared with the clock, and its audience with the one
# that is asked for, each time that it comes. A token that was refused is not remembered.

https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from authz.identity.jwt_svid import LEEWAY_NS, JwtSvidError, verify_jwt_svid

if TYPE_CHECKING:
    from authz.identity.spiffe_id import SpiffeId
    from authz.identity.trust import Trust

#: JWT-SVIDs have less than 1 KiB; a longer one is verified each time, so that what is remembered stays within 4 MiB.
LONGEST_REMEMBERED_BYTES: Final = 2 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenSubject:
    """Whom a token proves, to whom, and when; `text` is the SPIFFE ID as text.

    Times are nanoseconds since the epoch, as the token has them: clocks may differ by LEEWAY_NS.
    """

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    begins_ns: int
    expires_ns: int
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", str(self.spiffe_id))


class _Memo:
    """What was verified by these bundles; the older half is forgotten at once when the younger one is full."""

    __slots__ = ("older", "trust", "younger")

    def __init__(self, trust: Trust | None) -> None:
        self.trust = trust
        self.younger: dict[bytes, ProvenSubject] = {}
        self.older: dict[bytes, ProvenSubject] = {}


class TokenVerification:
    """Verifies tokens, each of them once; bounded by about `max_entries`.

    May be called from several threads at once without a lock: every step is one atomic operation on a dict or a
    reference, and what a race can lose is only a memory, never an answer.
    """

    __slots__ = ("_generation_size", "_memo")

    def __init__(self, max_entries: int = 2048) -> None:
        if max_entries < 2:  # noqa: PLR2004 two generations
            raise ValueError("the memo holds two entries at least")
        self._generation_size = max_entries // 2
        self._memo = _Memo(None)

    def verify(self, token: bytes, trust: Trust, audience: str, now_ns: int) -> ProvenSubject:
        """Give the subject of a token that is for this audience; raises JwtSvidError."""
        memo = self._memo
        if memo.trust is not trust:
            memo = self._memo = _Memo(trust)
        found = memo.younger.get(token)
        if found is None:
            found = memo.older.get(token) or _verified(token, trust, audience, now_ns)
            if len(token) <= LONGEST_REMEMBERED_BYTES:
                if len(memo.younger) >= self._generation_size:
                    memo.older, memo.younger = memo.younger, {}
                memo.younger[token] = found
        if audience not in found.audience:
            raise JwtSvidError("the token is for another audience")
        if not found.begins_ns - LEEWAY_NS <= now_ns < found.expires_ns + LEEWAY_NS:
            raise JwtSvidError("the token is not valid now")
        return found


def _verified(token: bytes, trust: Trust, audience: str, now_ns: int) -> ProvenSubject:
    svid = verify_jwt_svid(token, trust, audience, now_ns)
    return ProvenSubject(
        spiffe_id=svid.spiffe_id,
        audience=svid.audience,
        begins_ns=max(svid.issued_ns or 0, svid.not_before_ns or 0),
        expires_ns=svid.expires_ns,
    )
