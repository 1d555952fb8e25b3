"""One policy set read, parsed and compiled, or why not: what a compiler does before it forks anyone.

INVARIANT (no way back), as in `control.last_good`: a set that comes into force is kept before anyone answers by it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from authz.errors import AuthzError
from authz.policy.errors import PolicySetFaults
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from authz.policy_folder import ReadFiles, read_policy_folder
from authz.sidecar.compiler.policy_source import opened_source, source_digest
from authz.sidecar.control import last_good
from authz.sidecar.own_policy import OwnPolicy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz.policy.document import SourceFile
    from authz.policy.index import PolicyIndex
    from authz.policy.policy_set import PolicySet

#: faults that are shown of one set; the rest is counted
MAX_FAULTS_SHOWN: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A set that can come into force; `index` is None where there is none at all. `faults` are the folder's.

    `own` is what it says of the sidecar's own identity and trust.
    """

    index: PolicyIndex | None
    files: tuple[SourceFile, ...]
    digest: str
    compiled_ns: int
    own: OwnPolicy = field(default_factory=OwnPolicy)
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What stands in the folder cannot be used, and why."""

    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Same:
    """What stands in the folder is in force already."""


Result: TypeAlias = Compiled | Refused | Same


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSet:
    """What stands in a folder, without a fault and not compiled."""

    files: tuple[SourceFile, ...]
    digest: str
    policy_set: PolicySet


def compiled_folder(
    folder: str,
    *,
    service: str,
    state: Path | None,
    in_force: str,
    serving: bool,
    clock: Callable[[], int] = time.time_ns,
) -> Result:
    """Compile what stands in a folder.

    `in_force` is the digest of the set that decides now, "" where there is none. Where none is `serving` yet, a folder
    that cannot be used gives the set that was kept last, or none: somebody must deny.
    """
    found = read_set(folder, in_force=in_force, parse=parse_policy_set)
    return compiled_result(found, folder=folder, service=service, state=state, serving=serving, clock=clock)


def read_set(
    folder: str,
    *,
    in_force: str,
    parse: Callable[[tuple[SourceFile, ...]], PolicySet],
    known: ReadFiles | None = None,
) -> FolderSet | Refused | Same:
    """Read and parse what stands in a folder, but for files that are known; raises nothing."""
    try:
        files = read_policy_folder(folder, known)
        digest = source_digest(files)
        return Same() if digest == in_force else FolderSet(files=files, digest=digest, policy_set=parse(files))
    except PolicySetFaults as error:
        faults = shown_faults(error)
    except AuthzError as error:
        faults = (str(error),)
    except Exception as error:  # noqa: BLE001 whatever goes wrong with new files leaves the set before in force
        faults = (f"{folder}: a fault of the program: {type(error).__name__}: {error}",)
    return Refused(faults=faults)


def compiled_result(
    found: FolderSet | Refused | Same,
    *,
    folder: str,
    service: str,
    state: Path | None,
    serving: bool,
    clock: Callable[[], int] = time.time_ns,
) -> Result:
    """Compile what was read, and keep it before anyone answers by it; raises nothing."""
    if isinstance(found, Same):
        return found
    if isinstance(found, FolderSet):
        try:
            compiled = _compiled_set(found, service, folder, clock())
        except AuthzError as error:
            found = Refused(faults=(str(error),))
        except Exception as error:  # noqa: BLE001 as above
            found = Refused(faults=(f"{folder}: a fault of the program: {type(error).__name__}: {error}",))
        else:
            if state is not None:
                last_good.keep(state, found.files)
            return compiled
    if serving:
        return found
    return compiled_kept(folder, service=service, state=state, faults=found.faults, clock=clock)


def compiled_again(
    source: int, *, service: str, folder: str, clock: Callable[[], int] = time.time_ns
) -> Compiled | Refused:
    """Compile what is in force once more, from its sealed source."""
    try:
        files = opened_source(source)
        return _compiled(files, source_digest(files), service, folder, clock())
    except Exception as error:  # noqa: BLE001 it was compiled before; what has changed is the machine or the clock
        return Refused(faults=(f"the set in force cannot be compiled again: {type(error).__name__}: {error}",))


def no_set(faults: tuple[str, ...] = ()) -> Compiled:
    """Give what denies every call."""
    return Compiled(index=None, files=(), digest="", compiled_ns=time.time_ns(), faults=faults)


def _compiled(files: tuple[SourceFile, ...], digest: str, service: str, folder: str, now_ns: int) -> Compiled:
    found = FolderSet(files=files, digest=digest, policy_set=parse_policy_set(files))
    return _compiled_set(found, service, folder, now_ns)


def _compiled_set(found: FolderSet, service: str, folder: str, now_ns: int) -> Compiled:
    index = compile_index(found.policy_set, now_ns)
    own = OwnPolicy.of(found.policy_set, service, folder)
    return Compiled(index=index, files=found.files, digest=found.digest, compiled_ns=now_ns, own=own)


def compiled_kept(
    folder: str,
    *,
    service: str,
    state: Path | None,
    faults: tuple[str, ...],
    clock: Callable[[], int] = time.time_ns,
) -> Compiled:
    """Compile the set that was kept last, or give none: the folder's own has these faults."""
    files = None if state is None else last_good.kept(state)
    if files is None:
        return no_set(faults)
    try:
        return replace(_compiled(files, source_digest(files), service, folder, clock()), faults=faults)
    except AuthzError:
        return no_set(faults)


def shown_faults(error: PolicySetFaults) -> tuple[str, ...]:
    """Give the first faults of a set, and how many more there are."""
    texts = tuple(str(fault) for fault in error.faults)
    rest = len(texts) - MAX_FAULTS_SHOWN
    return texts if rest <= 0 else (*texts[:MAX_FAULTS_SHOWN], f"and {rest} more faults")
