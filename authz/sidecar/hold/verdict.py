"""What a call that was allowed would get now, and how a worker is asked for that: many calls in one message.

Only processes of one sidecar speak so with each other; who can send it can send checks as well, and learns no more.
Every reader here takes any bytes: what cannot be read is a :class:`HoldError`.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from authz.decision import Reason
from authz.sidecar.errors import HoldError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

RECHECK: Final = "/authz.sidecar.Hold/Recheck"
#: a worker does nothing else meanwhile: so many take it a few milliseconds at most
MOST_AT_ONCE: Final = 32
#: half of what a message of a check may have: one more of them always finds room
MOST_BYTES_AT_ONCE: Final = 512 * 1024
#: a reason and two more words for each, and the generation
MAX_ANSWER_BYTES: Final = 64 * 1024
_LENGTH: Final = struct.Struct("<I")


class HasMessage(Protocol):
    """What has the bytes of a check."""

    message: bytes


Asked = TypeVar("Asked", bound=HasMessage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a call gets now, until when (nanoseconds since the epoch, None for no end), and why no longer."""

    reason: Reason
    ends_ns: int | None = None
    then: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rechecked:
    """The verdicts of a worker of this generation, in the order of what it was asked."""

    generation: int
    verdicts: tuple[Verdict, ...]


def batches(asked: Iterable[Asked]) -> Iterator[list[Asked]]:
    """Give what is asked about in so many at once as one question takes."""
    batch: list[Asked] = []
    size = 0
    for each in asked:
        if batch and (len(batch) == MOST_AT_ONCE or size + len(each.message) > MOST_BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += len(each.message) + _LENGTH.size
    if batch:
        yield batch


def question_bytes(messages: Sequence[bytes]) -> bytes:
    """Write what a worker is asked: the messages of checks."""
    return b"".join(_LENGTH.pack(len(message)) + message for message in messages)


def question_from(content: bytes) -> list[bytes]:
    """Read what a worker is asked; raises HoldError."""
    messages: list[bytes] = []
    at = 0
    while at < len(content):
        begin = at + _LENGTH.size
        if begin > len(content):
            raise HoldError("a recheck ends within a length")
        at = begin + _LENGTH.unpack_from(content, begin - _LENGTH.size)[0]
        if at > len(content):
            raise HoldError("a recheck ends within a message")
        if len(messages) == MOST_AT_ONCE:
            raise HoldError(f"a recheck has more than {MOST_AT_ONCE} messages")
        messages.append(content[begin:at])
    return messages


def answer_bytes(rechecked: Rechecked) -> bytes:
    """Write what a worker answers."""
    said = [[one.reason, one.ends_ns, one.then] for one in rechecked.verdicts]
    return json.dumps([rechecked.generation, said], separators=(",", ":")).encode()


def answer_from(content: bytes) -> Rechecked:
    """Read what a worker answers; raises HoldError."""
    if len(content) > MAX_ANSWER_BYTES:
        raise HoldError(f"the answer to a recheck has more than {MAX_ANSWER_BYTES} bytes")
    try:
        generation, said = json.loads(content)
        verdicts = tuple(_verdict(reason, ends_ns, then) for reason, ends_ns, then in said)
    except (ValueError, TypeError, RecursionError) as error:
        raise HoldError("the answer to a recheck is none") from error
    if type(generation) is not int:
        raise HoldError("the answer to a recheck has no generation")
    return Rechecked(generation=generation, verdicts=verdicts)


def _verdict(reason: str, ends_ns: object, then: str | None) -> Verdict:
    if ends_ns is not None and type(ends_ns) is not int:
        raise TypeError
    return Verdict(reason=Reason(reason), ends_ns=ends_ns, then=None if then is None else Reason(then))
