"""A source of identities that is asked once: each way in which it fails is told apart, and no key is ever shown."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from authz.doctor.identity_source import SourceObservations, bundle_observation, validity
from authz.doctor.observation import Level
from authz.errors import AuthzError
from authz.identity.authority import Authority
from authz.identity.bundle import bundle_from_pem
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.x509_svid import x509_svid_from_pem
from authz.svid_files import write_svid
from authz.workload_api.messages import SERVICE, X509SVID, X509SVIDResponse
from tests.support.workload_api_messages import ORDERS, authority, der, issued, key_der, response, svid, texts_of_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.doctor.observation import Observation

SHOP = TrustDomain.parse("shop.example")
#: a bound for what must happen
PATIENCE_S = 60.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder whose path leaves room for those of sockets."""
    made = Path(tempfile.mkdtemp(prefix="dr-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def workload_api(path: Path, answer: Callable[[grpc.ServicerContext], Iterator[bytes]]) -> Iterator[str]:
    """Serve a Workload API of the X.509 profile alone."""
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    handler = grpc.unary_stream_rpc_method_handler(lambda _, context: answer(context))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"FetchX509SVID": handler}),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield f"unix://{path}"
    finally:
        server.stop(0).wait(PATIENCE_S)


def asked(endpoint: str, patience_s: float = PATIENCE_S) -> list[Observation]:
    return list(SourceObservations(patience_s=patience_s).of_workload_api(endpoint))


def says(observations: list[Observation], about: str) -> Observation:
    return next(one for one in observations if one.about == about)


def test_what_a_source_has_is_named_and_its_key_is_not(folder: Path) -> None:
    by, acme = authority(), authority("acme.example")
    made = issued(by)
    one = svid(by, x509_svid=der(made.certificate_pem), x509_svid_key=key_der(made.key_pem))
    message = response(one, federated={"spiffe://acme.example": der(acme.certificate_pem)})
    look = SourceObservations(patience_s=PATIENCE_S)
    with workload_api(folder / "w", lambda _: iter([message.SerializeToString()])) as endpoint:
        seen = list(look.of_workload_api(endpoint))
    assert says(seen, ORDERS).level is Level.OK
    assert says(seen, "bundle of shop.example").says.startswith("own: 1 X.509 authorities, 0 JWT keys, until ")
    assert says(seen, "bundle of acme.example").says.startswith("federated: 1 X.509 authorities")
    # it has the one profile only
    assert says(seen, "jwt bundles").level is Level.WARNING
    assert look.fetched is not None
    assert not any(text in f"{seen}{look.fetched}" for text in texts_of_key(key_der(made.key_pem)))


def test_what_is_no_socket_of_a_server_is_told_apart(folder: Path) -> None:
    (folder / "file").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(folder / "left"))
    for name, words, remedy in (
        ("file", "is no socket", "the socket itself"),
        ("gone", "is not there", "start"),
        ("file/below", "is not there", "start"),
        ("left", "nobody listens", "start"),
    ):
        [told] = asked(str(folder / name))
        assert (told.level, words in told.says, remedy in told.remedy) == (Level.MISSING, True, True)


def test_who_speaks_no_grpc_is_no_workload_api(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "w"))
        listener.listen()

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        server = threading.Thread(target=hang_up, daemon=True)
        server.start()
        [told] = asked(str(folder / "w"))
        listener.shutdown(socket.SHUT_RDWR)
        server.join(PATIENCE_S)
    assert (told.level, "UNAVAILABLE" in told.says) == (Level.MISSING, True)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "as the workload itself"),
        (grpc.StatusCode.UNIMPLEMENTED, "another gRPC server"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls"),
        (grpc.StatusCode.INTERNAL, "see the log"),
    ],
)
def test_a_refusal_is_explained_by_its_status_and_its_words_are_escaped(
    folder: Path, code: grpc.StatusCode, remedy: str
) -> None:
    def refuse(context: grpc.ServicerContext) -> Iterator[bytes]:
        context.abort(code, "no\nidentity \x1b[2J")
        yield b""

    with workload_api(folder / "w", refuse) as endpoint:
        [told] = asked(endpoint)
    assert told.level is Level.MISSING
    assert rf"{code.name}: `no\nidentity" in told.says
    assert remedy in told.remedy


