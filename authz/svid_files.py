"""X.509-SVIDs as files: how certificate, key and bundle come to stand in a directory that a proxy watches.

Decides names, modes and the order of writing; knows nothing of what a certificate says. The directory holds

    svid.pem -> ..data/svid.pem          and the same for key.pem and bundle.pem
    ..data   -> ..9b1c7d0a55e84f21       one generation of all the files, replaced as a whole

so that one rename, of `..data`, changes everything at once: the scheme of Kubernetes' volumes, which is what Envoy's
`watched_directory` waits for. The generation before stays until the next write, so that a reader that has just
followed the link still finds its files.

# INVARIANT (private from the start): no key is readable to others at any instant. Every file and directory is created
# with its final mode, which an umask can only narrow; nothing is chmod'ed.
# INVARIANT (one writer): writes to a directory follow one another, by an exclusive lock on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.identity.authority import MAX_AUTHORITY_BYTES, Authority
from authz.identity.errors import IdentityError
from authz.proxy.spec import BUNDLE_FILE, KEY_FILE, SVID_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from authz.identity.authority import IssuedSvid
    from authz.identity.spiffe_id import TrustDomain

_DATA: Final = "..data"
_GENERATION: Final = re.compile(r"\.\.[0-9a-f]{16}")
_NEW: Final = "..new"
_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
#: for what anybody may read, such as a bundle
_PUBLIC_MODE: Final = 0o644
_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class SvidFilesError(AuthzError):
    """A file of an SVID or of an authority cannot be read or written."""


class OversizedFileError(SvidFilesError):
    """A file is larger than what it should hold ever is."""


def write_svid(
    directory: str | Path,
    svid: IssuedSvid,
    bundle_pem: bytes,
    *,
    other_bundles: Mapping[TrustDomain, bytes] | None = None,
    documents: Mapping[str, bytes] | None = None,
) -> None:
    """Put an SVID with its key and bundle into `directory` (made if absent), all files in one atomic step.

    `bundle_pem` is that of the SVID's own trust domain; every other trust domain's stands in a file of its own,
    `bundle.<trust domain>.pem`, for one bundle never vouches for two. `documents` are further files by name: SPIFFE
    bundle documents, which hold keys of JWT-SVIDs, too.
    """
    # The certificate comes last: whoever waits for it finds the others there.
    files = {
        BUNDLE_FILE: bundle_pem,
        **{other_bundle_file(domain): pem for domain, pem in (other_bundles or {}).items()},
        **(documents or {}),
        KEY_FILE: svid.key_pem,
        SVID_FILE: svid.certificate_pem,
    }
    with _own_directory(directory) as directory_fd:
        before = _link_target(_DATA, directory_fd)
        try:
            generation = _write_generation(files, directory_fd)
            _point(_DATA, generation, directory_fd)
            for name in files:
                target = f"{_DATA}/{name}"
                if _link_target(name, directory_fd) != target:
                    _point(name, target, directory_fd)
            os.fsync(directory_fd)
        finally:
            _remove_generations(directory_fd, but={before, _link_target(_DATA, directory_fd)})
            _remove_dangling_links(directory_fd)


def other_bundle_file(trust_domain: TrustDomain) -> str:
    """Give the name of the file with the bundle of another trust domain than the SVID's own."""
    return f"bundle.{trust_domain}.pem"


def bundle_document_file(trust_domain: TrustDomain | None) -> str:
    """Give the name of the file with a SPIFFE bundle document: of another trust domain, or of the SVID's own (None)."""
    return "bundle.json" if trust_domain is None else f"bundle.{trust_domain}.json"


