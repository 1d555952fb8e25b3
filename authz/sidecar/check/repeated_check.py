"""Checks that are asked again and again: the same caller, on the same connection, asks for the same once more.

Two such checks differ in their time, in Envoy's own number of the call and in `x-request-id`. No decision that is
kept here depends on those; of an answer, only how long the call may still run does, which is worked out each time.
Whoever asks something for the second time has the answer settled: what was decided, until when exactly that holds,
and what its record and its answer are made of. From then on a check costs what it takes to see that it is the same
one, a record and an answer.

INVARIANT (the same check): the key of a settled answer has all bytes that `question` reads but those of the value of
the one `x-request-id`, and the entries of context_extensions in one order, which says nothing where no two name the
same. Where the request's id stands is found out once, by parsing; another check with the same bytes before and behind
it is parsed to the same headers, with another value there.
INVARIANT (the same answer): a settled answer holds for the index, what an edit takes away of it, the own identity and
the bundles that it was decided with, and from that instant until the first at which anything of it changes
(`steady_until_ns`), or a certificate ends. Whatever else a decision comes to depend on has to be compared here as well.
What a call with a token gets is never settled.

What is kept is bounded, by number and by bytes. Where few checks are asked again it rests, and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.message import DecodeError

from authz.instant import NS_PER_S
from authz.proxy.header_names import X_REQUEST_ID
from authz.sidecar.check.check_message import Entry, HeaderMap, HeaderValue, UnreadCheckRequest
from authz.sidecar.check.question import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from authz.decision import Decision
    from authz.identity.trust import Trust
    from authz.identity.verification import VerifiedIdentity
    from authz.policy.index import PolicyIndex
    from authz.sidecar.check.question import Question
    from authz.sidecar.check.stream_deadline import Bound
    from authz.sidecar.tightening_page import Tightened

#: the peer, the entries of context_extensions, the protocol, and the headers before and behind the request's id
Key: TypeAlias = "tuple[bytes, tuple[bytes, ...], bytes, bytes, bytes]"

#: Envoy writes a UUID (RFC 9562 4).
_ID_BYTES: Final = 36
# The wire form of config.core.v3.HeaderValue: `key` (1), then `raw_value` (3); and of one in `header_map` (1).
_HEADER: Final = b"\x0a" + bytes((len(X_REQUEST_ID),)) + X_REQUEST_ID.encode() + b"\x1a" + bytes((_ID_BYTES,))
_STANDS: Final = b"\x0a" + bytes((len(_HEADER) + _ID_BYTES,)) + _HEADER
_STANDS_BYTES: Final = len(_STANDS)
#: two values that differ in each byte
_OTHER_IDS: Final = (b"~" * _ID_BYTES, b"!" * _ID_BYTES)
#: what `question` reads of the headers if it is there, and of fields beside them if not
_PSEUDO: Final = (b":method", b":path", b":authority")

MOST_SETTLED: Final = 1024
MOST_SETTLED_BYTES: Final = 1024 * 1024
#: keys that were seen, as their hashes
_MOST_SEEN: Final = 2048
#: entries come in 24 orders where there are four of them
_MOST_ORDERS: Final = 512
_LONGEST_ORDERED_BYTES: Final = 2048
#: after so many checks that were not settled it is judged whether to go on: where fewer than an eighth as many were, it
#: rests for so many checks
_JUDGED_AFTER: Final = 1024
_WORTHWHILE: Final = _JUDGED_AFTER // 8
_REST: Final = 32 * _JUDGED_AFTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What one check gets, every time that it is asked from `from_ns` until before `until_ns`."""

    index: PolicyIndex
    own: VerifiedIdentity | None
    trust: Trust | None
    tightened: Tightened | None
    from_ns: int
    until_ns: int
    #: without its headers, its certificate and its request's id
    question: Question
    #: the text of the question's caller
    caller: str | None
    decision: Decision
    #: what its records have in common (`packed_record`)
    path: str | None
    kind: bytes
    #: until when such calls may run
    bound: Bound | None
    #: whether they are held
    is_held: bool


