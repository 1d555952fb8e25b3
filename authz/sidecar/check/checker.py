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
from copy import copy
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from authz.decision import Decision, Reason
from authz.policy.evaluation import depends_on_headers, is_long_lived, steady_until_ns
from authz.records.packed_record import DecisionPacker, packed_again, repeated
from authz.request import Direction
from authz.sidecar.check.answer import FAULT
from authz.sidecar.check.check_clock import CheckClock
from authz.sidecar.check.judgement import Judge
from authz.sidecar.check.prepared_answer import PreparedAnswers
from authz.sidecar.check.question import Context, Question, QuestionReader
from authz.sidecar.check.repeated_check import Repeats, Settled
from authz.sidecar.check.stream_deadline import StreamDeadlines, deadline_within, sooner
from authz.sidecar.errors import CheckMessageError, ClockError
from authz.sidecar.hold.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz.identity.named_authority import NamedAuthority
    from authz.identity.trust import Trust
    from authz.identity.verification import VerifiedIdentity
    from authz.policy.index import PolicyIndex
    from authz.sidecar.check.judgement import Judged
    from authz.sidecar.check.stream_deadline import Bound, StreamDeadline
    from authz.sidecar.hold.notice import Hold
    from authz.sidecar.in_force import InForce
    from authz.sidecar.tightening_page import Tightened

_log = logging.getLogger(__name__)

