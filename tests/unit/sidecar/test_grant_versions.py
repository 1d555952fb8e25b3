"""What makes running calls be asked about again."""

from __future__ import annotations

from authz.sidecar.grant_versions import GrantVersions
from authz.sidecar.shared_memory import SharedMemory

HOUR_NS = 3600 * 10**9


def test_a_clock_that_was_set_is_another_version_and_never_one_that_is_being_written() -> None:
    shared = SharedMemory.for_workers(1, ring_bytes=1 << 16)
    versions = GrantVersions(shared)
    seen = [versions.read()]
    shared.clock.look_for_step(0, HOUR_NS)
    for steady_ns, now_ns in ((1, 2 * HOUR_NS), (2, HOUR_NS)):
        shared.clock.look_for_step(steady_ns, now_ns)
        seen.append(versions.read())
    assert len(set(seen)) == len(seen)
    assert not any(version % 2 for read in seen for version in read)


def test_what_is_written_on_any_page_is_another_version() -> None:
    shared = SharedMemory.for_workers(1, ring_bytes=1 << 16)
    versions = GrantVersions(shared)
    for page in (shared.identity, shared.trust, shared.authorities, shared.tightening):
        before = versions.read()
        page[0] = 2
        assert versions.read() != before
