"""The source of an identity, asked once: who we are to it, until when, and whose bundles it has.

A Workload API answers the process that asks: run it as the user, and the program, whose identity is in question.

# INVARIANT (silent): what is fetched has the private key in it, as it always does. It is checked against the
certificate and dropped; no text is made of it.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from authz.doctor.observation import missing, ok, span, warning
from authz.errors import AuthzError
from authz.identity.certificate_blocks import CertificateBlockError, all_from_der
from authz.identity.errors import IdentityError, quoted
from authz.identity.trust import Trust
from authz.identity.x509_chain import MAX_CHAIN_CERTIFICATES, chain_from_pem
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES, x509_svid_from_der
from authz.instant import NS_PER_S, rfc3339_from_ns
from authz.proxy.spec import KEY_FILE, SVID_FILE
from authz.sidecar.control.file_source import FileSource
from authz.svid_files import read_public_file
from authz.workload_api.endpoint import grpc_target
from authz.workload_api.errors import WorkloadApiError
from authz.workload_api.messages import FETCH_JWT_BUNDLES, FETCH_X509_SVID, SECURITY_HEADER
from authz.workload_api.received import MAX_MESSAGE_BYTES, received_jwt_bundles, received_x509

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from authz.doctor.observation import Observation
    from authz.identity.bundle import Bundle
    from authz.identity.x509_svid import X509Svid
    from authz.workload_api.messages import Method, X509SVIDResponse
    from authz.workload_api.received import ReceivedX509

#: SPIRE and the issuer answer within milliseconds, a busy machine within seconds.
PATIENCE_S: Final = 10.0
#: A source renews at about half of a life; so little of it left says that it does not.
_RENEWED: Final = 3
#: An authority that ends so soon, and has no successor in the bundle, leaves nobody the time to fetch one.
AUTHORITY_SOON: Final = timedelta(hours=1)
_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_CLOCKS: Final = "set the clocks of this machine and the issuer's by NTP"

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a source has said: SVIDs with the bundles of X.509, and those of JWT-SVIDs."""

    x509: ReceivedX509
    jwt: Trust