class Repeats:
    """The settled answers of one worker.

    May be called from several threads at once without a lock: every step is one atomic operation on a dict, and what a
    race can lose is a count, never an answer.
    """

    __slots__ = ("_bytes", "_judged_in", "_orders", "_rest", "_seen", "served", "settled")

    def __init__(self) -> None:
        self.settled: dict[Key, Settled] = {}
        #: how many settled answers were given, since it was judged
        self.served = 0
        self._bytes = 0
        #: entries as they came -> the same ones in the order that stands for all
        self._orders: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}
        #: the hash of a key -> whether it has been tried to settle its answer
        self._seen: dict[int, bool] = {}
        self._rest = 0
        self._judged_in = _JUDGED_AFTER

    def key(self, message: bytes) -> tuple[Key, bytes, int] | None:
        """Give what checks have in common that ask the same, the request's id, and when Envoy began to serve it.

        None where that cannot be told. The instant is in nanoseconds since the epoch, 0 where Envoy does not say it.

        Raises nothing: what is no check has no key.
        """
        if self._rest > 0:
            self._rest -= 1
            return None
        try:
            attributes = UnreadCheckRequest.FromString(message).attributes
        except DecodeError:
            return None
        request = attributes.request
        http = request.http
        maps = http.header_map[:]
        source = attributes.source[:]
        if len(maps) != 1 or len(source) != 1 or len(message) > MAX_MESSAGE_BYTES or http.headers:
            return None
        headers = maps[0]
        at = headers.find(_STANDS) + _STANDS_BYTES
        if at < _STANDS_BYTES:
            return None
        end = at + _ID_BYTES
        entries = tuple(attributes.context_extensions[:])
        entries = self._orders.get(entries) or self._in_order(entries)
        began = request.time
        key = (source[0], entries, http.protocol, headers[:at], headers[end:])
        return key, headers[at:end], began.seconds * NS_PER_S + began.nanos

    def _in_order(self, entries: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Give the entries in the one order that stands for all; Envoy's maps are in another one each time."""
        ordered = tuple(sorted(entries))
        if len(self._orders) >= _MOST_ORDERS:
            self._orders.clear()
        if sum(map(len, entries)) <= _LONGEST_ORDERED_BYTES:
            self._orders[entries] = ordered
        return ordered

    def is_due(self, key: Key) -> bool:
        """Take in that a check had no settled answer, or none that holds; say whether to settle it now."""
        self._judged_in -= 1
        if self._judged_in <= 0:
            self._judge()
        if self.settled.pop(key, None) is not None:
            self._bytes -= _size(key)
            return True
        hashed = hash(key)
        tried = self._seen.get(hashed)
        if tried is None and len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[hashed] = tried is not None
        return tried is False

    def settle(self, key: Key, settled: Settled) -> None:
        """Keep an answer, where its check can be told by its key."""
        size = _size(key)
        if size > MOST_SETTLED_BYTES or not _is_one_request_id(key) or not _are_different(key[1]):
            return
        if self._bytes + size > MOST_SETTLED_BYTES or len(self.settled) >= MOST_SETTLED:
            self._forget()
        self._bytes += size
        self.settled[key] = settled

    def _judge(self) -> None:
        if self.served < _WORTHWHILE:
            self._rest = _REST
            self._forget()
        self._judged_in = _JUDGED_AFTER
        self.served = 0

    def _forget(self) -> None:
        self.settled.clear()
        self._seen.clear()
        self._bytes = 0


def _size(key: Key) -> int:
    peer, entries, protocol, before, behind = key
    return len(peer) + sum(map(len, entries)) + len(protocol) + len(before) + len(behind)


def _are_different(entries: tuple[bytes, ...]) -> bool:
    """Whether the entries say the same in any order: no two of them name the same."""
    try:
        return len({Entry.FromString(each).key for each in entries}) == len(entries)
    except DecodeError:
        return False


def _is_one_request_id(key: Key) -> bool:
    """Whether what was left out is the value of the only `x-request-id`, and headers say what is asked for."""
    before, behind = key[3:]
    names: list[bytes] = []
    # INVARIANT (the same check): what changes with the bytes there is this header's value, all of it, and nothing else.
    for other in _OTHER_IDS:
        try:
            headers = HeaderMap.FromString(before + other + behind).headers[:]
            names = [HeaderValue.FromString(each).key for each in headers]
        except DecodeError:
            return False
        if _HEADER + other not in headers or names.count(X_REQUEST_ID.encode()) != 1:
            return False
    return all(name in names for name in _PSEUDO)
