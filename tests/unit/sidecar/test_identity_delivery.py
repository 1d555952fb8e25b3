"""Where identity and trust go when they change: the workers' pages, files, status and supervisor."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from authz.identity.spiffe_id import TrustDomain
from authz.policy.identity_pattern import IdentityPattern
from authz.sidecar.control import identity_delivery
from authz.sidecar.control.identity_delivery import IdentityDelivery
from authz.sidecar.control.sds_exchange import Verdict
from authz.sidecar.identity_page import IdentityPage
from authz.sidecar.own_policy import OwnPolicy
from authz.sidecar.settings import SidecarSettings
from authz.sidecar.shared_memory import SharedMemory
from authz.sidecar.trust_page import TrustPage
from authz.workload_api.received import ReceivedX509, received_x509
from tests.support.workload_api_messages import ORDERS, authority, response, svid

if TYPE_CHECKING:
    from pathlib import Path

SHOP = authority()
POLICY = OwnPolicy(
    identities=(IdentityPattern.parse(ORDERS),), trust_domains=(TrustDomain.parse("shop.example"),)
).as_fields()


class Delivered:
    def __init__(self, files: Path) -> None:
        self.shared = SharedMemory.for_workers(1, ring_bytes=64 * 1024)
        self.usable: list[bool] = []
        self.statuses = 0
        self.files = files / "svid"
        settings = SidecarSettings(
            service="orders", policies=".", socket="s", workload_api="/run/agent.sock", svid_files=str(self.files)
        )
        self.delivery = IdentityDelivery(
            settings, self.shared, services=None, usable=self.usable.append, status_changed=self._count
        )
        self.delivery.policy(POLICY)

    def _count(self) -> None:
        self.statuses += 1

    def again(self) -> IdentityDelivery:
        """Give what a control that was started anew makes of the same memory."""
        again = IdentityDelivery(
            SidecarSettings(service="orders", policies=".", socket="s", workload_api="/run/agent.sock"),
            self.shared,
            services=None,
            usable=self.usable.append,
            status_changed=lambda: None,
        )
        again.policy(POLICY)
        return again

    def held(self) -> str | None:
        identity = IdentityPage(self.shared.identity)()
        return None if identity is None else str(identity.spiffe_id)

    def trusted(self) -> set[str]:
        return {bundle.trust_domain.name for bundle in TrustPage(self.shared.trust)()}


@pytest.fixture
def delivered(tmp_path: Path) -> Delivered:
    return Delivered(tmp_path)


def received(name: str = ORDERS) -> ReceivedX509:
    return received_x509(response(svid(SHOP, name)), datetime.now(UTC))


def test_what_is_held_goes_to_pages_files_and_supervisor(delivered: Delivered) -> None:
    delivered.delivery.identity.received_x509(received())
    assert delivered.held() == ORDERS
    assert delivered.trusted() == {"shop.example"}
    assert delivered.usable == [True]
    assert {path.name for path in delivered.files.glob("*.pem")} == {"svid.pem", "key.pem", "bundle.pem"}
    status = delivered.delivery.status()
    assert (status["source"], status["spiffe_id"], status["stale"], status["fault"]) == (
        "spire:/run/agent.sock",
        ORDERS,
        False,
        None,
    )


def test_what_is_withdrawn_is_taken_from_the_pages(delivered: Delivered) -> None:
    delivered.delivery.identity.received_x509(received())
    delivered.delivery.identity.withdrawn("no identity issued")
    assert delivered.held() is None
    assert delivered.trusted() == set()
    assert delivered.usable == [True, False]
    assert delivered.delivery.status()["fault"] == "no identity issued"


def test_a_control_that_was_started_anew_leaves_the_pages_until_the_source_is_heard(delivered: Delivered) -> None:
    delivered.delivery.identity.received_x509(received())
    again = delivered.again()
    again.identity.faulty("agent is gone")
    again.look()
    assert delivered.held() == ORDERS
    assert delivered.trusted() == {"shop.example"}
    assert delivered.usable == [True]
    assert (again.status()["spiffe_id"], again.status()["stale"]) == (ORDERS, True)


def test_what_an_earlier_control_left_is_trusted_until_the_end_of_its_svid_and_not_beyond(
    delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered.delivery.identity.received_x509(received())
    identity = IdentityPage(delivered.shared.identity)()
    assert identity is not None
    again = delivered.again()
    again.identity.faulty("agent is gone")
    now = SimpleNamespace(time_ns=lambda: identity.not_after_ns, monotonic=time.monotonic)
    monkeypatch.setattr(identity_delivery, "time", now)
    again.look()
    assert (delivered.trusted(), delivered.usable) == ({"shop.example"}, [True])
    now.time_ns = lambda: identity.not_after_ns + 1
    again.look()
    assert (delivered.trusted(), delivered.usable) == (set(), [True, False])


def test_what_envoy_refuses_stands_in_the_status_until_it_takes_the_next(delivered: Delivered) -> None:
    delivered.delivery._judged(Verdict(names=("svid",), fault="Failed to load private key"))
    assert delivered.delivery.status()["sds_fault"] == "Failed to load private key"
    before = delivered.statuses
    delivered.delivery._judged(Verdict(names=("trust",), fault=None))
    assert delivered.delivery.status()["sds_fault"] == "Failed to load private key"
    assert delivered.statuses == before
    delivered.delivery._judged(Verdict(names=("svid",), fault=None))
    assert delivered.delivery.status()["sds_fault"] is None


def test_files_that_could_not_be_written_are_written_at_the_next_look(delivered: Delivered, tmp_path: Path) -> None:
    delivered.files.write_text("in the way")
    delivered.delivery.identity.received_x509(received())
    delivered.files.unlink()
    delivered.delivery.look()
    assert (tmp_path / "svid" / "key.pem").exists()