class SourceObservations:
    """Looks at one source; `fetched` is what came of it, None where nothing did, once the observations are read."""

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self.fetched: Fetched | None = None

    def of_workload_api(self, endpoint: str) -> Iterator[Observation]:
        """Ask a Workload API; raises WorkloadApiError where `endpoint` is none."""
        about = "workload api"
        target = grpc_target(endpoint)
        unreachable = _unreachable(about, target)
        if unreachable is not None:
            yield unreachable
            return
        now = datetime.now(UTC)
        try:
            message = self._asked(target, FETCH_X509_SVID)
        except grpc.RpcError as error:
            yield _refusal(about, endpoint, error)
            return
        except WorkloadApiError as error:
            yield missing(about, f"{endpoint}: {error}", "ask whoever runs it; it is no Workload API as specified")
            return
        try:
            x509 = received_x509(message, now)
        except WorkloadApiError as error:
            yield missing(about, f"{endpoint}: {error}", "see the SVIDs below; the sidecar would not use this message")
            yield from _validities(_leaves(message), now)
            return
        yield ok(about, f"{endpoint} answers, with {len(x509.svids)} X.509-SVIDs")
        jwt = Trust.of(())
        try:
            jwt = received_jwt_bundles(self._asked(target, FETCH_JWT_BUNDLES)).trust
        except grpc.RpcError as error:
            remedy = "JWT-SVIDs are not believed; where a Service accepts none, there is nothing to do"
            yield warning("jwt bundles", _status(error), remedy)
        except WorkloadApiError as error:
            yield warning("jwt bundles", str(error), "JWT-SVIDs are not believed; ask whoever runs the Workload API")
        self.fetched = Fetched(x509=x509, jwt=jwt)
        yield from self._found(self.fetched, now)

    def of_files(self, directory: str) -> Iterator[Observation]:
        """Read a directory as the sidecar would."""
        about, now = "svid files", datetime.now(UTC)
        faults = _Heard()
        log = logging.getLogger("authz.sidecar.control.trust_files")
        before, log.propagate = log.propagate, False
        log.addHandler(faults)
        try:
            received = FileSource(directory).look()
        except AuthzError as error:
            remedy = f"{directory} is to hold {SVID_FILE}, {KEY_FILE} and bundle.json or bundle.pem; `authz svid mint`"
            yield missing(about, str(error), f"{remedy} writes them")
            yield from _validities(_leaf_of_file(directory), now)
            return
        finally:
            log.removeHandler(faults)
            log.propagate = before
        if received is None:
            yield missing(about, f"{directory} says nothing", "try again")
            return
        yield ok(about, f"{directory} holds an SVID, its key and bundles")
        for fault in faults.texts:
            yield warning("bundle files", fault, "replace the file; nobody of that trust domain is believed")
        yield from _key_file(Path(directory, KEY_FILE))
        self.fetched = Fetched(x509=received, jwt=received.trust)
        yield from self._found(self.fetched, now)

    def _asked(self, target: str, method: Method[_Request, _Response]) -> _Response:
        """Give the first message; raises grpc.RpcError, or WorkloadApiError where there is none that can be read."""
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            # A proxy that the environment names is none for a socket of this machine.
            ("grpc.enable_http_proxy", 0),
            ("grpc.default_authority", "localhost"),
        ]
        with grpc.insecure_channel(target, options=options) as channel:
            call = channel.unary_stream(method.path)(
                method.request().SerializeToString(), metadata=[SECURITY_HEADER], timeout=self._patience_s
            )
            try:
                content = next(call, None)
            finally:
                call.cancel()
        if content is None:
            raise WorkloadApiError("the stream has ended without a message")
        try:
            return method.response.FromString(content)
        except DecodeError:
            pass
        # Not `from` the error, which might quote the message, and the message holds a key.
        raise WorkloadApiError("it sent what is no message of a Workload API")

    def _found(self, fetched: Fetched, now: datetime) -> Iterator[Observation]:
        yield from _validities((held.svid for held in fetched.x509.svids), now)
        for fault in fetched.x509.faults:
            yield warning("bundles", fault, "ask whoever runs the source; nobody of that trust domain is believed")
        own = fetched.x509.own
        for trust_domain in sorted({*fetched.x509.trust.bundles, *fetched.jwt.bundles}):
            x509, jwt = fetched.x509.trust.bundle(trust_domain), fetched.jwt.bundle(trust_domain)
            kind = "own" if trust_domain in own else "federated"
            yield bundle_observation(f"bundle of {trust_domain}", x509, jwt, now, kind=kind)


def bundle_observation(about: str, x509: Bundle | None, jwt: Bundle | None, now: datetime, *, kind: str) -> Observation:
    """Say what a bundle can prove, and for how long."""
    authorities = () if x509 is None else x509.x509_authorities
    keys = 0 if jwt is None else len(jwt.jwt_authorities)
    counted = f"{kind}: {len(authorities)} X.509 authorities, {keys} JWT keys"
    if not authorities:
        return warning(about, f"{counted}: it proves no X.509-SVID", "where that is not intended, get the whole bundle")
    last = max(one.not_valid_after_utc for one in authorities)
    if last <= now:
        return missing(
            about, f"{counted}: the last has ended at {_shown(last)}", "get the bundle of now from its owner"
        )
    if last - now < AUTHORITY_SOON:
        says = f"{counted}: the last ends in {span(last - now)}, and there is no successor"
        return warning(about, says, "see that the authority is rotated, and its bundle fetched")
    ended = sum(one.not_valid_after_utc <= now for one in authorities)
    return ok(about, f"{counted}, until {_shown(last)}" + (f"; {ended} have ended" if ended else ""))


