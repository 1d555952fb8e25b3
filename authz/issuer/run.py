"""Runs the issuer: everything together in one event loop, until SIGTERM.

# INVARIANT (ready means ready): whoever waits for READY=1 finds the sockets there and an authority that signs.
# INVARIANT (keys stay here): no other process of the same user can read this one's memory or descriptors
(PR_SET_DUMPABLE), and no core is dumped.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from authz.federation.federated_bundles import FederatedBundles
from authz.federation.relationship import Relationship, relationships
from authz.identity.authority_rotation import RotationPlan
from authz.identity.errors import AuthorityError
from authz.identity.upstream_authority import MAX_UPSTREAM_BYTES, UpstreamAuthority
from authz.issuer.attestation import WorkloadAttestation
from authz.issuer.attestor.container import ContainerAttestor
from authz.issuer.attestor.container_engine import ContainerEngine
from authz.issuer.attestor.supervised import SupervisedAttestor
from authz.issuer.attestor.unix import UnixAttestor
from authz.issuer.bundle_endpoint import IssuersBundleEndpoint
from authz.issuer.errors import IssuerError
from authz.issuer.federation_log import FederationLog
from authz.issuer.followed_registry import FollowedRegistry
from authz.issuer.issuance import InMemory, Issuance
from authz.issuer.key_store import KeyStore
from authz.issuer.orchestrator import OrchestratorSocket
from authz.issuer.refusals import Refusals
from authz.issuer.settings import SOCKET_MODE
from authz.issuer.workload_api_server import OPTIONS, WorkloadApiServer
from authz.notify import notify
from authz.workload_api.peer_front import PeerFront

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.issuer.attestor.attestor import Attestor
    from authz.issuer.registration import Registry
    from authz.issuer.settings import IssuerSettings

_log = logging.getLogger(__name__)

#: prctl(2)
_PR_SET_DUMPABLE: Final = 4
#: calls that are under way at the end get so long
_GRACE_S: Final = 0.5
_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def run(settings: IssuerSettings) -> None:
    """Serve until SIGTERM or SIGINT; raises an AuthzError where it cannot be started."""
    _keep_to_ourselves()
    asyncio.run(_serve(settings))


async def _serve(settings: IssuerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        tasks = await _start(settings, stack)
        stack.push_async_callback(_cancelled, tasks)
        notify("READY=1")
        _log.info("ready: SPIFFE_ENDPOINT_SOCKET=unix://%s", settings.socket)
        stopped = asyncio.create_task(stop.wait())
        stack.push_async_callback(_cancelled, [stopped])
        # None of the tasks ends by itself: one that does has failed, and so has the issuer.
        done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        for task in done:
            task.result()


async def _start(settings: IssuerSettings, stack: contextlib.AsyncExitStack) -> list[asyncio.Task[None]]:
    followed = FollowedRegistry(settings.policies)
    registry = await asyncio.to_thread(followed.load)
    for service in settings.workload_sockets:
        if service not in registry.registrations:
            raise IssuerError(
                f"--workload-socket `{service}`: no such Service has an exact identity in an own trust domain"
            )
    upstream = None if settings.upstream_authority is None else _upstream(settings.upstream_authority)
    keys: InMemory | KeyStore
    if settings.state is None:
        keys = InMemory()
    else:
        keys = KeyStore(settings.state)
        stack.callback(keys.close)
    issuance = Issuance(
        registry,
        plan=RotationPlan(lifetime=settings.authority_lifetime, ends=None if upstream is None else upstream.not_after),
        keys=keys,
        upstream=upstream,
        svid_lifetime=settings.svid_lifetime,
        jwt_lifetime=settings.jwt_lifetime,
    )
    supervised = SupervisedAttestor(changed=issuance.changed)
    stack.callback(supervised.close)
    attestors: list[Attestor] = [UnixAttestor(), supervised]
    if settings.container_socket is not None:
        attestors.append(ContainerAttestor(ContainerEngine(settings.container_socket)))
    dedicated = {path: service for service, path in settings.workload_sockets.items()}
    server = grpc.aio.server(options=OPTIONS)
    front = PeerFront(server)
    stack.push_async_callback(front.stop, _GRACE_S)
    api = WorkloadApiServer(
        issuance,
        WorkloadAttestation(attestors, dedicated=dedicated),
        Refusals(settings.decision_log),
        front=front,
    )
    server.add_generic_rpc_handlers((api.handler(),))
    await front.start()
    federation_log = FederationLog()
    federated = FederatedBundles(
        changed=issuance.take_federated,
        reported=lambda: federation_log.report(federated.status()),
        state=None if settings.state is None else settings.state / "federation",
        own=lambda: issuance.own,
    )
    await federated.configure(_relationships(registry, settings))
    if settings.orchestrator_socket is not None:
        orchestrator = OrchestratorSocket(
            settings.orchestrator_socket,
            parent=os.getppid() if settings.orchestrator_is_parent else None,
            supervised=supervised,
            is_service=lambda name: name in issuance.registry.registrations,
        )
        stack.callback(orchestrator.close)
    serving = []
    if settings.bundle_endpoint is not None:
        endpoint = IssuersBundleEndpoint(settings.bundle_endpoint, issuance)
        stack.callback(endpoint.close)
        _log.info("the bundle endpoint listens on port %d", endpoint.port)
        serving.append(asyncio.create_task(endpoint.run(), name="bundle endpoint"))
    for path in dedicated:
        front.listen(path, mode=settings.workload_socket_mode)
    front.listen(settings.socket, mode=SOCKET_MODE)

    async def take(registry: Registry) -> None:
        issuance.take_registry(registry)
        await federated.configure(_relationships(registry, settings))

    return [
        asyncio.create_task(issuance.run(), name="authorities"),
        asyncio.create_task(followed.run(take), name="policies"),
        asyncio.create_task(federated.run(), name="federation"),
        *serving,
    ]


async def _cancelled(tasks: Sequence[asyncio.Task[None]] | Sequence[asyncio.Task[bool]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _relationships(registry: Registry, settings: IssuerSettings) -> list[Relationship]:
    """Give whom the policy set federates, and where the bundle of each comes from."""
    files = settings.federated_bundles
    return [
        Relationship(trust_domain=each.trust_domain, bundle_file=Path(files[each.trust_domain.name]))
        if each.trust_domain.name in files
        else each
        for each in relationships(registry.federates, settings.policies)
    ]


def _upstream(file: Path) -> UpstreamAuthority:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as opened:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_mode & _FOR_OTHERS:
                raise IssuerError(f"{file}: others can read this private key, so it is not used; chmod 600 it")
            pem = opened.read(MAX_UPSTREAM_BYTES + 1)
        return UpstreamAuthority.from_pem(pem)
    except OSError as error:
        raise IssuerError(f"{file}: {(error.strerror or '').lower()}") from error
    except AuthorityError as error:
        raise IssuerError(f"{file}: {error}") from error


def _keep_to_ourselves() -> None:
    """Let nobody read our memory; and let us have as many connections as the system allows."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # INVARIANT (keys stay here)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
