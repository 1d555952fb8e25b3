"""The SPIFFE Workload API: its five methods, for workloads that are attested at each call and each change.

Decides what is answered to whom; who somebody is, is `attestation`'s. A stream sends its first message at once and then
the full set again after each change of it: a renewal at half of an SVID's life, a rotation, another registration,
another foreign bundle. It ends with PermissionDenied when who asks is nobody any more.

# INVARIANT (attested now): a message leaves only after an attestation that began after the last change that is in it.
# INVARIANT (no oracle): who is refused learns only that; why stands in the record.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md
https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_Endpoint.md
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Never, TypeVar

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from google.protobuf.message import DecodeError, Message

from authz.identity.base64url import bytes_from_base64url
from authz.identity.errors import AuthorityError
from authz.identity.jwt_authority import MAX_AUDIENCE_CHARACTERS, MAX_AUDIENCES
from authz.identity.jwt_svid import JwtSvidError, verify_jwt_svid
from authz.identity.x509_chain import chain_from_pem
from authz.issuer.errors import AttestationError
from authz.issuer.issuance import LONGEST_WAIT_S
from authz.workload_api import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from datetime import datetime

    from authz.identity.bundle import Bundle
    from authz.identity.spiffe_id import SpiffeId
    from authz.issuer.attestation import WorkloadAttestation
    from authz.issuer.issuance import Issuance
    from authz.issuer.refusals import Refusals
    from authz.issuer.registration import Registration
    from authz.workload_api.peer import Peer
    from authz.workload_api.peer_front import PeerFront

_log = logging.getLogger(__name__)

#: requests are a few audiences, or one token of 16 KiB
MAX_REQUEST_BYTES: Final = 160 * 1024
#: a workload watches its SVID and two kinds of bundles, each perhaps a few times over
MAX_CALLS_OF_A_PROCESS: Final = 64
#: renewal is at half of the life, and up to a tenth of it sooner: not everybody's at once
_RENEWAL_PART: Final = (0.4, 0.5)
#: after a renewal that has failed
_RETRY_S: Final = 5.0
#: what SPIRE says, and clients know
_NO_IDENTITY: Final = "no identity issued"

_Message = TypeVar("_Message", bound=Message)

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_concurrent_streams", MAX_CALLS_OF_A_PROCESS),
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _HeldSvid:
    """An SVID as a stream sends it, and when it is to be another one."""

    chain_der: bytes
    key_der: bytes = field(repr=False)
    renew_at: datetime
    not_after: datetime


class WorkloadApiServer:
    """The handlers; `front` says who calls."""

    def __init__(
        self,
        issuance: Issuance,
        attestation: WorkloadAttestation,
        refusals: Refusals,
        *,
        front: PeerFront,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._issuance = issuance
        self._attestation = attestation
        self._refusals = refusals
        self._front = front
        self._chance = chance
        self._calls: Counter[tuple[int, int]] = Counter()

    def handler(self) -> grpc.GenericRpcHandler:
        """Give what is added to a `grpc.aio` server. Bytes in, bytes out: what is no message is refused here."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            messages.SERVICE,
            {
                messages.FETCH_X509_SVID.name: stream(self.fetch_x509_svid),
                messages.FETCH_X509_BUNDLES.name: stream(self.fetch_x509_bundles),
                messages.FETCH_JWT_SVID.name: unary(self.fetch_jwt_svid),
                messages.FETCH_JWT_BUNDLES.name: stream(self.fetch_jwt_bundles),
                messages.VALIDATE_JWT_SVID.name: unary(self.validate_jwt_svid),
            },
        )

    async def fetch_x509_svid(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        """Stream the X.509-SVIDs of who asks, with all bundles (Workload API 5.2.1)."""
        method = messages.FETCH_X509_SVID.name
        peer = await self._peer(context)
        await _parsed(messages.X509SVIDRequest, request, context)
        held: dict[SpiffeId, _HeldSvid] = {}
        last = b""
        async with self._counted(peer, context):
            while True:
                change = self._issuance.change
                registrations = await self._attested(peer, context, method)
                wait_s = await self._renew(held, registrations, context)
                message = self._x509_message(registrations, held)
                if message != last:
                    yield message
                    last = message
                await _change_or_time(change, wait_s)

    async def fetch_x509_bundles(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        """Stream the X.509 bundles, by the SPIFFE IDs of their trust domains (Workload API 5.2.2)."""
        await _parsed(messages.X509BundlesRequest, request, context)

        def message() -> Message:
            return messages.X509BundlesResponse(
                bundles={_name_of(bundle): bundle.x509_der for bundle in self._issuance.trust}
            )

        async for each in self._bundles(context, messages.FETCH_X509_BUNDLES.name, message):
            yield each

    async def fetch_jwt_bundles(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        """Stream the JWT bundles, by the SPIFFE IDs of their trust domains (Workload API 6.2.2)."""
        await _parsed(messages.JWTBundlesRequest, request, context)

        def message() -> Message:
            return messages.JWTBundlesResponse(
                bundles={_name_of(bundle): bundle.to_jwks() for bundle in self._issuance.trust}
            )

        async for each in self._bundles(context, messages.FETCH_JWT_BUNDLES.name, message):
            yield each

    async def fetch_jwt_svid(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Issue JWT-SVIDs for an audience, for all identities of who asks or for one (Workload API 6.2.1)."""
        peer = await self._peer(context)
        asked = await _parsed(messages.JWTSVIDRequest, request, context)
        audience = tuple(dict.fromkeys(asked.audience))
        if not 1 <= len(audience) <= MAX_AUDIENCES or not all(
            0 < len(one) <= MAX_AUDIENCE_CHARACTERS for one in audience
        ):
            await _end(context, grpc.StatusCode.INVALID_ARGUMENT, f"1 to {MAX_AUDIENCES} audiences are required")
        async with self._counted(peer, context):
            registrations = await self._attested(peer, context, messages.FETCH_JWT_SVID.name)
            svids = []
            for spiffe_id, hint in _identities(registrations):
                if asked.spiffe_id in {"", str(spiffe_id)}:
                    try:
                        issued = self._issuance.issue_jwt_svid(spiffe_id, audience)
                    except AuthorityError as error:
                        await self._cannot_issue(context, error)
                    svids.append(messages.JWTSVID(spiffe_id=str(spiffe_id), svid=issued.token, hint=hint))
            if not svids:
                self._refusals.refused(peer, method=messages.FETCH_JWT_SVID.name, why="it asked for another's identity")
                await _end(context, grpc.StatusCode.PERMISSION_DENIED, _NO_IDENTITY)
            return messages.JWTSVIDResponse(svids=svids).SerializeToString()

    async def validate_jwt_svid(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Say whose a JWT-SVID is, if it is good for an audience (Workload API 6.2.3)."""
        peer = await self._peer(context)
        asked = await _parsed(messages.ValidateJWTSVIDRequest, request, context)
        async with self._counted(peer, context):
            await self._attested(peer, context, messages.VALIDATE_JWT_SVID.name)
            if not asked.audience or not asked.svid:
                await _end(context, grpc.StatusCode.INVALID_ARGUMENT, "audience and svid are required")
            now_ns = int(self._issuance.clock().timestamp() * 1_000_000) * 1000
            try:
                svid = verify_jwt_svid(asked.svid, self._issuance.trust, asked.audience, now_ns)
                if svid.spiffe_id in self._issuance.registry.revoked:
                    raise JwtSvidError("the identity has been revoked")  # noqa: TRY301 one answer for both
            except JwtSvidError as error:
                await _end(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return messages.ValidateJWTSVIDResponse(
                spiffe_id=str(svid.spiffe_id), claims=_claims(asked.svid)
            ).SerializeToString()

    async def _bundles(
        self, context: grpc.aio.ServicerContext, method: str, message: Callable[[], Message]
    ) -> AsyncIterator[bytes]:
        peer = await self._peer(context)
        last: Message | None = None
        async with self._counted(peer, context):
            while True:
                change = self._issuance.change
                await self._attested(peer, context, method)
                now = message()
                if now != last:
                    yield now.SerializeToString()
                    last = now
                await _change_or_time(change, None)

    async def _peer(self, context: grpc.aio.ServicerContext) -> Peer:
        """Say who calls; ends the call where it lacks the metadata (Workload Endpoint 3) or has lost its process."""
        if messages.SECURITY_HEADER not in (tuple(each) for each in context.invocation_metadata()):
            await _end(context, grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        peer = self._front.peer(context)
        if peer is None:
            await _end(context, grpc.StatusCode.PERMISSION_DENIED, _NO_IDENTITY)
        return peer

    @contextlib.asynccontextmanager
    async def _counted(self, peer: Peer, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        """Count a call of a process as long as it lasts, and refuse one too many."""
        key = (peer.uid, peer.pid)
        if self._calls[key] >= MAX_CALLS_OF_A_PROCESS:
            await _end(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls of one process at once")
        self._calls[key] += 1
        try:
            yield
        finally:
            self._calls[key] -= 1
            if not self._calls[key]:
                del self._calls[key]

    async def _attested(self, peer: Peer, context: grpc.aio.ServicerContext, method: str) -> tuple[Registration, ...]:
        """Give the registrations of who calls; ends the call, with a record, where it is nobody's workload."""
        try:
            while True:
                registry = self._issuance.registry
                registrations = await self._attestation.registrations(peer, registry)
                if registry is self._issuance.registry:  # INVARIANT (attested now)
                    return registrations
        except AttestationError as error:
            self._refusals.refused(peer, method=method, why=str(error))
            await _end(context, grpc.StatusCode.PERMISSION_DENIED, _NO_IDENTITY)

    async def _renew(
        self,
        held: dict[SpiffeId, _HeldSvid],
        registrations: Sequence[Registration],
        context: grpc.aio.ServicerContext,
    ) -> float:
        """Issue what is missing or to be renewed, and forget the rest; give when to look again, in seconds."""
        identities = [spiffe_id for spiffe_id, _ in _identities(registrations)]
        for spiffe_id in held.keys() - set(identities):
            del held[spiffe_id]
        wait_s = LONGEST_WAIT_S
        for spiffe_id in identities:
            now = self._issuance.clock()
            before = held.get(spiffe_id)
            if before is None or not before.renew_at > now:
                try:
                    held[spiffe_id] = self._issued(spiffe_id)
                except AuthorityError as error:
                    if before is None or before.not_after <= now:
                        await self._cannot_issue(context, error)
                    _log.error("`%s` is not renewed: %s; trying again in %d s", spiffe_id, error, _RETRY_S)
                    wait_s = min(wait_s, _RETRY_S)
                    continue
            wait_s = min(wait_s, (held[spiffe_id].renew_at - now).total_seconds())
        return max(0.0, wait_s)

    def _issued(self, spiffe_id: SpiffeId) -> _HeldSvid:
        now = self._issuance.clock()
        issued = self._issuance.issue_x509_svid(spiffe_id)
        key = load_pem_private_key(issued.key_pem, password=None)
        return _HeldSvid(
            chain_der=b"".join(chain_from_pem(issued.certificate_pem)),
            key_der=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            renew_at=now + (issued.not_after - now) * self._chance(*_RENEWAL_PART),
            not_after=issued.not_after,
        )

    def _x509_message(self, registrations: Sequence[Registration], held: dict[SpiffeId, _HeldSvid]) -> bytes:
        trust = self._issuance.trust
        svids, own = [], set()
        for spiffe_id, hint in _identities(registrations):
            bundle = trust.bundle(spiffe_id.trust_domain)
            own.add(spiffe_id.trust_domain)
            svids.append(
                messages.X509SVID(
                    spiffe_id=str(spiffe_id),
                    x509_svid=held[spiffe_id].chain_der,
                    x509_svid_key=held[spiffe_id].key_der,
                    bundle=b"" if bundle is None else bundle.x509_der,
                    hint=hint,
                )
            )
        foreign = {_name_of(bundle): bundle.x509_der for bundle in trust if bundle.trust_domain not in own}
        # Deterministic: what is the same is not sent again.
        response = messages.X509SVIDResponse(svids=svids, federated_bundles=foreign)
        return response.SerializeToString(deterministic=True)

    async def _cannot_issue(self, context: grpc.aio.ServicerContext, error: AuthorityError) -> Never:
        _log.error("nothing can be issued: %s", error)
        await _end(context, grpc.StatusCode.UNAVAILABLE, "nothing can be issued now")


def _identities(registrations: Sequence[Registration]) -> Iterator[tuple[SpiffeId, str]]:
    """Give each SPIFFE ID once, with its hint: the Service's name, for the first of its IDs (hints are unique)."""
    seen = set()
    for registration in registrations:
        hint = registration.service
        for spiffe_id in registration.identities:
            if spiffe_id not in seen:
                yield spiffe_id, hint
                seen.add(spiffe_id)
                hint = ""


def _name_of(bundle: Bundle) -> str:
    return f"spiffe://{bundle.trust_domain}"


def _claims(token: str) -> dict[str, Any]:
    """Give the claims of a token that has been verified."""
    claims: dict[str, Any] = json.loads(bytes_from_base64url(token.split(".")[1].encode("ascii")))
    return claims


async def _parsed(kind: type[_Message], request: bytes, context: grpc.aio.ServicerContext) -> _Message:
    try:
        return kind.FromString(request)
    except DecodeError:
        await _end(context, grpc.StatusCode.INVALID_ARGUMENT, f"no {kind.DESCRIPTOR.name}")


async def _end(context: grpc.aio.ServicerContext, code: grpc.StatusCode, why: str) -> Never:
    await context.abort(code, why)
    raise AssertionError("abort raises")


async def _change_or_time(change: asyncio.Event, wait_s: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(change.wait(), wait_s)