def validity(svid: X509Svid, now: datetime) -> Observation:
    """Hold an SVID's life against this machine's clock."""
    about = str(svid.spiffe_id)
    now_ns = int(now.timestamp() * NS_PER_S)
    left = timedelta(microseconds=(svid.not_after_ns - now_ns) // 1000)
    if now_ns < svid.not_before_ns:
        ahead = timedelta(microseconds=(svid.not_before_ns - now_ns) // 1000)
        says = f"the SVID begins only in {span(ahead)}: this machine's clock is behind, or the issuer's ahead"
        return missing(about, says, _CLOCKS)
    if now_ns > svid.not_after_ns:
        says = f"the SVID has ended {span(left)} ago, at {rfc3339_from_ns(svid.not_after_ns)}"
        return missing(about, says, f"see why the source does not renew it; or {_CLOCKS}")
    life = timedelta(microseconds=(svid.not_after_ns - svid.not_before_ns) // 1000)
    says = f"serial {svid.serial}, until {rfc3339_from_ns(svid.not_after_ns)}: {span(left)} of {span(life)} left"
    if left * _RENEWED < life:
        return warning(about, f"{says}; it should have been renewed", "see why the source does not renew it")
    return ok(about, says)


def _validities(svids: Iterable[X509Svid], now: datetime) -> Iterator[Observation]:
    return (validity(svid, now) for svid in svids)


def _leaves(message: X509SVIDResponse) -> Iterator[X509Svid]:
    """Give the leaves of a message that is not to be used, as far as they can be read."""
    for sent in message.svids:
        try:
            yield x509_svid_from_der(all_from_der(sent.x509_svid, at_most=MAX_CHAIN_CERTIFICATES)[0])
        except (CertificateBlockError, IdentityError, IndexError):
            continue


def _leaf_of_file(directory: str) -> Iterator[X509Svid]:
    try:
        chain = chain_from_pem(read_public_file(Path(directory, SVID_FILE), max_bytes=MAX_CERTIFICATE_BYTES))
        yield x509_svid_from_der(chain[0])
    except AuthzError:
        return


def _key_file(path: Path) -> Iterator[Observation]:
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & _FOR_OTHERS:
        says = f"mode {stat.S_IMODE(mode):04o}: others than its owner may read this private key"
        yield warning("key file", f"{path}: {says}", f"chmod 600 {path}, and have the SVID issued anew")


class _Heard(logging.Handler):
    """Keeps what is said in a log."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _unreachable(about: str, target: str) -> Observation | None:
    """Say why nobody can connect, None where one can, or where it is no unix socket."""
    if not target.startswith("unix:"):
        return None
    path = target.removeprefix("unix:")
    return unreachable_socket(about, path, start="start SPIRE's agent or `authz identity serve` with this socket")


def unreachable_socket(about: str, path: str, *, start: str) -> Observation | None:
    """Say why nobody can connect to a unix socket, None where one can; `start` is what to do where nobody listens."""
    says, remedy = "", start
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return missing(about, f"{path} is no socket", "give the path of the socket itself")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(path)
    except (FileNotFoundError, NotADirectoryError):
        says = f"{path} is not there"
    except ConnectionRefusedError:
        says = f"{path} is there, and nobody listens"
    except PermissionError:
        says = f"uid {os.geteuid()} may not connect to {path}"
        remedy = "give this user the right to connect (mode and group of the socket and of its folders)"
    except TimeoutError:
        says, remedy = f"{path} takes no connection within {PATIENCE_S:.0f} s", "see whether its server hangs"
    except (OSError, ValueError) as error:
        says = f"{path}: {((isinstance(error, OSError) and error.strerror) or str(error)).lower()}"
    return missing(about, says, remedy) if says else None


def _refusal(about: str, endpoint: str, error: grpc.RpcError) -> Observation:
    """Say what a status means, and what to do."""
    says = f"{endpoint}: {_status(error)}"
    code = error.code()
    if code is grpc.StatusCode.PERMISSION_DENIED:
        says = f"{says}: it has no identity for this process (uid {os.geteuid()}, pid {os.getpid()})"
        remedy = (
            "ask as the workload itself; with `authz identity serve`, see `attest` of its Service and the issuer's log;"
            " with SPIRE, `spire-server entry show`, and the agent's log for the selectors it found"
        )
        return missing(about, says, remedy)
    remedies: dict[grpc.StatusCode, str] = {
        grpc.StatusCode.UNAVAILABLE: "nobody listens there, or somebody who speaks no gRPC: see what runs",
        grpc.StatusCode.DEADLINE_EXCEEDED: "see the log of whoever serves it: it may wait for its own server",
        grpc.StatusCode.UNIMPLEMENTED: "this is another gRPC server; give the socket of the Workload API",
        grpc.StatusCode.RESOURCE_EXHAUSTED: "too many calls are under way; try again, and see who makes them",
    }
    return missing(about, says, remedies.get(code, "see the log of whoever serves it"))


def _status(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {quoted((error.details() or 'no word why').strip())}"


def _shown(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
