"""Damages real sessions of checks: no answer is ever an OK that the policy would not give.

Run by `make proof-http2`, or by hand: `python -m tests.conformance.mutated_sessions --sessions 100000 --seed 0`.

Bytes go through the check path's HTTP/2 and a checker with policies. Whatever it lets through is read once more from
the same bytes by others: frames by a reader of a few lines, header blocks by `hpack` with nothing remembered, the check
by field numbers, the certificate by `cryptography`, and the call is answered by the reference. A seed makes the
same run again, but for the certificates' keys and signatures.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from base64 import b64decode
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes
from uuid import UUID

from cryptography import x509
from envoy.service.auth.v3 import external_auth_pb2
from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Decoder
from hpack.exceptions import HPACKError

from authz.decision import Verdict
from authz.identity.spiffe_id import SpiffeId
from authz.policy.index import compile_index
from authz.request import Call, Direction
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.in_force import InForce, PolicyInForce
from tests.conformance.reference import reference_answer
from tests.support import http2_frames as http2
from tests.support.certificates import NOW, NOW_NS, SPIFFE_ID, URI, leaf, pem
from tests.support.check_fields import NoMessageError, fields_of
from tests.support.check_request import check_request
from tests.support.http2_frames import CHECK, Frame, grpc_fields, message
from tests.support.http2_mutations import mutated
from tests.support.http2_peer import Peer
from tests.support.policy_sets import document, parsed, service

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE = "catalog"
OTHER_ID = "spiffe://shop.example/other"
SET = parsed(
    document("Mesh", "m", "{trustDomains: [shop.example]}"),
    service("orders", SPIFFE_ID),
    service("other", OTHER_ID),
    service(SERVICE),
    document(
        "MicroPolicy",
        "orders-read",
        "{from: [{services: [orders]}], to: [{services: [catalog], operations:"
        ' [{methods: [GET], paths: ["/items/{id}"]}]}]}',
    ),
    document(
        "MicroPolicy",
        "other-writes",
        "{from: [{services: [other]}], to: [{services: [catalog], operations:"
        ' [{methods: [POST, PUT], paths: ["/items/{id}/notes"]}]}]}',
    ),
)
#: real sessions that mutations begin with, and calls in each; half of them are a client's that knows no table
SESSIONS, CALLS = 40, 6
PROGRESS_S = 30.0


@dataclass(slots=True, kw_only=True)
class Told:
    """How many sessions there were, what came of their calls, and what is wrong."""

    sessions: int = 0
    allowed: int = 0
    denied: int = 0
    unanswered: int = 0
    wrong: list[str]


class Damage:
    """Makes damaged sessions by a seed, and judges what is answered to them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generator = Random(seed)  # noqa: S311 a seed makes the run the same again
        in_force = InForce()
        in_force.policy = PolicyInForce(index=compile_index(SET))
        self._checker = Checker(
            workload=Workload(service=SERVICE, identity=lambda: None),
            in_force=in_force,
            record=lambda _packed: True,
            clock=lambda: NOW_NS,
        )
        # As in a worker: what one connection has taught is known to all of them.
        self._known: dict[bytes, object] = {}
        self._sessions = [self._session(by_h2=bool(number % 2)) for number in range(SESSIONS)]
        self.told = Told(wrong=[])

    def more(self, count: int) -> None:
        """Say so many more damaged sessions."""
        for _ in range(count):
            number = self.told.sessions
            self.told.sessions += 1
            original = self._sessions[number % SESSIONS]
            said = mutated(original, self._generator, near=[at for at, _ in frames_in(original)])
            peer = self._peer()
            peer.say(said)
            self._judge(peer, said, f"seed {self._seed}, session {number}")

    def _judge(self, peer: Peer, said: bytes, where: str) -> None:
        asked: dict[int, bytes] | None = None
        for stream_id, answered in peer.heard.streams.items():
            content = answered.message
            if content is None:
                self.told.unanswered += 1
                continue
            response = external_auth_pb2.CheckResponse.FromString(content)
            if response.WhichOneof("http_response") != "ok_response" and response.status.code:
                self.told.denied += 1
                continue
            self.told.allowed += 1
            asked = checks_in(said) if asked is None else asked
            if not is_allowed(asked.get(stream_id)):
                self.told.wrong.append(f"{where}: stream {stream_id} is let through: {said!r}")

    def _peer(self) -> Peer:
        # A test of the very bytes: it shakes hands by itself.
        return Peer(handshake=b"", echo=self._checker.answer, known=self._known)

    def _session(self, *, by_h2: bool) -> bytes:
        messages = [self._check() for _ in range(CALLS)]
        if not by_h2:
            said = [http2.HANDSHAKE]
            for at, each in enumerate(messages):
                stream_id = 2 * at + 1
                block = http2.block(grpc_fields())
                said.append(http2.headers(stream_id, raw=block if at else http2.EMPTY_TABLE + block))
                said.append(http2.data(stream_id, message(each), end=True))
            return b"".join(said)
        return self._by_h2(messages)

    def _by_h2(self, messages: list[bytes]) -> bytes:
        client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        client.initiate_connection()
        peer = self._peer()
        said, heard_bytes = bytearray(), 0
        for each in (None, *messages):
            if each is not None:
                stream_id = client.get_next_available_stream_id()
                timeout = f"{self._generator.randrange(1, 9)}S"
                client.send_headers(stream_id, grpc_fields(CHECK, ("grpc-timeout", timeout)))
                client.send_data(stream_id, message(each), end_stream=True)
            sent = client.data_to_send()
            said += sent
            peer.say(sent)
            client.receive_data(bytes(peer.said[heard_bytes:]))
            heard_bytes = len(peer.said)
        return bytes(said) + client.data_to_send()

    def _check(self) -> bytes:
        generator = self._generator
        path, method, caller = generator.choice(
            (
                ("/items/42", "GET", SPIFFE_ID),
                ("/items/42", "GET", SPIFFE_ID),
                ("/items/7/notes", "POST", OTHER_ID),
                ("/items/7/notes", "PUT", OTHER_ID),
                ("/items/42", "POST", SPIFFE_ID),
                ("/items/42", "GET", OTHER_ID),
                ("/items/../admin", "GET", SPIFFE_ID),
                ("/items/7/notes", "POST", None),
            )
        )
        return check_request(
            method=method,
            path=path,
            headers=(("accept", b"*/*"), ("x-request-id", str(UUID(bytes=generator.randbytes(16))).encode())),
            certificate_pem=b"" if caller is None else pem(leaf([URI(caller)])),
            extensions={"service": SERVICE},
        ).SerializeToString()