def kept_authority(directory: str | Path, trust_domain: TrustDomain, generate: Callable[[], Authority]) -> Authority:
    """Give the authority of `trust_domain` that `directory` holds; where there is none, generate it and keep it."""
    name = f"{trust_domain}.authority.pem"
    with _own_directory(directory) as directory_fd:
        position = Path(directory, name)
        try:
            pem = _read_secret(name, position, directory_fd)
        except FileNotFoundError:
            authority = generate()
            _unlink(_NEW, directory_fd)
            _write_new_file(_NEW, authority.to_pem(), directory_fd)
            os.replace(_NEW, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
            os.fsync(directory_fd)
            return authority
    try:
        authority = Authority.from_pem(pem)
    except IdentityError as exc:
        raise SvidFilesError(f"{position}: {exc}") from exc
    if authority.trust_domain != trust_domain:
        raise SvidFilesError(f"{position}: holds the authority of `{authority.trust_domain}`")
    return authority


def read_public_file(path: str | Path, *, max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`."""
    with _os_errors_at(path):
        # Non-blocking: a named pipe is refused below instead of being waited for.
        file_fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return _read_regular_file(file_fd, path, max_bytes=max_bytes, secret=False)


@contextlib.contextmanager
def replacing_public_file(
    path: str | Path, *, max_bytes: int
) -> Iterator[tuple[bytes | None, Callable[[bytes], None]]]:
    """Give what a file holds (None where there is none) and what writes it anew in one step; others wait meanwhile.

    A reader finds what was there or what is there, whole; a crash leaves one of the two.
    """
    with _os_errors_at(path):
        directory, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 a link is replaced, not followed
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory_fd, fcntl.LOCK_EX)  # INVARIANT (one writer); closing releases it
            before = read_public_file(path, max_bytes=max_bytes) if os.path.lexists(path) else None

            def write(content: bytes) -> None:
                new = f".{name}.{secrets.token_hex(8)}"
                try:
                    _write_new_file(new, content, directory_fd, mode=_PUBLIC_MODE)
                    os.replace(new, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
                finally:
                    _unlink(new, directory_fd)  # what an error has left
                os.fsync(directory_fd)

            yield before, write
        finally:
            os.close(directory_fd)


@contextlib.contextmanager
def _own_directory(directory: str | Path) -> Iterator[int]:
    """Open a directory that only its owner can write to, made if absent, and hold its lock."""
    with _os_errors_at(directory):
        _make_directories(Path(directory).absolute())
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.fstat(directory_fd)
            # Whoever can write to the directory can put an own certificate in the place of ours.
            if found.st_uid not in {os.geteuid(), 0} or found.st_mode & _WRITABLE_BY_OTHERS:
                raise SvidFilesError(f"{directory}: others can write to this directory; it is to be ours alone")
            fcntl.flock(directory_fd, fcntl.LOCK_EX)  # INVARIANT (one writer); closing releases it
            yield directory_fd
        finally:
            os.close(directory_fd)


def _make_directories(directory: Path) -> None:
    """Make a directory and what is missing above it, each of them private (Path.mkdir makes the upper ones 0777)."""
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):  # made meanwhile; or a file, which the next step refuses
            path.mkdir(_DIRECTORY_MODE)


def _write_generation(files: Mapping[str, bytes], directory_fd: int) -> str:
    """Write the files into a new directory below, and give its name."""
    generation = f"..{secrets.token_hex(8)}"
    os.mkdir(generation, _DIRECTORY_MODE, dir_fd=directory_fd)
    generation_fd = os.open(
        generation, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd
    )
    try:
        for name, content in files.items():
            _write_new_file(name, content, generation_fd)
        os.fsync(generation_fd)
    finally:
        os.close(generation_fd)
    return generation


def _write_new_file(name: str, content: bytes, directory_fd: int, *, mode: int = _FILE_MODE) -> None:
    """Create a file that was not there, private from its first instant, and see it onto the disk."""
    # INVARIANT (private from the start): the mode is an argument of the creation, and O_EXCL refuses a file or a
    # link that somebody else has put there.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, mode, dir_fd=directory_fd), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _point(name: str, target: str, directory_fd: int) -> None:
    """Make `name` a symbolic link to `target`, replacing whatever it was in one step."""
    _unlink(_NEW, directory_fd)
    os.symlink(target, _NEW, dir_fd=directory_fd)
    os.replace(_NEW, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)


def _link_target(name: str, directory_fd: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory_fd)
    except OSError:  # absent, or no link
        return None


def _unlink(name: str, directory_fd: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory_fd)


def _remove_generations(directory_fd: int, *, but: set[str | None]) -> None:
    """Remove the generations that nobody can be reading, with what an interrupted write has left."""
    for name in os.listdir(directory_fd):
        if name in but or not _GENERATION.fullmatch(name):
            continue
        # What cannot be removed now is removed after the next write.
        with contextlib.suppress(OSError):
            generation_fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory_fd)
            try:
                for file in os.listdir(generation_fd):  # noqa: PTH208 by descriptor: a path may change under us
                    os.unlink(file, dir_fd=generation_fd)
            finally:
                os.close(generation_fd)
            os.rmdir(name, dir_fd=directory_fd)


def _remove_dangling_links(directory_fd: int) -> None:
    """Remove the links to files that the generation in force does not have: bundles of trust domains that are gone."""
    for name in os.listdir(directory_fd):
        if _link_target(name, directory_fd) == f"{_DATA}/{name}":
            try:
                os.stat(name, dir_fd=directory_fd)
            except FileNotFoundError:
                _unlink(name, directory_fd)


def _read_secret(name: str, position: Path, directory_fd: int) -> bytes:
    """Read a file that nobody else can read; raises FileNotFoundError where there is none."""
    file_fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    return _read_regular_file(file_fd, position, max_bytes=MAX_AUTHORITY_BYTES, secret=True)


def _read_regular_file(file_fd: int, position: str | Path, *, max_bytes: int, secret: bool) -> bytes:
    """Read and close what has been opened, unless it is no file, too large, or a secret that others can read."""
    try:
        mode = os.fstat(file_fd).st_mode
        if not stat.S_ISREG(mode):
            raise SvidFilesError(f"{position}: not a file")
        if secret and mode & _FOR_OTHERS:
            raise SvidFilesError(f"{position}: others can read this private key, so it is not used")
        with os.fdopen(file_fd, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(file_fd)
    if len(content) > max_bytes:
        raise OversizedFileError(f"{position}: has more than {max_bytes} bytes")
    return content


@contextlib.contextmanager
def _os_errors_at(position: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise SvidFilesError(f"{position}: {(exc.strerror or str(exc)).lower()}") from exc
