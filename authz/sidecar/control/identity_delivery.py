"""Where a workload's identity and trust go: the workers' pages, Envoy's SDS, files, the status and the supervisor.

Made in control, in its main loop. What holds is worked out by `workload_identity`; what is written where, here.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.identity.authority import IssuedSvid
from authz.identity.named_authority import named_authority
from authz.identity.trust import Trust
from authz.identity.verification import VerifiedIdentity
from authz.instant import NS_PER_S, rfc3339_from_ns
from authz.sidecar.control.file_source import FileSource
from authz.sidecar.control.workload_identity import IdentityNow, Standing, WorkloadIdentity
from authz.sidecar.control.written_trust import WrittenTrust
from authz.sidecar.errors import SidecarError
from authz.sidecar.identity_page import IdentityPage
from authz.sidecar.own_policy import OwnPolicy
from authz.sidecar.trust_page import TrustPage
from authz.svid_files import write_svid
from authz.workload_api.received import ReceivedJwtBundles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from authz.sidecar.control.control_services import ControlServices
    from authz.sidecar.control.federation_service import FederationService
    from authz.sidecar.control.sds_exchange import Verdict
    from authz.sidecar.control.sds_server import SdsServer
    from authz.sidecar.settings import SidecarSettings
    from authz.sidecar.shared_memory import SharedMemory

_log = logging.getLogger(__name__)

_NOBODY: Final = Trust.of(())
#: how often it is said how long a source has been silent
_LAG_S: Final = 5.0


class IdentityDelivery:
    """Keeps everything that depends on the identity up to date; `look` is called every second or so."""

    def __init__(
        self,
        settings: SidecarSettings,
        shared: SharedMemory,
        *,
        services: ControlServices | None,
        usable: Callable[[bool], None],
        status_changed: Callable[[], None],
    ) -> None:
        """Take whom to tell of whether there is an identity, and of another status; raises an AuthzError."""
        self._page = IdentityPage(shared.identity)
        self._written_trust = WrittenTrust(TrustPage(shared.trust))
        self._usable = usable
        self._status_changed = status_changed
        self._source = (
            f"spire:{settings.workload_api}" if settings.workload_api else f"files:{settings.identity_directory}"
        )
        self._svid_files = settings.svid_files
        self._files_due = False
        self._authorities_pem = b""
        self._sds_faults: dict[tuple[str, ...], str] = {}
        self._lag_said_s = 0.0
        self.identity = WorkloadIdentity(changed=self._changed)
        self._files: FileSource | None = None
        self._sds: SdsServer | None = None
        self._federation: FederationService | None = None
        if settings.identity_directory is not None:
            self._files = FileSource(settings.identity_directory)
            self._look_at_files(self._files)
        if services is not None:
            self._add_services(services, settings)

    def _add_services(self, services: ControlServices, settings: SidecarSettings) -> None:
        # grpcio and asyncio's friends are large: read here, in control, after its fork.
        from authz.sidecar.control.federation_service import FederationService  # noqa: PLC0415

        self._services = services
        self._federation = FederationService(
            services=services,
            state=None if settings.state is None else settings.state / "federation",
            own=lambda: self.identity.now.trust,
            changed=self.identity.federated,
            reported=self._status_changed,
        )
        services.add(self._federation)
        if settings.sds_socket is not None:
            from authz.sidecar.control.sds_server import SdsServer  # noqa: PLC0415

            self._sds = SdsServer(
                settings.sds_socket, judged=lambda verdict: services.hand_over(lambda: self._judged(verdict))
            )
            services.add(self._sds)
        if settings.workload_api is not None:
            from authz.sidecar.control.workload_api_source import WorkloadApiSource  # noqa: PLC0415

            services.add(WorkloadApiSource(settings.workload_api, services=services, identity=self.identity))

    # --- what is said

    def policy(self, own: Mapping[str, Any]) -> None:
        """Take what the set in force says (:meth:`OwnPolicy.as_fields`)."""
        policy = OwnPolicy.from_fields(own)
        if self._federation is not None:
            self._federation.configure(policy.federates)
        self.identity.policy(policy)

    def authorities(self, texts: Mapping[str, bytes]) -> None:
        """Take what the authorities of callers without SPIFFE IDs say, by file: Envoy's handshakes go by it."""
        self._authorities_pem = b"".join(named_authority(texts[name]).certificates_pem for name in sorted(texts))
        self._serve(self.identity.now)

    def look(self) -> None:
        """Look at what nobody tells of: files, the time, and what could not be written before."""
        if self._files is not None:
            try:
                self._look_at_files(self._files)
            except SidecarError as error:
                self.identity.faulty(str(error))
        self.identity.look()
        if self._files_due:
            self._write_files(self.identity.now)
        now = self.identity.now
        if now.standing is Standing.WAITING and self._source.startswith("spire:"):
            # What an earlier control has written holds until it ends.
            before = self._page()
            if before is not None and time.time_ns() > before.not_after_ns:
                # Not beyond: as if the earlier control had seen the end.
                self._written_trust.write(_NOBODY)
                self._usable(False)
        if now.stale and time.monotonic() - self._lag_said_s >= _LAG_S:
            self._lag_said_s = time.monotonic()
            self._status_changed()

    def _look_at_files(self, files: FileSource) -> None:
        received = files.look()
        if received is not None:
            # The same documents hold the keys of both kinds of SVID.
            self.identity.received_jwt_bundles(ReceivedJwtBundles(trust=received.trust))
            self.identity.received_x509(received)

    def _judged(self, verdict: Verdict) -> None:
        before = dict(self._sds_faults)
        if verdict.fault is None:
            self._sds_faults.pop(verdict.names, None)
        else:
            self._sds_faults[verdict.names] = verdict.fault
        if self._sds_faults != before:
            self._status_changed()

    # --- what follows from it

    def status(self) -> dict[str, object]:
        """Say how it stands, for the status file."""
        now = self.identity.now
        known = now.held or now.last
        identity = self._page() if known is None else None
        spiffe_id = identity.spiffe_id if identity is not None else None if known is None else known.spiffe_id
        not_after_ns = (
            identity.not_after_ns if identity is not None else None if known is None else known.svid.not_after_ns
        )
        return {
            "source": self._source,
            "spiffe_id": None if spiffe_id is None else str(spiffe_id),
            "not_after": None if not_after_ns is None else rfc3339_from_ns(not_after_ns),
            "stale": now.stale,
            "lag": round(self.identity.lag_s, 1),
            "fault": now.fault,
            "sds_fault": "; ".join(sorted(set(self._sds_faults.values()))) or None,
        }

    def federation(self) -> list[dict[str, str | int | None]] | None:
        """Say how it stands with each federated trust domain, None where the source alone delivers bundles."""
        return None if self._federation is None else [one.as_fields() for one in self._federation.status]

    def _changed(self, now: IdentityNow) -> None:
        if now.standing is Standing.WAITING:
            self._status_changed()
            return
        if now.held is not None:
            svid = now.held.svid
            self._page.write(
                VerifiedIdentity(
                    spiffe_id=svid.spiffe_id,
                    serial=svid.serial,
                    not_before_ns=svid.not_before_ns,
                    not_after_ns=svid.not_after_ns,
                )
            )
        elif now.standing is Standing.NONE and self._files is None:
            self._page.withdraw()
        self._written_trust.write(now.trust)
        self._serve(now)
        self._write_files(now)
        self._usable(now.held is not None)
        self._status_changed()

    def _serve(self, now: IdentityNow) -> None:
        if self._sds is not None and now.standing is not Standing.WAITING:
            from authz.sidecar.control.sds_resources import SdsResources  # noqa: PLC0415 see _add_services

            sds, resources = self._sds, SdsResources.of(now.held, now.trust, self._authorities_pem)
            self._services.call(lambda: sds.replace(resources))

    def _write_files(self, now: IdentityNow) -> None:
        held = now.held
        if self._svid_files is None or held is None:
            return
        own = held.spiffe_id.trust_domain
        bundle = now.trust.bundle(own)
        svid = IssuedSvid(
            certificate_pem=held.certificate_pem,
            key_pem=held.key_pem,
            not_after=datetime.fromtimestamp(held.svid.not_after_ns // NS_PER_S, UTC),
        )
        try:
            write_svid(
                self._svid_files,
                svid,
                b"" if bundle is None else bundle.x509_pem,
                other_bundles={one.trust_domain: one.x509_pem for one in now.trust if one.trust_domain != own},
            )
        except AuthzError as error:
            if not self._files_due:
                _log.error("%s", error)
            self._files_due = True
        else:
            self._files_due = False