def frames_in(said: bytes) -> Iterator[tuple[int, Frame]]:
    """Give the frames of a client, each with the place where it begins; the last one may be cut off."""
    at = len(http2.PREFACE)
    while len(said) - at >= 9:
        length = int.from_bytes(said[at : at + 3], "big")
        stream_id = int.from_bytes(said[at + 5 : at + 9], "big") & 0x7FFFFFFF
        yield at, Frame(said[at + 3], said[at + 4], stream_id, said[at + 9 : at + 9 + length])
        at += 9 + length


def checks_in(said: bytes) -> dict[int, bytes]:
    """Give the messages of all calls of the check's method, by stream, as one who remembers nothing reads them."""
    bodies, ended = dict[int, bytes](), set[int]()
    decoder, block, begun = Decoder(), b"", Frame(http2.HEADERS, 0, 0)
    for _, frame in frames_in(said):
        payload = _unpadded(frame)
        if frame.kind == http2.DATA and frame.stream_id in bodies and frame.stream_id not in ended:
            bodies[frame.stream_id] += payload
            ended |= {frame.stream_id} if frame.flags & http2.END_STREAM else set()
        if frame.kind == http2.HEADERS:
            begun, block = frame, payload
        elif frame.kind == http2.CONTINUATION:
            block += payload
        if frame.kind in {http2.HEADERS, http2.CONTINUATION} and frame.flags & http2.END_HEADERS:
            try:
                fields = dict(decoder.decode(block, raw=True))
            except HPACKError:
                break
            if begun.stream_id not in bodies and _asks(fields):
                bodies[begun.stream_id] = b""
            ended |= {begun.stream_id} if begun.flags & http2.END_STREAM else set()
    return {each: bodies[each][5:] for each in ended if each in bodies and _is_one_message(bodies[each])}


def _unpadded(frame: Frame) -> bytes:
    payload = frame.payload
    if frame.kind in {http2.DATA, http2.HEADERS} and frame.flags & http2.PADDED and payload:
        payload = payload[1 : max(1, len(payload) - payload[0])]
    return payload[5:] if frame.kind == http2.HEADERS and frame.flags & http2.HAS_PRIORITY else payload


def _asks(fields: dict[bytes, bytes]) -> bool:
    content_type = fields.get(b"content-type", b"")
    return (
        fields.get(b":method") == b"POST"
        and fields.get(b":path") == CHECK.encode()
        and content_type in {b"application/grpc", b"application/grpc+proto"}
    )


def _is_one_message(body: bytes) -> bool:
    return body[:1] == b"\0" and len(body) == 5 + int.from_bytes(body[1:5], "big")


def is_allowed(content: bytes | None) -> bool:
    """Whether the reference allows what stands in a check."""
    if content is None:
        return False
    try:
        asked = fields_of(content)
    except NoMessageError:
        return False
    context = asked["context"]
    if context.get(b"direction") != b"inbound" or context.get(b"service", SERVICE.encode()) != SERVICE.encode():
        return False
    caller = _caller(asked["certificate"])
    if caller is None:
        return False
    call = Call(
        direction=Direction.INBOUND,
        service=SERVICE,
        caller=caller,
        method=asked["method"].decode("latin-1"),
        path=asked["path"].decode("latin-1"),
        host=asked["host"].decode("latin-1"),
        headers=tuple((name.decode("latin-1"), value) for name, value in asked["headers"]),
    )
    return reference_answer(SET, call, NOW_NS).decision == Verdict.ALLOW


@lru_cache(maxsize=256)
def _caller(certificate: bytes) -> SpiffeId | None:
    armour = re.search(
        rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", unquote_to_bytes(certificate), re.DOTALL
    )
    try:
        # RFC 4648 3.5 leaves it to a reader whether the last bits of base64 have to be 0.
        found = x509.load_der_x509_certificate(b64decode(armour[1] if armour else b""))
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        if not found.not_valid_before_utc <= NOW <= found.not_valid_after_utc:
            return None
        return SpiffeId.parse(uri)
    except (ValueError, x509.ExtensionNotFound):
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable()  # what a checker says of messages that are none
    damage = Damage(given.seed)
    told, said = damage.told, time.monotonic()
    while told.sessions < given.sessions and not told.wrong:
        damage.more(min(1000, given.sessions - told.sessions))
        if time.monotonic() - said >= PROGRESS_S:
            said = time.monotonic()
            print(f"{told.sessions} damaged sessions, {told.allowed} calls allowed", flush=True)
    if told.wrong:
        print("\n".join(told.wrong[:1]), file=sys.stderr)
        return 1
    print(
        f"{told.sessions} damaged sessions, seed {given.seed}: {told.allowed} calls allowed, each by the reference as"
        f" well; {told.denied} denied, {told.unanswered} refused by HTTP/2 or gRPC"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
