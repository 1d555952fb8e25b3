"""One check from bytes to bytes: the seam behind which a transport stands, and in front of which the decision is made.

`Checker.answer` never raises, never blocks on anything but what takes its records, and never gives an empty answer.
Whatever goes wrong is a deny `internal_error`, counted, and logged once per kind and interval.

# INVARIANT (recorded is answered): a record is handed over before its answer leaves; where the audit is strict, a
# decision that cannot be recorded is a deny `overloaded`.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from authz.decision import Decision, Reason
from authz.identity.verification import PeerVerification, Unidentified, VerifiedIdentity
from authz.policy.evaluation import called_party, evaluate
from authz.records.packed_record import DecisionPacker
from authz.request import Direction
from authz.sidecar.check.answer import FAULT
from authz.sidecar.check.bearer import names_a_workload
from authz.sidecar.check.prepared_answer import PreparedAnswers
from authz.sidecar.check.question import Context, Question, QuestionReader
from authz.sidecar.errors import CheckMessageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.policy.index import PolicyIndex
    from authz.request import Call
    from authz.sidecar.in_force import InForce

_log = logging.getLogger(__name__)

#: the same kind of fault is logged at most once in so long a time
FAULT_LOG_INTERVAL_S: Final = 10.0
_ID_BYTES: Final = 16
#: randomness is asked of the system for so many ids at once
_IDS_AT_ONCE: Final = 256
#: Python 3.11 runs code of its own for each member that is read from an Enum; these are read for every call.
_INBOUND: Final = Direction.INBOUND
_OUTBOUND: Final = Direction.OUTBOUND


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Whose sidecar this is: the Service's name, and its SVID as it is now (None where it has none)."""

    service: str
    identity: Callable[[], VerifiedIdentity | None]


