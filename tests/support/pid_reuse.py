"""Stories about a pid that is given to another process, played in a pid namespace of their own; prints JSON.

Run by `unshare --pid --fork --mount-proc`: there /proc/sys/kernel/ns_last_pid says which pid comes next.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from authz.issuer.attestation import WorkloadAttestation
from authz.issuer.attestor.supervised import SupervisedAttestor
from authz.issuer.attestor.unix import UnixAttestor
from authz.issuer.errors import AttestationError
from authz.issuer.registration import registry_of
from authz.policy.document import SourceFile
from authz.policy.policy_set import parse_policy_set
from authz.workload_api.peer import Peer, PeerError, Pidfd, boot_ticks, older_pidfd, peer_of
from tests.support.issuer_process import MESH, Issuer, service

ATTEMPTS = 200
SLEEP = "/bin/sleep"
SLEEPERS = service("orders", attest=f"[{{unix: {{path: {os.path.realpath(SLEEP)}}}}}]")


def started(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start a program."""
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def with_pid(pid: int, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start a program that gets this pid; the one that had it must have been reaped."""
    for _ in range(ATTEMPTS):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1), "ascii")
        process = started(arguments)
        if process.pid == pid:
            return process
        process.kill()
        process.communicate()
    raise AssertionError(f"pid {pid} was not given again")


def connected_and_gone(path: str, keep: socket.socket) -> int:
    """Have a process connect, hand its connection to us by `keep`, and end; gives its pid, which is free by then."""
    pid = os.fork()
    if pid == 0:
        made = socket.socket(socket.AF_UNIX)
        made.connect(path)
        socket.send_fds(keep, [b"x"], [made.fileno()])
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def kernel_story(folder: Path) -> dict[str, object]:
    """A connection of a process that has gone, and whose pid another one has, is nobody's."""
    path = str(folder / "k")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    ours, theirs = socket.socketpair()
    empty_ticks = boot_ticks()
    pid = connected_and_gone(path, theirs)
    victim = with_pid(pid, [SLEEP, "1000"])
    try:
        accepted, _ = listener.accept()
        named = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
        told: dict[str, object] = {"the number is the victim's": int.from_bytes(named, sys.byteorder) == victim.pid}
        for kind, ask in (
            ("kernel", lambda: peer_of(accepted, path=path, not_before_ticks=empty_ticks)),
            ("older kernel", lambda: older_pidfd(pid, not_before_ticks=empty_ticks)),
        ):
            try:
                ask()
                told[kind] = "got through"
            except PeerError as error:
                told[kind] = str(error)
        return told
    finally:
        victim.kill()
        victim.communicate()
        ours.close()


async def facts_story() -> dict[str, object]:
    """A peer that ended after it had connected is not taken for the process that has its pid by then."""
    policies = MESH + "---\n" + SLEEPERS
    registry = registry_of(parse_policy_set([SourceFile(path="a.yaml", content=policies.encode())]))
    stranger = started([sys.executable, "-c", "input()"])
    peer = Peer(socket="s", pid=stranger.pid, uid=0, gid=0, pidfd=Pidfd(os.pidfd_open(stranger.pid)))
    stranger.kill()
    stranger.communicate()
    victim = with_pid(stranger.pid, [SLEEP, "1000"])
    try:
        attestor = UnixAttestor()
        right = Peer(socket="s", pid=victim.pid, uid=0, gid=0, pidfd=Pidfd(os.pidfd_open(victim.pid)))
        told: dict[str, object] = {
            "the victim itself": sorted(await attestor.services(right, tuple(registry.registrations.values())))
        }
        for name, ask in (
            ("attestor", lambda: attestor.services(peer, tuple(registry.registrations.values()))),
            ("attestation", lambda: WorkloadAttestation([attestor], dedicated={}).registrations(peer, registry)),
        ):
            try:
                told[name] = str(await ask())
            except AttestationError as error:
                told[name] = str(error)
        return told
    finally:
        victim.kill()
        victim.communicate()


async def child_story() -> dict[str, object]:
    """The orchestrator's child ends, and its pid is given to another process: that one is nobody's workload."""
    told: dict[str, object] = {}
    ended = asyncio.Event()
    supervised = SupervisedAttestor(changed=ended.set)
    child = started([SLEEP, "1000"])
    supervised.add("orders", Pidfd(os.pidfd_open(child.pid)))

    def asked(pid: int) -> str | None:
        peer = Peer(socket="s", pid=pid, uid=0, gid=0, pidfd=Pidfd(os.pidfd_open(pid)))
        try:
            return supervised.ever_workload_of(peer)
        except AttestationError as error:
            return str(error)

    told["the child"] = asked(child.pid)
    child.kill()
    child.communicate()
    # Without giving the loop a turn: the registration is still there, and has to be seen through.
    other = with_pid(child.pid, [SLEEP, "1000"])
    try:
        told["registered"] = len(supervised)
        told["the other one"] = asked(other.pid)
        await ended.wait()
        told["registered later"] = len(supervised)
    finally:
        other.kill()
        other.communicate()
    return told


def whole_story() -> dict[str, object]:
    """The same against the real issuer, which is stopped while a process connects, ends, and loses its pid."""
    with Issuer(MESH, SLEEPERS) as issuer:
        assert issuer.process is not None
        ours, theirs = socket.socketpair()
        issuer.process.send_signal(signal.SIGSTOP)
        pid = connected_and_gone(str(issuer.socket), theirs)
        _, (fd, *_), _, _ = socket.recv_fds(ours, 1, 1)
        victim = with_pid(pid, [SLEEP, "1000"])
        issuer.process.send_signal(signal.SIGCONT)
        try:
            with socket.socket(fileno=fd) as connection:
                connection.settimeout(60)
                try:
                    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
                    answered = connection.recv(100)
                except (ConnectionResetError, BrokenPipeError):  # closed before, or while, something was sent
                    answered = b""
            return {"answered": answered.hex(), "the victim lives": victim.poll() is None, "said": issuer.logged()}
        finally:
            victim.kill()
            victim.communicate()


def main() -> None:
    """Play every story."""
    folder = Path(sys.argv[1])
    told = {
        "kernel": kernel_story(folder),
        "facts": asyncio.run(facts_story()),
        "child": asyncio.run(child_story()),
        "whole": whole_story(),
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
