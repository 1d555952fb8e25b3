"""What a kernel and a container engine say of a container, read and compared. Pure.

Two things are told apart. Which container a process is in is the kernel's knowledge: /proc/PID/cgroup. What that
container is (image, labels, its first process) is the engine's, by its Docker-compatible API.

# INVARIANT (outermost): of several container ids in a path the first one counts. Whoever may make cgroups below his
# own may give them any name; above it he may not.
# INVARIANT (same place): a name alone proves nothing: users may have cgroups of their own (systemd's delegation), and
# name one like somebody's container. A membership counts only if it is equal to that of the container's first process,
# as the engine tells it.

cgroups(7), proc_pid_cgroup(5);
https://docs.docker.com/reference/api/engine/ (ContainerInspect, ContainerList, ImageInspect)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.issuer.errors import AttestationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from authz.policy.evidence_fields import Container

#: cgroups(7): a dozen hierarchies, each with a path of at most PATH_MAX
MAX_CGROUP_BYTES: Final = 64 * 1024
#: what an engine says of a container: usually 10 KiB, most of it environment and mounts
MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024

_ID: Final = r"[0-9a-f]{64}"
#: Docker with cgroupfs (`/docker/ID`) and systemd (`docker-ID.scope`), podman (`libpod-ID`, `libpod-ID.scope`),
#: containerd and CRI-O below Kubernetes. `libpod-conmon-ID` is the monitor, outside of the container.
_COMPONENT: Final = re.compile(rf"(?:(?:docker|libpod|cri-containerd|crio)-)?({_ID})(?:\.scope)?")
_CONTAINER_ID: Final = re.compile(_ID)
_IMAGE_ID: Final = re.compile(rf"sha256:{_ID}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerMembership:
    """The container that a process is in, and where: hierarchy and path of its cgroup, down to the container's own."""

    container_id: str
    places: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """What the engine says of a container; two that are equal are of one run of it.

    `image` is the name that it was made by, `image_id` what that name stood for then.
    """

    container_id: str
    image: str
    image_id: str
    labels: Mapping[str, str]
    is_running: bool
    first_pid: int
    started: str


def container_membership(cgroups: bytes) -> ContainerMembership | None:
    """Read /proc/PID/cgroup: None for a process in no container; raises AttestationError where that is not to be told.

    A membership is a claim until it was compared with that of the container's first process.
    """
    if len(cgroups) > MAX_CGROUP_BYTES:
        raise AttestationError(f"its cgroups have more than {MAX_CGROUP_BYTES} bytes")
    ids: set[str] = set()
    places: set[tuple[str, str]] = set()
    for line in cgroups.decode("utf-8", "surrogateescape").split("\n"):
        hierarchy, _, rest = line.partition(":")
        _, _, path = rest.partition(":")
        found = _container_part(path)
        if found is not None:
            container_id, place = found
            ids.add(container_id)
            places.add((hierarchy, place))
    if len(ids) > 1:
        raise AttestationError("its cgroups are those of several containers")
    return ContainerMembership(container_id=ids.pop(), places=frozenset(places)) if ids else None


def _container_part(path: str) -> tuple[str, str] | None:
    """Give the outermost container's id in a cgroup's path, and the path as far as there."""
    parts = path.split("/")
    for number, part in enumerate(parts, 1):
        match = _COMPONENT.fullmatch(part)
        if match is not None:
            return match.group(1), "/".join(parts[:number])
    return None


def container_facts(document: bytes) -> ContainerFacts:
    """Read the engine's answer to ContainerInspect; raises AttestationError for what is none."""
    container = _object(_parsed(document))
    state, configuration = _object(container.get("State")), _object(container.get("Config"))
    facts = ContainerFacts(
        container_id=_text(container.get("Id")),
        image=_text(configuration.get("Image")),
        image_id=_image_id(_text(container.get("Image"))),
        labels=_labels(configuration.get("Labels")),
        is_running=state.get("Running") is True,
        first_pid=_number(state.get("Pid")),
        started=_text(state.get("StartedAt")),
    )
    _require(_CONTAINER_ID.fullmatch(facts.container_id) is not None)
    return facts


def container_ids(document: bytes) -> tuple[str, ...]:
    """Read the engine's answer to ContainerList; raises AttestationError for what is none."""
    containers = _parsed(document)
    _require(isinstance(containers, list))
    ids = tuple(_text(_object(each).get("Id")) for each in containers)
    _require(all(_CONTAINER_ID.fullmatch(each) for each in ids))
    return ids


def repository_digests(document: bytes) -> frozenset[str]:
    """Read from the engine's answer to ImageInspect under which digests the image was pulled, as full references."""
    digests = _object(_parsed(document)).get("RepoDigests")
    _require(digests is None or isinstance(digests, list))
    return frozenset(full_reference(_text(each)) for each in digests or ())


def asks_for_digest(selector: Container) -> bool:
    """Whether an entry names its image by the digest under which it was pulled."""
    return selector.image is not None and "@" in selector.image


def is_as_selected(selector: Container, facts: ContainerFacts, digests: Collection[str]) -> bool:
    """Whether every field that an entry gives holds; one that gives none holds for nobody.

    `digests` are those of the container's image; they are looked at only where the entry names one.
    """
    if selector.image is None and not selector.labels:
        return False
    if selector.image is not None and not _is_image(selector.image, facts, digests):
        return False
    return all(facts.labels.get(key) == value for key, value in (selector.labels or {}).items())


def _is_image(wanted: str, facts: ContainerFacts, digests: Collection[str]) -> bool:
    if _IMAGE_ID.fullmatch(wanted):
        return wanted == facts.image_id
    if "@" in wanted:
        return full_reference(wanted) in digests
    return full_reference(wanted) == full_reference(facts.image)


def full_reference(image: str) -> str:
    """Give an image's name with everything that Docker adds where it is left out: registry, `library/` and `:latest`.

    Two names that are not of one registry never become equal.
    """
    name, at, digest = image.partition("@")
    first, slash, _ = name.partition("/")
    # The first part is a registry if it could be a host: by a dot, a port, or as `localhost`.
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    if at:
        # A tag beside a digest says nothing: the digest decides.
        return f"{_untagged(name)}@{digest}"
    return name if _untagged(name) != name else f"{name}:latest"


def _untagged(name: str) -> str:
    before, colon, tag = name.rpartition(":")
    return before if colon and "/" not in tag else name


def _parsed(document: bytes) -> Any:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise AttestationError(f"the container engine's answer has more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        return json.loads(document)
    except (ValueError, RecursionError) as error:
        raise AttestationError("the container engine's answer is no JSON") from error


def _require(holds: bool) -> None:  # noqa: FBT001 a condition
    if not holds:
        raise AttestationError("the container engine's answer has not the form of one")


def _object(value: Any) -> dict[str, Any]:
    _require(isinstance(value, dict))
    return value  # type: ignore[no-any-return]


def _text(value: Any) -> str:
    _require(isinstance(value, str))
    return value  # type: ignore[no-any-return]


def _number(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and value >= 0)
    return value  # type: ignore[no-any-return]


def _labels(value: Any) -> Mapping[str, str]:
    labels = {} if value is None else _object(value)
    return {key: _text(each) for key, each in labels.items()}


def _image_id(text: str) -> str:
    """Give an image's id in Docker's form; podman's own API leaves `sha256:` out."""
    return f"sha256:{text}" if _CONTAINER_ID.fullmatch(text) else text
