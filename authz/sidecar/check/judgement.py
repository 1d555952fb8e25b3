"""One call judged: who makes it, and what it gets, at one instant and at the latest one that the clock has shown.

# INVARIANT (both clocks): what is allowed is allowed at the wall clock and at the latest instant that it has shown. The
# two differ only where it was set back.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from authz.decision import Decision, Reason
from authz.identity.jwt_svid import LEEWAY_NS, JwtSvidError
from authz.identity.verification import PeerVerification, Unidentified, VerifiedIdentity
from authz.policy.evaluation import called_party, evaluate
from authz.policy.tightening import tighter
from authz.request import Direction, header_values
from authz.sidecar.check.answer import CHALLENGE_AFTER_BEARER
from authz.sidecar.check.bearer import names_a_workload, only_token
from authz.sidecar.check.certificate_callers import CertificateCallers
from authz.sidecar.check.prepared_answer import PreparedAnswers
from authz.sidecar.check.token_verification import TokenVerification

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.identity.spiffe_id import SpiffeId
    from authz.identity.trust import Trust
    from authz.policy.index import PolicyIndex
    from authz.policy.party import Party
    from authz.policy.tightening import Tightening
    from authz.sidecar.check.checker import Workload
    from authz.sidecar.check.question import Context, Question
    from authz.sidecar.tightening_page import Tightened

#: Python 3.11 runs code of its own for each member that is read from an Enum; this one is read for every call.
_OUTBOUND: Final = Direction.OUTBOUND


class Judged(NamedTuple):
    """What a check gets at one instant; the question's caller is who calls then, `text` that caller's."""

    question: Question
    identity: VerifiedIdentity | None
    text: str | None
    prepared: PreparedAnswers
    decision: Decision
    tightening: Tightening | None


class Judge:
    """Judges calls for one workload; safe to call from several threads.

    `prepared` are the answers to calls without a token, `fault` is told of what is no call's own affair, `proof_clock`
    is that of certificates and tokens where it is not the policies'.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        prepared: PreparedAnswers,
        fault: Callable[[str, str], None],
        proof_clock: Callable[[], int] | None,
    ) -> None:
        self._workload = workload
        self._trust = workload.trust
        self._fault = fault
        self._proof_clock = proof_clock
        #: the bundles as they were seen last, and the trust domains that they can prove certificates of
        self._provable: tuple[Trust | None, frozenset[str]] = None, frozenset()
        self._tokens = TokenVerification()
        self._prepared = prepared
        self._prepared_for_tokens = PreparedAnswers(CHALLENGE_AFTER_BEARER)
        self._peers = PeerVerification(decode=unquote_to_bytes)
        self._authorities = workload.authorities
        self._certificates = CertificateCallers()

    def at_both(  # noqa: PLR0917 as in `_answer_with`
        self,
        question: Question,
        index: PolicyIndex | None,
        own: VerifiedIdentity | None,
        tightened: Tightened | None,
        now_ns: int,
        latest_ns: int,
    ) -> tuple[Judged, Judged | None]:
        """Judge at the wall clock and, where that is behind it, at the latest instant; the question is filled in."""
        if latest_ns == now_ns:
            return self._judged(question, index, own, tightened, now_ns), None
        later = self._judged(copy(question), index, own, tightened, latest_ns)
        return _the_stricter(self._judged(question, index, own, tightened, now_ns), later, latest_ns - now_ns)

    def _judged(
        self,
        question: Question,
        index: PolicyIndex | None,
        own: VerifiedIdentity | None,
        tightened: Tightened | None,
        now_ns: int,
    ) -> Judged:
        """Find who calls, and decide, at one instant; the question is filled in."""
        caller: VerifiedIdentity | None = None
        proof_ns = now_ns if self._proof_clock is None else self._proof_clock()
        if question.direction is _OUTBOUND:
            caller = None if own is None or not own.not_before_ns <= proof_ns <= own.not_after_ns else own
        elif question.certificate:
            # INVARIANT (own door): who has come in by an authority without SPIFFE IDs is never believed to have one.
            if not question.context.certificates:
                caller = self._peer(question.certificate, index, proof_ns)
            if caller is None:
                self._certified(question, index, proof_ns)
        text = None
        if caller is not None:
            question.caller = caller.spiffe_id
            question.serial = caller.serial or None
            question.proof_ends_ns = caller.not_after_ns
            text = caller.text
        prepared = self._prepared
        if question.has_authorization and index is not None:
            destination = called_party(index, question)
            if destination is not None and destination.accepts_jwt:
                credentials = header_values(question.headers, "authorization")
                if names_a_workload(credentials):
                    prepared = self._prepared_for_tokens
                    text = self.subject(index, question, destination, only_token(credentials), proof_ns)
        if proof_ns != now_ns:
            self._by_one_clock(question, now_ns - proof_ns)
        tightening = _tightening(tightened, index)
        decision = self._decide(index, question, now_ns, tightening)
        return Judged(question, caller, text, prepared, decision, tightening)

    def _decide(
        self, index: PolicyIndex | None, question: Question, now_ns: int, tightening: Tightening | None
    ) -> Decision:
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
            if tightening is not None:
                decision = tighter(decision, index, question, now_ns, tightening)
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

    def _peer(self, certificate: bytes, index: PolicyIndex | None, now_ns: int) -> VerifiedIdentity | None:
        """Find whom a certificate stands for."""
        try:
            found = self._peers.verify(certificate, now_ns)
        except Unidentified:
            return None
        if self._trust is None:
            return found
        trust = self._trust()
        seen, provable = self._provable
        if trust is not seen:
            provable = frozenset(bundle.trust_domain.name for bundle in trust if bundle.x509_authorities)
            self._provable = trust, provable
        # INVARIANT (no bundle, no trust): Envoy has verified the chain when the connection began, by a bundle that may
        # have been withdrawn since. X509-SVID 5.
        spiffe_id = found.spiffe_id
        if spiffe_id.trust_domain.name in provable or (index is not None and _is_nobodys(index, spiffe_id)):
            return found
        return None

    def _certified(self, question: Question, index: PolicyIndex | None, now_ns: int) -> None:
        """Make the ThirdParty that the certificate proves, without a SPIFFE ID, the caller."""
        if self._authorities is None or index is None or not index.knows_certificates:
            return
        found = self._certificates.caller(question.certificate, index, self._authorities(), now_ns)
        if found is not None:
            question.third_party, question.serial, question.proof_ends_ns = found

    def subject(
        self, index: PolicyIndex, question: Question, destination: Party, token: bytes | None, now_ns: int
    ) -> str | None:
        """Make the subject of the call's token its caller, and the peer its presenter; gives the caller's text.

        # INVARIANT (no fallback): the peer is never taken for the subject. Where the token proves nobody, or nobody
        # presents it, nobody calls.
        """
        presenter = question.presenter = question.caller
        question.caller = question.third_party = None
        audience = index.service_identity(destination.name)
        if presenter is None or audience is None or token is None or self._trust is None:
            return None
        try:
            subject = self._tokens.verify(token, self._trust(), str(audience), now_ns)
        except JwtSvidError:
            return None
        question.caller = subject.spiffe_id
        # A token that counts for a moment beyond its end is no reason to cut what it was just let in with.
        until_ns = subject.expires_ns if subject.expires_ns > now_ns else subject.expires_ns + LEEWAY_NS
        question.proof_ends_ns = min(until_ns, question.proof_ends_ns or until_ns)
        return subject.text

    @staticmethod
    def _by_one_clock(question: Question, ahead_ns: int) -> None:
        """Say by the clock of policies what was said by that of proofs and Envoy, which are so much behind it."""
        if question.proof_ends_ns is not None:
            question.proof_ends_ns += ahead_ns
        question.started_ns += ahead_ns

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


def _the_stricter(judged: Judged, later: Judged, ahead_ns: int) -> tuple[Judged, Judged | None]:
    """Give what a check gets at two instants, and the later one's where both allow it: then what ends first ends it.

    Where both deny, the wall clock's reason is given.
    """
    if not judged.decision.reason.allows:
        return judged, None
    if not later.decision.reason.allows:
        return later, None
    until_ns = later.decision.valid_until_ns
    if until_ns is None:
        return judged, later
    until_ns -= ahead_ns
    own_ns = judged.decision.valid_until_ns
    if own_ns is not None and own_ns <= until_ns:
        return judged, later
    return judged._replace(decision=judged.decision._replace(valid_until_ns=until_ns)), later


def _tightening(tightened: Tightened | None, index: PolicyIndex | None) -> Tightening | None:
    """Give what is taken away of this index."""
    return (
        tightened.tightening if tightened is not None and index is not None and tightened.of == index.revision else None
    )


def _is_nobodys(index: PolicyIndex, spiffe_id: SpiffeId) -> bool:
    """Whether the policies know neither the ID nor its trust domain: it is `untrusted`, whoever vouches for it."""
    return spiffe_id.trust_domain not in index.trust_domains and index.owner(spiffe_id) is None
