"""One check from bytes to bytes: the seam behind which a transport stands, and in front of which the decision is made.

`Checker.answer` never raises, never blocks on anything but the decision log's own write, and never gives an empty
answer. Whatever goes wrong is a deny `internal_error`, counted, and logged once per kind and interval.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from authz.decision import Decision, Reason, Verdict
from authz.identity.verification import PeerVerification, Unidentified, VerifiedIdentity
from authz.policy.evaluation import called_party, evaluate
from authz.records.decision_record import DecisionRecord, WireFacts
from authz.request import Call, Direction
from authz.sidecar.check.answer import FAULT, answer_bytes
from authz.sidecar.check.bearer import names_a_workload
from authz.sidecar.check.question import Question, question_from_bytes
from authz.sidecar.errors import CheckMessageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.policy.index import PolicyIndex
    from authz.sidecar.in_force import InForce

_log = logging.getLogger(__name__)

#: the same kind of fault is logged at most once in so long a time
FAULT_LOG_INTERVAL_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Whose sidecar this is: the Service's name, and its SVID as it is now (None where it has none)."""

    service: str
    identity: Callable[[], VerifiedIdentity | None]


class Checker:
    """Answers checks for one workload from the policies in force; safe to call from several threads."""

    def __init__(
        self,
        *,
        workload: Workload,
        in_force: InForce,
        record: Callable[[DecisionRecord], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._workload = workload
        self._in_force = in_force
        self._record = record
        self._clock = clock
        self._peers = PeerVerification()
        self._logged: dict[str, float] = {}
        #: how often each kind of fault was answered with a deny
        self.faults: dict[str, int] = {}

    def answer(self, message: bytes) -> bytes:
        """Answer the bytes of a CheckRequest with the bytes of a CheckResponse."""
        try:
            return self._answer(message)
        except CheckMessageError as error:
            self._fault("message", str(error))
        except Exception as error:  # noqa: BLE001 the outermost edge: a fault denies, it never leaves without an answer
            self._fault(type(error).__name__, f"a fault of the program: {type(error).__name__}: {error}")
        try:
            return self._refuse_unread()
        except Exception as error:  # noqa: BLE001 what is left needs nothing but itself
            self._fault("record", f"a fault of the program: {type(error).__name__}: {error}")
        return FAULT

    def _refuse_unread(self) -> bytes:
        """Deny a check of which nothing is known, with a record like any other decision."""
        service = self._workload.service
        return self._answer_with(
            Decision(reason=Reason.INTERNAL_ERROR, policy=None, revision=self._in_force.policy.revision or ""),
            call=Call(direction=Direction.INBOUND, service=service, caller=None, method="", path="", host=""),
            wire=WireFacts(request_id=None, protocol="http/1.1", tls_version=None, tls_cipher=None, peer_serial=None),
            now_ns=self._clock(),
            started_ns=time.perf_counter_ns(),
        )

    def _answer(self, message: bytes) -> bytes:
        started_ns = time.perf_counter_ns()
        now_ns = self._clock()
        question = question_from_bytes(message)
        caller, serial = self._caller(question, now_ns)
        call = Call(
            direction=question.direction,
            service=self._workload.service,
            caller=None if caller is None else caller.spiffe_id,
            method=question.method,
            path=question.path,
            host=question.host,
            headers=question.headers,
            tls=question.tls,
            address=question.address,
            serial=serial,
        )
        wire = WireFacts(
            request_id=question.request_id,
            protocol=question.protocol,
            tls_version=None if question.tls is None else question.tls.value,
            tls_cipher=question.tls_cipher,
            peer_serial=serial if question.direction is Direction.INBOUND else None,
        )
        index = self._in_force.policy.index
        if index is not None and _is_unverified(index, call):
            call = replace(call, caller=None)
        decision = self._decide(question, index, call, now_ns)
        return self._answer_with(decision, call=call, wire=wire, now_ns=now_ns, started_ns=started_ns)

    def _answer_with(self, decision: Decision, *, call: Call, wire: WireFacts, now_ns: int, started_ns: int) -> bytes:
        """Give the answer that a decision is told in; its record is written before the answer leaves."""
        decision_id = uuid.uuid4().hex
        answer = answer_bytes(decision=decision, decision_id=decision_id, call=call, is_grpc=wire.protocol == "grpc")
        self._record(
            DecisionRecord(
                decision_id=decision_id,
                time_ns=now_ns,
                sidecar=self._workload.service,
                call=call,
                decision=decision,
                wire=wire,
                check_us=(time.perf_counter_ns() - started_ns) // 1000,
            )
        )
        return answer

    def _decide(self, question: Question, index: PolicyIndex | None, call: Call, now_ns: int) -> Decision:
        if index is None:
            self._fault("no-policy-set", "there is no usable policy set: every call is denied")
            return Decision(reason=Reason.INTERNAL_ERROR, policy=None, revision="")
        mismatch = self._mismatch(question)
        if mismatch:
            self._fault("context", mismatch)
            return Decision(reason=Reason.INTERNAL_ERROR, policy=None, revision=index.revision)
        try:
            decision = evaluate(index, call, now_ns)
        except Exception as error:  # noqa: BLE001 a fault in the engine is a deny with a record, not a lost call
            self._fault(type(error).__name__, f"a fault of the engine: {type(error).__name__}: {error}")
            return Decision(reason=Reason.INTERNAL_ERROR, policy=None, revision=index.revision)

        # INVARIANT (decided is reached): an allowed call goes to the destination that it was allowed to.
        decided = decision.destination_service or decision.destination_third_party
        if decision.verdict is Verdict.ALLOW and question.routed_to not in (None, decided):
            self._fault(
                "destination",
                f"the policies say that host `{call.host[:64]}` is `{decided}`, this Envoy's routes say"
                f" `{question.routed_to or 'nobody'}`: give it a new configuration",
            )
            return decision._replace(reason=Reason.INTERNAL_ERROR, policy=None, valid_until_ns=None)
        return decision

    def _caller(self, question: Question, now_ns: int) -> tuple[VerifiedIdentity | None, str | None]:
        """Find who calls, and the serial of the certificate that says so."""
        if question.direction is Direction.OUTBOUND:
            own = self._workload.identity()
            if own is None or not own.not_before_ns <= now_ns <= own.not_after_ns:
                return None, None
            return own, own.serial or None
        if not question.certificate_pem:
            return None, None
        try:
            peer = self._peers.verify(question.certificate_pem, now_ns)
        except Unidentified:
            return None, None
        return peer, peer.serial

    def _mismatch(self, question: Question) -> str | None:
        """Say what of the context is not this sidecar's own: then the Envoy beside it is not its Envoy."""
        service = self._workload.service
        if question.claimed_service not in (None, service):
            return f"context_extensions say service `{question.claimed_service}`, this sidecar is `{service}`'s"
        if question.claimed_workload is not None:
            own = self._workload.identity()
            identity = "" if own is None else str(own.spiffe_id)
            if question.claimed_workload != identity:
                return f"context_extensions say workload `{question.claimed_workload}`, this sidecar is `{identity}`'s"
        return None

    def _fault(self, kind: str, message: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1
        now_s = time.monotonic()
        if now_s - self._logged.get(kind, -FAULT_LOG_INTERVAL_S) >= FAULT_LOG_INTERVAL_S:
            self._logged[kind] = now_s
            _log.error("%s (denied, `internal_error`; %d so far)", message, self.faults[kind])


def _is_unverified(index: PolicyIndex, call: Call) -> bool:
    """Whether a token says who calls, to a destination that would take its word.

    # INVARIANT (no fallback): tokens are not verified here yet, and the peer is never taken for their subject: nobody
    # is identified by such a call.
    """
    destination = called_party(index, call)
    return destination is not None and destination.accepts_jwt and names_a_workload(call.headers)
