"""What control says of federated bundles follows what the set says and what their files hold."""

from __future__ import annotations

import json
import os
import select
import time
from typing import TYPE_CHECKING

import pytest

from authz.federation.relationship import Relationship
from authz.identity.trust import Trust
from authz.sidecar.control.control_services import ControlServices
from authz.sidecar.control.federation_service import FederationService
from authz.sidecar.control.status_file import StatusFile
from tests.support.partner import ACME, bundle_of, new_authority, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 60


class Control:
    """Control's main loop, as far as federation needs it."""

    def __init__(self) -> None:
        self.services = ControlServices()
        self.reports = 0
        self.federation = FederationService(
            services=self.services,
            state=None,
            own=lambda: Trust.of(()),
            changed=lambda _: None,
            reported=self._reported,
        )
        self.services.add(self.federation)
        self.services.start()

    def _reported(self) -> None:
        self.reports += 1

    def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; it is looked at whenever something was handed over."""
        end_s = time.monotonic() + PATIENCE_S
        while not holds():
            left_s = end_s - time.monotonic()
            assert left_s > 0
            select.select([self.services.bell.descriptor], [], [], left_s)
            self.services.bell.answer()
            self.services.look()

    def fields(self) -> list[dict[str, str | int | None]]:
        return [one.as_fields() for one in self.federation.status]


@pytest.fixture
def control() -> Iterator[Control]:
    made = Control()
    yield made
    made.services.stop()


def test_the_status_says_how_it_stands_with_each_federated_trust_domain_and_of_no_other(
    control: Control, tmp_path: Path
) -> None:
    file = tmp_path / "acme.json"
    file.write_bytes(bundle_of(new_authority(), sequence=7).to_json())
    control.federation.configure((Relationship(trust_domain=ACME, bundle_file=file),))
    control.until(control.fields)
    [told] = control.fields()
    assert (told["trust_domain"], told["origin"], told["sequence"], told["file_error"]) == (
        "acme.example",
        "file",
        7,
        None,
    )
    replace_file(file, b"no bundle")
    control.until(lambda: control.fields()[0]["file_error"])
    [told] = control.fields()
    assert (told["origin"], told["sequence"]) == ("file", 7)  # the last good one stays in force
    control.federation.configure(())
    control.until(lambda: not control.fields())
    assert control.reports >= 3


def test_the_status_file_has_federation_where_it_is_followed(tmp_path: Path) -> None:
    file = StatusFile(service="orders", state=tmp_path, pid=os.getpid())
    file.write(ready=True, revision="r", faults=())
    assert "federation" not in json.loads((tmp_path / "status.json").read_text())
    file.write(ready=True, revision="r", faults=(), federation=[{"trust_domain": "acme.example"}])
    assert json.loads((tmp_path / "status.json").read_text())["federation"] == [{"trust_domain": "acme.example"}]
