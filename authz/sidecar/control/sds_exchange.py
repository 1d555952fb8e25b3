"""One Envoy's SDS stream, as the xDS protocol has it: which answer follows on which request, and on which change.

Pure: messages in, messages out. Both variants tell an answer by its nonce; a request that names an older one is late,
and counts for nothing. An answer that Envoy cannot use (NACK) is told, and not sent again until it is another one:
Envoy keeps what it has meanwhile.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from envoy.service.discovery.v3 import discovery_pb2

from authz.errors import AuthzError
from authz.sidecar.control.sds_resources import SECRET_TYPE, SdsResource, SdsResources, is_known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: An Envoy asks for one name on each of its streams; SPIRE's names are few, too.
MAX_NAMES: Final = 256
#: an ID is the longest name (SPIFFE-ID 2.3)
MAX_NAME_CHARACTERS: Final = 2048


class SdsRequestError(AuthzError):
    """A request is none that SDS could answer: the stream is to be ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What Envoy says of an answer with these names: it uses it (ACK), or why it cannot (NACK: `fault`)."""

    names: tuple[str, ...]
    fault: str | None


class SotwExchange:
    """State of the world: each answer holds every resource that is asked for and exists."""

    def __init__(self, judged: Callable[[Verdict], None]) -> None:
        self._judged = judged
        self._names: tuple[str, ...] = ()
        self._sent: dict[str, str] = {}
        self._nonce = 0

    def requested(
        self, request: discovery_pb2.DiscoveryRequest, resources: SdsResources
    ) -> discovery_pb2.DiscoveryResponse | None:
        """Take a request; gives the answer, None where there is nothing (more) to say yet."""
        _require_type(request.type_url)
        if request.response_nonce and request.response_nonce != str(self._nonce):
            return None  # about an answer before the last one
        if request.response_nonce:
            self._judged(Verdict(names=tuple(self._sent), fault=_fault(request)))
        names = _names(request.resource_names)
        has_new = not set(names) <= set(self._names)
        self._names = names
        self._sent = {name: version for name, version in self._sent.items() if name in names}
        return self._answer(resources) if has_new else self.changed(resources)

    def changed(self, resources: SdsResources) -> discovery_pb2.DiscoveryResponse | None:
        """Take in other resources; gives what is to be said of it."""
        found = _found(self._names, resources)
        return None if all(self._sent.get(one.name) == one.version for one in found) else self._answer(resources)

    def _answer(self, resources: SdsResources) -> discovery_pb2.DiscoveryResponse | None:
        found = _found(self._names, resources)
        if not found:
            return None
        self._nonce += 1
        self._sent = {one.name: one.version for one in found}
        return discovery_pb2.DiscoveryResponse(
            type_url=SECRET_TYPE,
            version_info=",".join(one.version for one in found),
            nonce=str(self._nonce),
            resources=[one.secret for one in found],
        )


class DeltaExchange:
    """Incremental: each answer holds what is new for Envoy, and what there is no longer."""

    def __init__(self, judged: Callable[[Verdict], None]) -> None:
        self._judged = judged
        self._names: set[str] = set()
        self._sent: dict[str, str] = {}
        self._last: tuple[str, ...] = ()
        self._nonce = 0

    def requested(
        self, request: discovery_pb2.DeltaDiscoveryRequest, resources: SdsResources
    ) -> discovery_pb2.DeltaDiscoveryResponse | None:
        """Take a request; gives the answer, None where there is nothing (more) to say yet."""
        _require_type(request.type_url)
        if request.response_nonce and request.response_nonce == str(self._nonce):
            self._judged(Verdict(names=self._last, fault=_fault(request)))
        for name in _names(request.resource_names_unsubscribe):
            self._names.discard(name)
            self._sent.pop(name, None)
        wanted = _names(request.resource_names_subscribe)
        _names([*self._names, *wanted])
        self._names.update(wanted)
        for name, version in request.initial_resource_versions.items():
            if name in self._names:
                self._sent[name] = version
        for name in wanted:
            # Who subscribes is answered, even where the version is the one that was sent before; but a reconnected
            # Envoy that says which version it has needs no other.
            if name not in request.initial_resource_versions:
                self._sent.pop(name, None)
        return self._answer(resources, unknown=[name for name in wanted if not is_known(name)])

    def changed(self, resources: SdsResources) -> discovery_pb2.DeltaDiscoveryResponse | None:
        """Take in other resources; gives what is to be said of it."""
        return self._answer(resources, unknown=())

    def _answer(
        self, resources: SdsResources, *, unknown: Iterable[str]
    ) -> discovery_pb2.DeltaDiscoveryResponse | None:
        fresh = [one for one in _found(sorted(self._names), resources) if self._sent.get(one.name) != one.version]
        # What is to come, as our own names before the first SVID, is waited for: a removal would have Envoy start
        # without it.
        gone = [name for name in self._sent if resources.get(name) is None]
        if not fresh and not gone and not unknown:
            return None
        self._nonce += 1
        for name in gone:
            del self._sent[name]
        self._sent.update((one.name, one.version) for one in fresh)
        self._last = tuple(one.name for one in fresh)
        return discovery_pb2.DeltaDiscoveryResponse(
            type_url=SECRET_TYPE,
            system_version_info=",".join(one.version for one in fresh),
            nonce=str(self._nonce),
            resources=[{"name": one.name, "version": one.version, "resource": one.secret} for one in fresh],
            removed_resources=[*gone, *unknown],
        )


def fetched(request: discovery_pb2.DiscoveryRequest, resources: SdsResources) -> discovery_pb2.DiscoveryResponse:
    """Answer who asks once."""
    _require_type(request.type_url)
    found = _found(_names(request.resource_names), resources)
    return discovery_pb2.DiscoveryResponse(
        type_url=SECRET_TYPE,
        version_info=",".join(one.version for one in found),
        resources=[one.secret for one in found],
    )


def _fault(request: discovery_pb2.DiscoveryRequest | discovery_pb2.DeltaDiscoveryRequest) -> str | None:
    """Give what is wrong with an answer; an error without a word is one, too."""
    return request.error_detail.message or "no word why" if request.HasField("error_detail") else None


def _require_type(type_url: str) -> None:
    if type_url not in {"", SECRET_TYPE}:
        raise SdsRequestError(f"only secrets are served here, not `{type_url[:MAX_NAME_CHARACTERS]}`")


def _names(names: Iterable[str]) -> tuple[str, ...]:
    asked = tuple(dict.fromkeys(names))
    if len(asked) > MAX_NAMES or any(len(name) > MAX_NAME_CHARACTERS for name in asked):
        raise SdsRequestError(f"at most {MAX_NAMES} names of {MAX_NAME_CHARACTERS} characters are served")
    return asked


def _found(names: Iterable[str], resources: SdsResources) -> list[SdsResource]:
    return [found for name in names if (found := resources.get(name)) is not None]
