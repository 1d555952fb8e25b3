"""Policy files in a git repository at one revision: which commit that is, and what stands below a folder in it.

Asks the program `git`, never through a shell. A revision is resolved once, to the hash of a commit; everything is read
by hashes from then on, so that a branch that moves meanwhile changes nothing.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from authz.policy.document import MAX_FILE_BYTES, MAX_FILES, MAX_SET_BYTES, SourceFile
from authz.policy.errors import PolicyError, quoted
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy_listing import SUFFIXES

#: git answers from its own files; one that takes longer waits for something that never comes.
TIMEOUT_S: Final = 120
_LINK_MODE: Final = "120000"
_FILE_MODES: Final = frozenset({"100644", "100755"})
#: Links that lead to links; more are a loop.
_MAX_LINKS: Final = 16


class GitRevisionError(PolicyError):
    """A git revision, or the policies in it, cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitFolder:
    """A folder of a commit; `commit` is its full hash."""

    commit: str
    folder: str

    def __str__(self) -> str:
        return f"{self.commit[:12]}:{self.folder or '.'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blob:
    mode: str
    hash: str


def git_folder(repository: str, revision: str, folder: str) -> GitFolder:
    """Resolve a revision in the repository around a directory; raises GitRevisionError."""
    if revision.startswith("-") or "\0" in revision:
        raise GitRevisionError(f"{quoted(revision)} is no git revision")
    try:
        found = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except _GitSaysNo as error:
        raise GitRevisionError(
            f"{quoted(revision)} is neither a folder nor a git revision{_why(error)}; check how it is written, "
            "or fetch it first (in CI: with the whole history)"
        ) from error
    commit = found.decode("ascii", "replace").strip()
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts:
        raise GitRevisionError(f"{quoted(folder)}: give the folder as it is called in the repository, from its root")
    return GitFolder(commit=commit, folder="" if folder in {"", "."} else str(path))


def is_in_repository(directory: str) -> bool:
    """Whether a directory is within the work tree of a git repository."""
    try:
        return _git(directory, "rev-parse", "--is-inside-work-tree").strip() == b"true"
    except GitRevisionError:
        return False


def repository_path(directory: str) -> str:
    """Give how a directory is called in the repository that it stands in; raises GitRevisionError."""
    try:
        prefix = _git(directory, "rev-parse", "--show-prefix")
    except _GitSaysNo as error:
        raise GitRevisionError(
            f"{directory} is in no git repository, and there is no such folder; run this within the repository, "
            "or compare two folders"
        ) from error
    return prefix.decode("utf-8", "surrogateescape").rstrip("\n").rstrip("/")


def load_git_folder(repository: str, place: GitFolder) -> PolicySet:
    """Read the policy set below a folder of a commit; raises GitRevisionError, or PolicySetFaults.

    The same files count as in a folder on disk: `*.yaml` and `*.yml`, nothing whose name begins with a dot.
    """
    blobs = _blobs(repository, place)
    below = f"{place.folder}/" if place.folder else ""
    wanted = []
    for path in sorted(blobs):
        inside = path.removeprefix(below)
        if path.startswith(below) and inside.endswith(SUFFIXES) and not _is_hidden(inside):
            wanted.append((path, _followed(blobs, path, repository)))
    if not any(path.startswith(below) for path in blobs):
        raise GitRevisionError(
            f"{place}: there is no such folder in this commit; write REVISION:FOLDER, or --policies FOLDER, from "
            "the repository's root"
        )
    if len(wanted) > MAX_FILES:
        raise GitRevisionError(f"{place}: more than {MAX_FILES} policy files")
    contents = _contents(repository, [blob.hash for _, blob in wanted])
    return parse_policy_set(
        [
            SourceFile(path=f"{place.commit[:12]}:{path}", content=content)
            for (path, _), content in zip(wanted, contents, strict=True)
        ]
    )


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _blobs(repository: str, place: GitFolder) -> dict[str, _Blob]:
    """Give the files of the whole commit: a link may lead out of the folder."""
    found: dict[str, _Blob] = {}
    listed = _git(repository, "ls-tree", "-r", "-z", "--full-tree", place.commit)
    for line in listed.decode("utf-8", "surrogateescape").split("\0"):
        if line:
            described, _, path = line.partition("\t")
            mode, _, name = described.split(" ")
            found[path] = _Blob(mode=mode, hash=name)
    return found


def _followed(blobs: dict[str, _Blob], path: str, repository: str) -> _Blob:
    """Follow links to files, as a folder on disk does."""
    at = path
    for _ in range(_MAX_LINKS):
        blob = blobs.get(at)
        if blob is None:
            break
        if blob.mode in _FILE_MODES:
            return blob
        if blob.mode != _LINK_MODE:
            break
        (target,) = _contents(repository, [blob.hash])
        at = _joined(at, target.decode("utf-8", "surrogateescape"))
    raise GitRevisionError(f"{path}: a link to a file that is not in the commit")


def _joined(link: str, target: str) -> str:
    parts = link.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _contents(repository: str, hashes: list[str]) -> list[bytes]:
    """Read files by their hashes, all with one process."""
    if not hashes:
        return []
    sizes = _git(repository, "cat-file", "--batch-check=%(objectsize)", given="\n".join(hashes).encode() + b"\n")
    for size in sizes.split():
        if not size.isdigit() or int(size) > MAX_FILE_BYTES:
            raise GitRevisionError(f"a policy file in git has more than {MAX_FILE_BYTES} bytes, or is not there")
    if sum(map(int, sizes.split())) > MAX_SET_BYTES:
        raise GitRevisionError(f"more than {MAX_SET_BYTES} bytes of policies in git")
    answer = _git(repository, "cat-file", "--batch", given="\n".join(hashes).encode() + b"\n")
    contents, position = [], 0
    for _ in hashes:
        end = answer.index(b"\n", position)
        size_bytes = int(answer[position:end].split(b" ")[2])
        contents.append(answer[end + 1 : end + 1 + size_bytes])
        position = end + 1 + size_bytes + 1
    return contents


class _GitSaysNo(GitRevisionError):  # noqa: N818 it is an answer
    """The program git ended with an error; its text is what it said."""


def _git(directory: str, *words: str, given: bytes = b"") -> bytes:
    command = ["git", "-C", directory, *words]
    try:
        ended = subprocess.run(command, input=given, capture_output=True, check=False, timeout=TIMEOUT_S)  # noqa: S603 fixed words, and hashes
    except FileNotFoundError as error:
        raise GitRevisionError("git is not installed here; compare two folders instead") from error
    except (subprocess.TimeoutExpired, OSError, ValueError) as error:
        raise GitRevisionError(f"git could not be asked: {error}") from error
    if ended.returncode:
        said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _GitSaysNo(said[-1].removeprefix("fatal: ") if said else "")
    return ended.stdout


def _why(error: _GitSaysNo) -> str:
    return f" ({error})" if str(error) else ""