class Checker:
    """Answers checks for one workload from the policies in force; safe to call from several threads.

    `record` takes a packed decision (`RecordLines` reads it) and says whether it did. With `strict`, what it does
    not take is denied.
    """

    def __init__(
        self,
        *,
        workload: Workload,
        in_force: InForce,
        record: Callable[[bytes], bool],
        strict: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._workload = workload
        self._in_force = in_force
        self._record = record
        self._strict = strict
        self._clock = clock
        self._reader = QuestionReader(workload.service)
        self._prepared = PreparedAnswers()
        self._packer = DecisionPacker()
        self._peers = PeerVerification(decode=unquote_to_bytes)
        self._ids: list[bytes] = []
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
        return self._refuse_unread(Reason.INTERNAL_ERROR)

    def shed(self, _message: bytes) -> bytes:
        """Refuse a check without a look at it, `overloaded`: more are asked than can be answered in time."""
        return self._refuse_unread(Reason.OVERLOADED)

    def _refuse_unread(self, reason: Reason) -> bytes:
        """Deny a check of which nothing is known, with a record like any other decision."""
        try:
            decision = Decision(reason=reason, policy=None, revision=self._in_force.policy.revision or "")
            question = _nothing_known(self._workload.service)
            return self._answer_with(decision, question, None, self._clock(), perf_counter_ns())
        except Exception as error:  # noqa: BLE001 what is left needs nothing but itself
            self._fault("record", f"a fault of the program: {type(error).__name__}: {error}")
        return FAULT

    def _answer(self, message: bytes) -> bytes:
        started_ns = perf_counter_ns()
        now_ns = self._clock()
        question = self._reader.question(message)
        caller: VerifiedIdentity | None = None
        if question.direction is _OUTBOUND:
            caller = self._own(now_ns)
        elif question.certificate:
            caller = self._peer(question.certificate, now_ns)
        text = None
        if caller is not None:
            question.caller = caller.spiffe_id
            question.serial = caller.serial or None
            text = caller.text
        index = self._in_force.policy.index
        if question.has_authorization and index is not None and _is_unverified(index, question):
            question.caller = text = None
        return self._answer_with(self._decide(index, question, now_ns), question, text, now_ns, started_ns)

    def _answer_with(
        self, decision: Decision, question: Question, caller: str | None, now_ns: int, started_ns: int
    ) -> bytes:
        """Give the answer that a decision is told in; its record is handed over before the answer leaves.

        `caller` is the text of the question's caller.
        """
        try:
            decision_id = self._ids.pop()
        except IndexError:
            decision_id = self._new_ids()
        packed = self._packer.packed(
            decision_id=decision_id,
            time_ns=now_ns,
            call=question,
            caller=caller,
            decision=decision,
            request_id=question.request_id,
            protocol=question.protocol,
            tls_version=question.tls_version,
            tls_cipher=question.tls_cipher,
            peer_serial=question.serial if question.direction is _INBOUND else None,
            check_us=(perf_counter_ns() - started_ns) // 1000,
        )
        if not self._record(packed) and self._strict:
            self._fault("record", "a decision cannot be recorded, and the audit is strict")
            decision = decision._replace(reason=Reason.OVERLOADED, policy=None, valid_until_ns=None)
        return self._prepared.answer(
            decision=decision,
            decision_id=decision_id,
            call=question,
            caller=caller,
            is_grpc=question.protocol == "grpc",
        )

    def _new_ids(self) -> bytes:
        """Draw many ids, each 32 bytes of hexadecimal that nobody else has, and give one of them."""
        drawn = os.urandom(_ID_BYTES * _IDS_AT_ONCE).hex().encode()
        ids = [drawn[at : at + 2 * _ID_BYTES] for at in range(0, len(drawn), 2 * _ID_BYTES)]
        taken = ids.pop()
        self._ids.extend(ids)
        return taken

    def _decide(self, index: PolicyIndex | None, question: Question, now_ns: int) -> Decision:
        if index is None:
            self._fault("no-policy-set", "there is no usable policy set: every call is denied")
            return Decision(reason=Reason.INTERNAL_ERROR, policy=None, revision="")
        context = question.context
        mismatch = self._mismatch(context)
        if mismatch:
            self._fault("context", mismatch)
            return Decision(reason=Reason.INTERNAL_ERROR, policy=None, revision=index.revision)
        try:
            decision = evaluate(index, question, now_ns)
        except Exception as error:  # noqa: BLE001 a fault in the engine is a deny with a record, not a lost call
            self._fault(type(error).__name__, f"a fault of the engine: {type(error).__name__}: {error}")
            return Decision(reason=Reason.INTERNAL_ERROR, policy=None, revision=index.revision)

        # INVARIANT (decided is reached): an allowed call goes to the destination that it was allowed to.
        if context.destination is None or not decision.reason.allows:
            return decision
        decided = decision.destination_service or decision.destination_third_party
        if context.destination != decided:
            self._fault(
                "destination",
                f"the policies say that host `{question.host[:64]}` is `{decided}`, this Envoy's routes say"
                f" `{context.destination or 'nobody'}`: give it a new configuration",
            )
            return decision._replace(reason=Reason.INTERNAL_ERROR, policy=None, valid_until_ns=None)
        return decision

    def _own(self, now_ns: int) -> VerifiedIdentity | None:
        """Find who this workload is."""
        own = self._workload.identity()
        return None if own is None or not own.not_before_ns <= now_ns <= own.not_after_ns else own

    def _peer(self, certificate: bytes, now_ns: int) -> VerifiedIdentity | None:
        """Find whom a certificate stands for."""
        try:
            return self._peers.verify(certificate, now_ns)
        except Unidentified:
            return None

    def _mismatch(self, context: Context) -> str | None:
        """Say what of the context is not this sidecar's own: then the Envoy beside it is not its Envoy."""
        service = self._workload.service
        if context.service is not None and context.service != service:
            return f"context_extensions say service `{context.service}`, this sidecar is `{service}`'s"
        if context.workload is not None:
            own = self._workload.identity()
            identity = "" if own is None else own.text
            if context.workload != identity:
                return f"context_extensions say workload `{context.workload}`, this sidecar is `{identity}`'s"
        return None

    def _fault(self, kind: str, message: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1
        now_s = time.monotonic()
        if now_s - self._logged.get(kind, -FAULT_LOG_INTERVAL_S) >= FAULT_LOG_INTERVAL_S:
            self._logged[kind] = now_s
            _log.error("%s (denied, `internal_error`; %d so far)", message, self.faults[kind])


def _nothing_known(service: str) -> Question:
    """Give what is recorded of a check that was not read."""
    return Question(
        direction=_INBOUND,
        service=service,
        caller=None,
        method="",
        path="",
        host="",
        context=Context(_INBOUND, None, None, None),
        certificate=b"",
        request_id=None,
        protocol="http/1.1",
        tls_version=None,
        tls_cipher=None,
        has_authorization=False,
    )


def _is_unverified(index: PolicyIndex, call: Call) -> bool:
    """Whether a token says who calls, to a destination that would take its word.

    # INVARIANT (no fallback): tokens are not verified here yet, and the peer is never taken for their subject: nobody
    # is identified by such a call.
    """
    destination = called_party(index, call)
    return destination is not None and destination.accepts_jwt and names_a_workload(call.headers)
