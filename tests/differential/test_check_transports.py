"""The check path's own HTTP/2 and grpcio, another program, make the same of the same bytes; where not, it is known."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from tests.differential.check_sessions import generated_sessions, sessions
from tests.differential.transports import outcome
from tests.support.check_request import check_request
from tests.support.policy_sets import ORDERS_AND_CATALOG, ORDERS_READ_CATALOG, write
from tests.support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.differential.check_sessions import Session
    from tests.differential.transports import Outcome

DIFFERENCES: list[dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("transport_differences.yaml").read_text("utf-8")
)
_REFUSAL = re.compile(r"(grpc-status [1-9]\d*|RST_STREAM \d+|HTTP [45]\d\d)")
_REFUSAL_OR_DENIAL = re.compile(rf"{_REFUSAL.pattern}|internal_error")


class Both:
    """A sidecar by each transport, with the same policies, and a caller who is allowed one call."""

    def __init__(self, native: SidecarProcess, grpcio: SidecarProcess, certificate: bytes) -> None:
        self.certificate = certificate
        self._native, self._grpcio = native, grpcio
        self._asked = check_request(certificate_pem=certificate).SerializeToString()

    def outcomes(self, session: Session) -> tuple[Outcome, Outcome]:
        return (
            outcome(self._native.socket, session, self._asked),
            outcome(self._grpcio.socket, session, self._asked),
        )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    policies = Path(write(folder / "policies", *ORDERS_AND_CATALOG, ORDERS_READ_CATALOG))
    now, lifetime = datetime.now(UTC), timedelta(hours=1)
    authority = Authority.generate(TrustDomain.parse("shop.example"), now, lifetime)
    svid = authority.issue_x509_svid(SpiffeId.parse("spiffe://shop.example/orders"), now, lifetime)
    started = []
    for transport in ("native", "grpcio"):
        (folder / transport).mkdir()
        words = ("--check-transport", transport)
        started.append(SidecarProcess(*words, service="catalog", policies=policies, folder=folder / transport))
    with started[0] as native, started[1] as grpcio:
        native.wait_for("READY=1")
        grpcio.wait_for("READY=1")
        yield Both(native, grpcio, svid.certificate_pem)


def test_the_same_bytes_come_to_the_same_where_no_difference_is_known(both: Both) -> None:
    known = {each["name"]: each for each in DIFFERENCES}
    seen = set()
    for session in sessions(both.certificate):
        native, grpcio = both.outcomes(session)
        expected = known.get(session.name)
        if expected is None:
            assert native == grpcio, session.name
            continue
        seen.add(session.name)
        theirs = _REFUSAL.sub("refused", str(grpcio))
        if expected["grpcio"].startswith("denied or refused"):
            theirs = _REFUSAL_OR_DENIAL.sub("denied or refused", str(grpcio))
        told = {"native": str(native), "grpcio": theirs}
        assert told == {each: expected[each] for each in told}, session.name
    assert seen == set(known)


def test_the_fallback_refuses_nothing_that_is_answered_but_padding_and_health() -> None:
    # What grpcio lets through and native does not is grpcio's leniency; the other way round it would be ours.
    ours = {each["name"] for each in DIFFERENCES if each["native"].split(",")[0] in {"allowed", "message 0801"}}
    theirs = {each["name"] for each in DIFFERENCES if each["grpcio"].startswith("refused")}
    assert ours & theirs == {"padded DATA", "the health of the server"}


@pytest.mark.parametrize("seed", range(2))
def test_damaged_checks_are_answered_alike_by_both(both: Both, seed: int) -> None:
    reasons = set()
    for session in generated_sessions(both.certificate, seed=seed, count=10, calls=40):
        native, grpcio = both.outcomes(session)
        assert native == grpcio, session.name
        assert all(each.whole for each in native.streams)
        reasons |= {each.short for each in native.streams}
    assert {"allowed", "no_policy", "malformed", "unidentified", "internal_error"} <= reasons