#: the same kind of fault is logged at most once in so long a time
FAULT_LOG_INTERVAL_S: Final = 10.0
_ID_BYTES: Final = 16
#: randomness is asked of the system for so many ids at once
_IDS_AT_ONCE: Final = 256
#: Python 3.11 runs code of its own for each member that is read from an Enum; these are read for every call.
_INBOUND: Final = Direction.INBOUND
_ALLOWED: Final = Reason.ALLOWED
_GRPC: Final = "grpc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Whose sidecar this is: the Service's name, and its SVID as it is now (None where it has none).

    `trust` gives the bundles that its source of identity delivers, the same object until they are others; it is None
    where there is no such source. No token proves anybody then, and peers are who Envoy has verified. `authorities`
    gives those that vouch for callers without SPIFFE IDs, by their files; None: nobody is known without one.
    """

    service: str
    identity: Callable[[], VerifiedIdentity | None]
    trust: Callable[[], Trust] | None = None
    authorities: Callable[[], Mapping[str, NamedAuthority]] | None = None


class Checker:
    """Answers checks for one workload from the policies in force; safe to call from several threads.

    `record` takes a packed decision (`RecordLines` reads it) and says whether it did. With `strict`, what it does
    not take is denied. `hold` is told of each allowed call that may last; one that it does not take is denied.
    `tightened` gives what an edit takes away of the set in force, the same object until another is written.
    """

    def __init__(
        self,
        *,
        workload: Workload,
        in_force: InForce,
        record: Callable[[bytes], bool],
        hold: Hold | None = None,
        strict: bool = False,
        clock: CheckClock | Callable[[], int] = time.time_ns,
        tightened: Callable[[], Tightened | None] | None = None,
    ) -> None:
        self._workload = workload
        self._tightened = _nothing_tightened if tightened is None else tightened
        self._in_force = in_force
        self._record = record
        self._hold = hold
        self._strict = strict
        clocks = clock if isinstance(clock, CheckClock) else CheckClock.alone(clock)
        self._clock = clocks.now_ns
        self._latest = clocks.latest
        self._proof_clock = clocks.proof_now_ns
        self._reader = QuestionReader(workload.service)
        self._repeats = Repeats()
        self._trust = workload.trust
        self._prepared = PreparedAnswers()
        self._packer = DecisionPacker()
        self._deadlines = StreamDeadlines()
        self._judge = Judge(workload, prepared=self._prepared, fault=self._fault, proof_clock=clocks.proof_now_ns)
        self._at_both = self._judge.at_both
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
        except ClockError as error:
            self._fault("clock", str(error))
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
            return self._answer_with(decision, question, None, self._told_ns(), perf_counter_ns(), self._prepared, b"")
        except Exception as error:  # noqa: BLE001 what is left needs nothing but itself
            self._fault("record", f"a fault of the program: {type(error).__name__}: {error}")
        return FAULT

    def _told_ns(self) -> int:
        """Give when a check was refused that was not read: by the machine's clock where no other one can be told."""
        try:
            return self._clock()
        except ClockError:
            return time.time_ns()

    def _answer(self, message: bytes) -> bytes:
        started_ns = perf_counter_ns()
        now_ns = self._clock()
        latest_ns = self._latest[0]
        if latest_ns < now_ns:
            self._latest[0] = latest_ns = now_ns
        index = self._in_force.policy.index
        own = self._workload.identity()
        trust = None if self._trust is None else self._trust()
        tightened = self._tightened()
        asked = self._repeats.key(message)
        if asked is not None:
            settled = self._repeats.settled.get(asked[0])
            if (
                settled is not None
                and settled.index is index
                and settled.own is own
                and settled.trust is trust
                and settled.tightened is tightened
                and settled.from_ns <= now_ns < settled.until_ns
                and latest_ns == now_ns
            ):
                return self._answer_again(settled, asked[1].decode("latin-1"), asked[2], now_ns, started_ns, message)
        question = self._reader.question(message)
        judged, later = self._at_both(question, index, own, tightened, now_ns, latest_ns)
        if asked is not None and latest_ns == now_ns and self._proof_clock is None and self._repeats.is_due(asked[0]):
            settled = self._settled(
                index=index, own=own, trust=trust, tightened=tightened, judged=judged, now_ns=now_ns
            )
            if settled is not None:
                self._repeats.settle(asked[0], settled)
        question, _, text, prepared, decision, _ = judged
        bound = self._bound(judged, later, now_ns, latest_ns)
        return self._answer_with(decision, question, text, now_ns, started_ns, prepared, message, bound)

    def recheck(self, message: bytes) -> Verdict:
        """Say what the call of an earlier check would get now; leaves no record, and answers nobody.

        Raises nothing: whatever goes wrong is a deny `internal_error`.
        """
        try:
            now_ns = self._clock()
            latest_ns = max(now_ns, self._latest[0])
            index = self._in_force.policy.index
            question = self._reader.question(message)
            own, tightened = self._workload.identity(), self._tightened()
            judged, later = self._at_both(question, index, own, tightened, now_ns, latest_ns)
            bound = self._bound(judged, later, now_ns, latest_ns)
        except CheckMessageError as error:
            self._fault("message", str(error))
            return Verdict(reason=Reason.INTERNAL_ERROR)
        except ClockError as error:
            self._fault("clock", str(error))
            return Verdict(reason=Reason.INTERNAL_ERROR)
        except Exception as error:  # noqa: BLE001 as in `answer`
            self._fault(type(error).__name__, f"a fault of the program: {type(error).__name__}: {error}")
            return Verdict(reason=Reason.INTERNAL_ERROR)
        if bound is None:
            return Verdict(reason=judged.decision.reason)
        return Verdict(reason=judged.decision.reason, ends_ns=self._machines_ns(bound.ends_ns), then=bound.reason)

    def _bound(self, judged: Judged, later: Judged | None, now_ns: int, latest_ns: int) -> Bound | None:
        """Give until when an allowed call may run, by the wall clock."""
        question, _, text, _, decision, tightening = judged
        if not decision.reason.allows:
            return None
        index = self._in_force.policy.index
        bound = self._deadlines.bound(decision, question, text, now_ns, index, tightening)
        if later is None:
            return bound
        other = self._deadlines.bound(later.decision, later.question, later.text, latest_ns, index, tightening)
        return sooner(bound, other, latest_ns - now_ns)

    def _machines_ns(self, ends_ns: int | None) -> int | None:
        """Give when something ends by the machine's clock, which the hold goes by."""
        if ends_ns is None or self._proof_clock is None:
            return ends_ns
        return ends_ns - self._clock() + self._proof_clock()

    def _settled(
        self,
        *,
        index: PolicyIndex | None,
        own: VerifiedIdentity | None,
        trust: Trust | None,
        tightened: Tightened | None,
        judged: Judged,
        now_ns: int,
    ) -> Settled | None:
        """Give what the same check gets when it is asked again, None where only asking again tells."""
        question, caller, decision = judged.question, judged.identity, judged.decision
        if index is None or caller is None or decision.reason is not _ALLOWED or question.has_authorization:
            return None
        if judged.tightening is not None:
            return None
        until_ns = min(steady_until_ns(index, question, now_ns), caller.not_after_ns + 1)
        # The own identity may have been replaced meanwhile.
        if until_ns <= now_ns or self._workload.identity() is not own:
            return None
        bound = self._deadlines.bound(decision, question, caller.text, now_ns, index)
        is_held = self._is_to_be_held(question, index)
        question = copy(question)
        question.headers = ()
        question.certificate = b""
        question.request_id = None
        text = caller.text
        path, kind = repeated(
            self._packer.packed(
                decision_id=b"",
                time_ns=now_ns,
                call=question,
                caller=text,
                decision=decision,
                request_id=None,
                protocol=question.protocol,
                tls_version=question.tls_version,
                tls_cipher=question.tls_cipher,
                peer_serial=question.serial if question.direction is _INBOUND else None,
                check_us=0,
            )
        )
        return Settled(
            index=index,
            own=own,
            trust=trust,
            tightened=tightened,
            from_ns=now_ns,
            until_ns=until_ns,
            question=question,
            caller=text,
            decision=decision,
            path=path,
            kind=kind,
            bound=bound,
            is_held=is_held,
        )

    def _answer_again(  # noqa: PLR0917 as in `_answer_with`
        self, settled: Settled, request_id: str, began_ns: int, now_ns: int, started_ns: int, message: bytes
    ) -> bytes:
        """Give a settled answer to a call that began at `began_ns`; its record is handed over before it leaves."""
        self._repeats.served += 1
        try:
            decision_id = self._ids.pop()
        except IndexError:
            decision_id = self._new_ids()
        question = settled.question
        is_held = settled.is_held
        if is_held and not self._take_hold(decision_id, settled.bound, started_ns, message):
            refused = settled.decision._replace(reason=Reason.OVERLOADED, policy=None, valid_until_ns=None)
            question = copy(question)
            question.request_id = request_id
            return self._answer_with(refused, question, settled.caller, now_ns, started_ns, self._prepared, message)
        packed = packed_again(
            decision_id,
            now_ns,
            request_id,
            question.address,
            settled.path,
            (perf_counter_ns() - started_ns) // 1000,
            settled.kind,
        )
        decision, deadline = settled.decision, deadline_within(settled.bound, began_ns, now_ns)
        if not self._record(packed) and self._strict:
            decision, deadline, is_held = self._unrecorded(decision), None, False
        return self._prepared.answer(
            decision=decision,
            decision_id=decision_id,
            call=question,
            caller=settled.caller,
            is_grpc=question.protocol == _GRPC,
            deadline=deadline,
            is_held=is_held,
        )

    def _answer_with(  # noqa: PLR0917 names would cost more than the values, for every call
        self,
        decision: Decision,
        question: Question,
        caller: str | None,
        now_ns: int,
        started_ns: int,
        prepared: PreparedAnswers,
        message: bytes,
        bound: Bound | None = None,
    ) -> bytes:
        """Give the answer that a decision is told in; its record is handed over before the answer leaves.

        `caller` is the text of the question's caller; `bound` what ends an allowed call.
        """
        try:
            decision_id = self._ids.pop()
        except IndexError:
            decision_id = self._new_ids()
        is_held = False
        if decision.reason.allows:
            index = self._in_force.policy.index
            is_held = self._is_to_be_held(question, index)
            if is_held and not self._take_hold(decision_id, bound, started_ns, message):
                decision = decision._replace(reason=Reason.OVERLOADED, policy=None, valid_until_ns=None)
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
            decision = self._unrecorded(decision)
        deadline: StreamDeadline | None = None
        if decision.reason.allows:
            deadline = deadline_within(bound, question.started_ns, now_ns)
        else:
            is_held = False
        return prepared.answer(
            decision=decision,
            decision_id=decision_id,
            call=question,
            caller=caller,
            is_grpc=question.protocol == _GRPC,
            deadline=deadline,
            is_held=is_held,
        )

    def _is_to_be_held(self, question: Question, index: PolicyIndex | None) -> bool:
        """Whether an allowed call may last, and there is who holds it."""
        if self._hold is None:
            return False
        # The entry of a running call has neither a token nor the headers that conditions may ask about: what depends on
        # them can be asked again only with the check's own words.
        if question.may_last or question.presenter is not None or question.context.held:
            return True
        return index is not None and (is_long_lived(index, question) or depends_on_headers(index, question))

    def _take_hold(self, decision_id: bytes, bound: Bound | None, started_ns: int, message: bytes) -> bool:
        """Hand a call to the hold, before its answer can leave; False where that is not possible."""
        ends_ns = None if bound is None else self._machines_ns(bound.ends_ns)
        if self._hold is not None and self._hold(decision_id, started_ns, ends_ns, message):
            return True
        self._fault("hold", "more long calls begin at once than the hold takes")
        return False

    def _unrecorded(self, decision: Decision) -> Decision:
        """Give what is answered where the audit is strict, and a decision cannot be recorded."""
        self._fault("record", "a decision cannot be recorded, and the audit is strict")
        return decision._replace(reason=Reason.OVERLOADED, policy=None, valid_until_ns=None)

    def _new_ids(self) -> bytes:
        """Draw many ids, each 32 bytes of hexadecimal that nobody else has, and give one of them."""
        drawn = os.urandom(_ID_BYTES * _IDS_AT_ONCE).hex().encode()
        ids = [drawn[at : at + 2 * _ID_BYTES] for at in range(0, len(drawn), 2 * _ID_BYTES)]
        taken = ids.pop()
        self._ids.extend(ids)
        return taken

    def _fault(self, kind: str, message: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1
        now_s = time.monotonic()
        if now_s - self._logged.get(kind, -FAULT_LOG_INTERVAL_S) >= FAULT_LOG_INTERVAL_S:
            self._logged[kind] = now_s
            _log.error("%s (denied, `internal_error`; %d so far)", message, self.faults[kind])


def _nothing_tightened() -> None:
    """Say that nothing is taken away of what is in force."""


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