def test_a_source_that_hangs_is_not_waited_for(folder: Path) -> None:
    end = threading.Event()

    def hang(_: grpc.ServicerContext) -> Iterator[bytes]:
        end.wait(PATIENCE_S)
        yield b""

    with workload_api(folder / "w", hang) as endpoint:
        [told] = asked(endpoint, patience_s=0.2)
        end.set()
    assert "DEADLINE_EXCEEDED" in told.says


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "ended without a message"),
        ([b"\xff\xff"], "no message of a Workload API"),
        ([X509SVIDResponse().SerializeToString()], "without an X.509-SVID"),
    ],
)
def test_a_message_that_is_none_is_said(folder: Path, messages: list[bytes], words: str) -> None:
    with workload_api(folder / "w", lambda _: iter(messages)) as endpoint:
        [told] = asked(endpoint)
    assert (told.level, words in told.says) == (Level.MISSING, True)


def test_an_svid_that_has_not_begun_tells_of_the_clocks(folder: Path) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    by = Authority.generate(SHOP, later, timedelta(days=1))
    made = by.issue_x509_svid(SpiffeId.parse(ORDERS), later, timedelta(hours=1))
    message = X509SVIDResponse(
        svids=[
            X509SVID(
                spiffe_id=ORDERS,
                x509_svid=der(made.certificate_pem),
                x509_svid_key=key_der(made.key_pem),
                bundle=der(by.certificate_pem),
            )
        ]
    )
    with workload_api(folder / "w", lambda _: iter([message.SerializeToString()])) as endpoint:
        refused, told = asked(endpoint)
    assert (refused.about, refused.level) == ("workload api", Level.MISSING)
    assert (told.about, "clock is behind" in told.says, "NTP" in told.remedy) == (ORDERS, True, True)


@pytest.mark.parametrize(
    ("age", "level", "words"),
    [
        (timedelta(minutes=5), Level.OK, "55 min of"),
        (timedelta(minutes=50), Level.WARNING, "should have been renewed"),
        (timedelta(minutes=90), Level.MISSING, "has ended 30 min ago"),
        (timedelta(minutes=-90), Level.MISSING, "begins only in"),
    ],
)
def test_the_life_of_an_svid_is_held_against_the_clock(age: timedelta, level: Level, words: str) -> None:
    issue = datetime.now(UTC).replace(microsecond=0)
    made = authority().issue_x509_svid(SpiffeId.parse(ORDERS), issue, timedelta(hours=1))
    told = validity(x509_svid_from_pem(made.certificate_pem), issue + age)
    assert (told.level, words in told.says) == (level, True)


@pytest.mark.parametrize(
    ("left", "level"),
    [(timedelta(hours=20), Level.OK), (timedelta(minutes=30), Level.WARNING), (timedelta(hours=-1), Level.MISSING)],
)
def test_a_bundle_is_as_good_as_the_authority_in_it_that_lives_longest(left: timedelta, level: Level) -> None:
    by = authority()
    bundle = bundle_from_pem(by.certificate_pem, SHOP)
    assert bundle_observation("b", bundle, bundle, by.not_after - left, kind="own").level is level


def test_a_bundle_without_authorities_is_a_warning() -> None:
    assert bundle_observation("b", None, None, datetime.now(UTC), kind="own").level is Level.WARNING


def test_files_are_read_as_the_sidecar_would_and_a_key_that_others_can_read_is_a_warning(folder: Path) -> None:
    by = authority()
    made = issued(by)
    write_svid(folder / "svid", made, by.certificate_pem)
    look = SourceObservations()
    seen = list(look.of_files(str(folder / "svid")))
    assert {one.level for one in seen} == {Level.OK}
    assert look.fetched is not None
    (folder / "svid" / "key.pem").resolve().chmod(0o644)
    (folder / "svid" / "bundle.acme.example.pem").write_text("no bundle")
    seen = list(SourceObservations().of_files(str(folder / "svid")))
    assert "0644" in says(seen, "key file").says
    assert "bundle.acme.example.pem" in says(seen, "bundle files").says
    assert not any(text in str(seen) for text in texts_of_key(key_der(made.key_pem)))


def test_a_folder_without_an_svid_or_with_another_ones_key_is_missing(folder: Path) -> None:
    [told] = list(SourceObservations().of_files(str(folder)))
    assert (told.level, "svid mint" in told.remedy) == (Level.MISSING, True)
    by = authority()
    write_svid(folder / "svid", issued(by), by.certificate_pem)
    (folder / "svid" / "key.pem").unlink()
    (folder / "svid" / "key.pem").write_bytes(issued(by).key_pem)
    refused, leaf = list(SourceObservations().of_files(str(folder / "svid")))
    assert (refused.level, "not that of the certificate" in refused.says) == (Level.MISSING, True)
    assert leaf.about == ORDERS


def test_what_cannot_be_a_socket_at_all_is_an_error_of_usage() -> None:
    with pytest.raises(AuthzError, match="no Workload API socket"):
        asked("http://localhost")
