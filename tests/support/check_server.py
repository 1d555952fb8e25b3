"""The ext_authz server in this process, on a real socket: for whatever workload, policies and instant a test sets.

Calls become CheckRequests as a real Envoy sends them. Whoever calls proves it as it does there: inbound by the leaf in
the request, outbound by the SVID in the directory that the sidecar's own identity is read from. What a presenter brings
is a token, signed for the destination by the issuer of its subject's trust domain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import grpc

from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from authz.instant import NS_PER_S
from authz.policy.evaluation import called_party
from authz.proxy.header_names import AUTHZ_PREFIX
from authz.records.record_lines import RecordLines
from authz.request import Direction, TlsVersion
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.check.grpcio_server import GrpcioServer
from authz.sidecar.control.own_identity import FILE_NAME, FileIdentity
from authz.sidecar.in_force import InForce
from tests.support.certificates import URI, leaf, pem
from tests.support.check_request import ADDRESS, check_request
from tests.support.jwt_svids import TokenIssuer, bearer
from tests.support.sidecar_process import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from envoy.service.auth.v3 import external_auth_pb2

    from authz.identity.verification import VerifiedIdentity
    from authz.request import Call

#: RFC 5280 4.1.2.5: the first year that a certificate can say is 1950, and its last second is that of 9999
_NOT_BEFORE, _NOT_AFTER = datetime(1950, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_NOT_BEFORE_NS, _NOT_AFTER_NS = (int(end.timestamp()) * NS_PER_S for end in (_NOT_BEFORE, _NOT_AFTER))
_SERIAL = "5eed"
_ISSUER_KEY = TokenIssuer(trust_domain=TrustDomain.parse("any.example")).key
_AUTHORITY_PEM = pem(leaf())
_TLS_NAMES = {TlsVersion.TLS_1_2: b"TLSv1.2", TlsVersion.TLS_1_3: b"TLSv1.3"}


class NotAskable(ValueError):  # noqa: N818 a fact about the call, no fault
    """A call that no CheckRequest can hold; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came back, and the one record that was written of it."""

    response: external_auth_pb2.CheckResponse
    record: dict[str, Any]


class CheckServer:
    def __init__(self, folder: Path) -> None:
        self.in_force = InForce()
        self.now_ns = 0
        self._folder = folder
        self._records: list[bytes] = []
        self._checker: Checker
        self._server = GrpcioServer(answer=self._answer, socket_path=str(folder / "check"))
        self._channel = grpc.insecure_channel(f"unix:{folder / 'check'}")

    def clock(self) -> int:
        return self.now_ns

    def ask(self, call: Call, now_ns: int) -> Answered:
        """Ask as the Envoy beside the call's sidecar asks at that instant; raises NotAskable."""
        if call.caller is None and call.third_party is not None:
            raise NotAskable("the sidecar proves callers by their SVIDs alone")
        trust = None
        if call.presenter is not None:
            call, trust = self._with_token(call, now_ns)
        if call.caller is not None and not _NOT_BEFORE_NS <= now_ns <= _NOT_AFTER_NS:
            raise NotAskable("no certificate is valid at this instant")
        request = _request(call)
        self.now_ns = now_ns
        self._records.clear()
        self._checker = Checker(
            workload=Workload(
                service=call.service,
                identity=self._own_identity(call),
                trust=None if trust is None else lambda: trust,
            ),
            in_force=self.in_force,
            record=self._taken,
            clock=self.clock,
        )
        response = ask(self._channel, request)
        (record,) = self._records
        return Answered(response=response, record=json.loads(RecordLines(call.service).line(record)))

    def _with_token(self, call: Call, now_ns: int) -> tuple[Call, Trust]:
        """Give the call as its presenter's, with the token that it brings, and the bundles that prove both."""
        index, subject, presenter = self.in_force.policy.index, call.caller, call.presenter
        destination = None if index is None else called_party(index, call)
        if index is None or destination is None or not destination.accepts_jwt:
            raise NotAskable("a token is read only where it is accepted")
        audience = index.service_identity(destination.name)
        if audience is None or subject is None or presenter is None or now_ns < 0:
            raise NotAskable("a token has a subject, an audience and a time")
        issuers = [
            TokenIssuer(trust_domain=trust_domain, key=_ISSUER_KEY)
            for trust_domain in {subject.trust_domain, presenter.trust_domain}
        ]
        token = issuers[0].token(str(subject), str(audience), now_ns=now_ns)
        headers = (*call.headers, bearer(token))
        trust = Trust.of(each.bundle(_AUTHORITY_PEM) for each in issuers)
        return replace(call, caller=presenter, presenter=None, headers=headers), trust

    def _taken(self, packed: bytes) -> bool:
        self._records.append(packed)
        return True

    def _answer(self, message: bytes) -> bytes:
        return self._checker.answer(message)

    def _own_identity(self, call: Call) -> Callable[[], VerifiedIdentity | None]:
        if call.direction is Direction.INBOUND or call.caller is None:
            return lambda: None
        (self._folder / FILE_NAME).write_bytes(_certificate(str(call.caller), _serial(call)))
        identity = FileIdentity(str(self._folder))
        identity.read()
        return identity

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._server.stop(0)


def as_seen(call: Call) -> Call:
    """Give the call with what a real one cannot lack: an address, and the serial number of a certificate."""
    return replace(call, address=ADDRESS, serial=None if call.caller is None else _serial(call))


def _request(call: Call) -> external_auth_pb2.CheckRequest:
    for what, text in (("method", call.method), ("path", call.path), ("host", call.host)):
        if any(ord(character) > 0xFF for character in text):
            raise NotAskable(f"the {what} has a character that stands for no byte")
    for name, _ in call.headers:
        if name.startswith((":", AUTHZ_PREFIX)):
            raise NotAskable(f"the header {name} is the sidecar's own")
    inbound = call.direction is Direction.INBOUND
    own = () if call.tls is None or not inbound else (("x-authz-tls-version", _TLS_NAMES[call.tls]),)
    return check_request(
        direction=call.direction.value,
        headers=(*own, *call.headers),
        method=call.method,
        path=call.path,
        host=call.host,
        certificate_pem=_certificate(str(call.caller), _serial(call)) if inbound and call.caller is not None else b"",
    )


def _serial(call: Call) -> str:
    """Give a serial number that a certificate can have: the call's own, if it is one."""
    try:
        number = int(call.serial or "", 16)
    except ValueError:
        number = 0
    return f"{number:x}" if number > 0 else _SERIAL


@cache
def _certificate(identity: str, serial: str) -> bytes:
    return pem(leaf([URI(identity)], serial=int(serial, 16), not_before=_NOT_BEFORE, not_after=_NOT_AFTER))
