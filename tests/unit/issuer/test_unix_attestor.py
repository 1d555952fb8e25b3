"""What the kernel says of a real process, and what is made of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz.issuer.attestation import WorkloadAttestation
from authz.issuer.attestor.unix import UnixAttestor
from authz.issuer.errors import AttestationError
from authz.issuer.registration import Registration, Registry, registry_of
from authz.policy.document import SourceFile
from authz.policy.policy_set import parse_policy_set
from authz.workload_api.peer import Peer, Pidfd
from tests.support.issuer_process import MESH, service

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = shutil.which("sleep") or "/bin/sleep"


def registry(*documents: str) -> Registry:
    return registry_of(parse_policy_set([SourceFile(path="a.yaml", content="---\n".join((MESH, *documents)).encode())]))


def registered(selector: str) -> tuple[Registration, ...]:
    found = registry(service("orders", attest=f"[{{unix: {{{selector}}}}}]"))
    return tuple(found.registrations.values())


@contextlib.contextmanager
def running(program: Path | str, *, uid: int = 7, gid: int = 8) -> Iterator[Peer]:
    with subprocess.Popen([str(program), "1000"]) as process:
        try:
            yield Peer(socket="s", pid=process.pid, uid=uid, gid=gid, pidfd=Pidfd(os.pidfd_open(process.pid)))
        finally:
            process.kill()


def asked(peer: Peer, selector: str, attestor: UnixAttestor | None = None) -> list[str]:
    return sorted(asyncio.run((attestor or UnixAttestor()).services(peer, registered(selector))))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    copied = tmp_path / "program"
    shutil.copy(os.path.realpath(SLEEP), copied)
    return copied


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("selector", "holds"),
    [
        ("uid: 7", True),
        ("uid: 0", False),
        ("gid: 8", True),
        ("gid: 7", False),
        ("uid: 7, gid: 8", True),
        ("uid: 7, gid: 9", False),
        ("uid: 7, path: {path}", True),
        ("uid: 8, path: {path}", False),
        ("path: {path}, sha256: {sha256}", True),
        ("path: /bin/other, sha256: {sha256}", False),
        ("path: {path}, sha256: " + "a" * 64, False),
    ],
)
def test_every_field_holds(program: Path, selector: str, holds: bool) -> None:  # noqa: FBT001
    with running(program) as peer:
        written = selector.format(path=program, sha256=sha256_of(program))
        assert asked(peer, written) == (["orders"] if holds else [])


def test_a_program_that_was_replaced_is_not_the_one_at_its_path(program: Path) -> None:
    with running(program) as peer:
        assert asked(peer, f"path: {program}") == ["orders"]
        other = program.with_name("other")
        shutil.copy(os.path.realpath(SLEEP), other)
        other.replace(program)
        assert asked(peer, f"path: {program}") == []


def test_another_file_with_the_same_content_has_the_same_digest_and_another_path(program: Path) -> None:
    twin = program.with_name("twin")
    shutil.copy(program, twin)
    with running(twin) as peer:
        assert asked(peer, f"sha256: {sha256_of(program)}") == ["orders"]
        assert asked(peer, f"path: {program}") == []


def test_a_digest_is_remembered_for_its_file_as_it_is_and_no_longer(program: Path) -> None:
    attestor = UnixAttestor()
    first = sha256_of(program)
    with running(program) as peer:
        assert asked(peer, f"sha256: {first}", attestor) == ["orders"]
    times = program.stat()
    with program.open("ab") as file:
        file.write(b"more")
    os.truncate(program, times.st_size)
    content = bytearray(program.read_bytes())
    content[-1] ^= 1
    program.write_bytes(content)
    os.utime(program, ns=(times.st_atime_ns, times.st_mtime_ns))  # which ctime tells all the same
    with running(program) as peer:
        assert asked(peer, f"sha256: {first}", attestor) == []
        assert asked(peer, f"sha256: {sha256_of(program)}", attestor) == ["orders"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_path_in_another_mount_namespace_is_no_path_of_ours(program: Path, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    shutil.copy(os.path.realpath(SLEEP), allowed)
    script = f"mount --bind {program} {allowed} && exec {allowed} 1000"
    with subprocess.Popen(["unshare", "--mount", "/bin/sh", "-c", script]) as process:
        try:
            link = Path(f"/proc/{process.pid}/exe")
            while str(link.readlink()) != str(allowed):  # the kernel gives it the very path
                assert process.poll() is None
            peer = Peer(socket="s", pid=process.pid, uid=0, gid=0, pidfd=Pidfd(os.pidfd_open(process.pid)))
            assert asked(peer, f"path: {allowed}") == []
        finally:
            process.kill()


def test_a_process_that_has_ended_is_nobody(program: Path) -> None:
    with running(program) as peer:
        pass
    with pytest.raises(AttestationError, match="the process has ended"):
        asked(peer, f"path: {program}")
    found = registry(service("orders", attest="[{unix: {uid: 7}}]"))
    with pytest.raises(AttestationError, match="the process has ended"):
        asyncio.run(WorkloadAttestation([UnixAttestor()], dedicated={}).registrations(peer, found))


def test_a_peer_without_a_pid_has_no_program_and_is_nobody_on_a_common_socket() -> None:
    peer = Peer(socket="s", pid=0, uid=7, gid=8, pidfd=None)
    assert asked(peer, "uid: 7") == ["orders"]  # on a socket of its own, where it is asked at all
    with pytest.raises(AttestationError, match="another pid namespace"):
        asked(peer, "path: /bin/sleep")
    found = registry(service("orders", attest="[{unix: {uid: 7}}]"))
    with pytest.raises(AttestationError, match="another pid namespace"):
        asyncio.run(WorkloadAttestation([UnixAttestor()], dedicated={}).registrations(peer, found))
    own = asyncio.run(WorkloadAttestation([UnixAttestor()], dedicated={"s": "orders"}).registrations(peer, found))
    assert [each.service for each in own] == ["orders"]


def test_registered_are_exact_identities_of_own_trust_domains_that_are_not_revoked() -> None:
    documents = [
        service("orders", attest="[{unix: {uid: 7}}]"),
        service("pattern", identity="spiffe://shop.example/p/*"),
        service("foreign", identity="spiffe://acme.example/f"),
        service("revoked"),
    ]
    mesh = MESH.replace(
        "example]}",
        "example], federates: [{trustDomain: acme.example, bundle: x}],"
        " revoked: ['spiffe://shop.example/ns/shop/sa/revoked']}",
    )
    content = "---\n".join((mesh, *documents)).encode()
    found = registry_of(parse_policy_set([SourceFile(path="a.yaml", content=content)]))
    assert list(found.registrations) == ["orders"]
