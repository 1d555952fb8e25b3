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
from authz.policy_folder import read_policy_folder
from authz.sidecar.compiler.policy_source import opened_source, source_digest
from authz.sidecar.control import last_good
from authz.sidecar.own_policy import OwnPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from authz.policy.document import SourceFile
    from authz.policy.index import PolicyIndex

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


def compiled_folder(folder: str, *, service: str, state: Path | None, in_force: str, serving: bool) -> Result:
    """Compile what stands in a folder.

    `in_force` is the digest of the set that decides now, "" where there is none. Where none is `serving` yet, a folder
    that cannot be used gives the set that was kept last, or none: somebody must deny.
    """
    try:
        files = read_policy_folder(folder)
        digest = source_digest(files)
        if digest == in_force:
            return Same()
        compiled = _compiled(files, digest, service, folder)
    except PolicySetFaults as error:
        faults = shown_faults(error)
    except AuthzError as error:
        faults = (str(error),)
    except Exception as error:  # noqa: BLE001 whatever goes wrong with new files leaves the set before in force
        faults = (f"{folder}: a fault of the program: {type(error).__name__}: {error}",)
    else:
        if state is not None:
            last_good.keep(state, files)
        return compiled
    return Refused(faults=faults) if serving else compiled_kept(folder, service=service, state=state, faults=faults)


def compiled_again(source: int, *, service: str, folder: str) -> Compiled | Refused:
    """Compile what is in force once more, from its sealed source."""
    try:
        files = opened_source(source)
        return _compiled(files, source_digest(files), service, folder)
    except Exception as error:  # noqa: BLE001 it was compiled before; what has changed is the machine or the clock
        return Refused(faults=(f"the set in force cannot be compiled again: {type(error).__name__}: {error}",))


def no_set(faults: tuple[str, ...] = ()) -> Compiled:
    """Give what denies every call."""
    return Compiled(index=None, files=(), digest="", compiled_ns=time.time_ns(), faults=faults)


def _compiled(files: tuple[SourceFile, ...], digest: str, service: str, folder: str) -> Compiled:
    now_ns = time.time_ns()
    policy_set = parse_policy_set(files)
    index = compile_index(policy_set, now_ns)
    own = OwnPolicy.of(policy_set, service, folder)
    return Compiled(index=index, files=files, digest=digest, compiled_ns=now_ns, own=own)


def compiled_kept(folder: str, *, service: str, state: Path | None, faults: tuple[str, ...]) -> Compiled:
    """Compile the set that was kept last, or give none: the folder's own has these faults."""
    files = None if state is None else last_good.kept(state)
    if files is None:
        return no_set(faults)
    try:
        return replace(_compiled(files, source_digest(files), service, folder), faults=faults)
    except AuthzError:
        return no_set(faults)


def shown_faults(error: PolicySetFaults) -> tuple[str, ...]:
    """Give the first faults of a set, and how many more there are."""
    texts = tuple(str(fault) for fault in error.faults)
    rest = len(texts) - MAX_FAULTS_SHOWN
    return texts if rest <= 0 else (*texts[:MAX_FAULTS_SHOWN], f"and {rest} more faults")
