"""The fields that say what proves an identity: bundles of other trust domains, certificates, what a workload is.

Files are only named here: a set is valid wherever they are, and whoever uses them reads them.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

import re
from enum import StrEnum
from posixpath import normpath
from typing import Annotated, Final, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from authz.identity.spiffe_id import SpiffeId
from authz.policy.errors import quoted
from authz.policy.field_reading import Fields, one_of, problem, text_by
from authz.policy.host import parse_dns_name

#: Linux: PATH_MAX.
MAX_PATH_CHARACTERS: Final = 4096
#: What servers and proxies take as a URI (RFC 9110 4.1 recommends 8000 octets at least); SPIFFE IDs have 2048 at most.
MAX_URI_CHARACTERS: Final = 2048
#: The largest user and group of Linux; the one number more stands for none.
MAX_UNIX_ID: Final = 2**32 - 2

# RFC 3986 2 and 3: a scheme, and nothing but the characters of a URI behind it.
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
# RFC 3986 3.2.2, narrower: a name of DNS or an address; readers part what else stands there in different places.
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
_SHA256_PREFIX: Final = "sha256:"


# --- words ---------------------------------------------------------------------------------------------------------


def _file(text: str) -> str:
    if not text or not text.isprintable() or len(text) > MAX_PATH_CHARACTERS:
        raise problem(f"{quoted(text)} is no path of a file")
    return text


def _https_url(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port  # what is no number is only found when it is asked for
    except ValueError:
        url, port = urlsplit(""), None
    if (
        url.scheme != "https"
        or not url.hostname
        or port == 0
        or not _URI.fullmatch(text)
        or len(text) > MAX_URI_CHARACTERS
    ):
        raise problem(f"{quoted(text)} is no URL of a bundle; write `https://`, a host, and its path")
    # SPIFFE Federation 5.2.1, 5.2.2: the authority has no userinfo.
    if "@" in url.netloc:
        raise problem(f"{quoted(text)}: a bundle is fetched without user and password; leave them out")
    if not _AUTHORITY.fullmatch(url.netloc):
        raise problem(f"{quoted(text)}: the host of a URL is a name of DNS or an address")
    return text


def _workload_id(text: str) -> SpiffeId:
    spiffe_id = SpiffeId.parse(text)
    if not spiffe_id.path:
        raise problem(f"{quoted(text)} is a trust domain; a server has a path in its SPIFFE ID")
    return spiffe_id


def _uri_name(text: str) -> str:
    if text.lower().startswith("spiffe:"):
        raise problem(f"{quoted(text)} is a SPIFFE ID; write it under `identities`")
    if not _URI.fullmatch(text) or len(text) > MAX_URI_CHARACTERS:
        raise problem(f"{quoted(text)} is no URI; write its scheme, `:`, and what stands behind it")
    return text


def _absolute_path(text: str) -> str:
    if not _file(text).startswith("/"):
        raise problem(f"{quoted(text)} is no absolute path; write it from `/` on")
    return text


def _sha256(text: str) -> str:
    if text.startswith(_SHA256_PREFIX):
        raise problem(f"{quoted(text)}: leave `{_SHA256_PREFIX}` out; write the 64 hex digits alone")
    if not _SHA256.fullmatch(text):
        raise problem(f"{quoted(text)} is no SHA-256; write its 64 hex digits")
    return text.lower()


def _image(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text or len(text) > MAX_URI_CHARACTERS:
        raise problem(f"{quoted(text)} is no name of an image")
    return text


def _unix_id(number: int) -> int:
    if not 0 <= number <= MAX_UNIX_ID:
        raise problem(f"`{number}` is no number of a user or group; it is from 0 to {MAX_UNIX_ID}")
    return number


FileField: TypeAlias = Annotated[str, text_by(_file)]
_WorkloadId: TypeAlias = Annotated[SpiffeId, text_by(_workload_id)]
_UnixId: TypeAlias = Annotated[int, AfterValidator(_unix_id)]


# --- trust domains that are not ours -------------------------------------------------------------------------------


class EndpointProfile(StrEnum):
    """How the server of a bundle proves itself: by a certificate of the web, or by an SVID."""

    HTTPS_WEB = "https_web"
    HTTPS_SPIFFE = "https_spiffe"


class BundleEndpoint(Fields):
    """Where the bundle of a trust domain is fetched from; `spiffe_id` is its server's, with `https_spiffe` alone."""

    url: Annotated[str, text_by(_https_url)]
    profile: Annotated[EndpointProfile, one_of(EndpointProfile)]
    spiffe_id: _WorkloadId | None = None

    @model_validator(mode="after")
    def _says_who_serves(self) -> Self:
        if self.profile is EndpointProfile.HTTPS_SPIFFE and self.spiffe_id is None:
            raise problem("`spiffeId` is required with `https_spiffe`: the SPIFFE ID of the server")
        if self.profile is EndpointProfile.HTTPS_WEB and self.spiffe_id is not None:
            raise problem("with `https_web` the server proves its name; leave `spiffeId` out", at=("spiffeId",))
        return self


# --- callers without SPIFFE IDs ------------------------------------------------------------------------------------


class CertificateNames(Fields):
    """Certificates of one authority that prove a ThirdParty: those that have any of the names."""

    authority: FileField
    dns: Annotated[tuple[Annotated[str, text_by(parse_dns_name)], ...], Field(min_length=1)] = ()
    uri: Annotated[tuple[Annotated[str, text_by(_uri_name)], ...], Field(min_length=1)] = ()

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if not self.dns and not self.uri:
            raise problem("one of `dns` and `uri` is required: the names that stand in the certificate")
        if self.dns and self.uri:
            raise problem("only one of `dns` and `uri` is allowed; write two entries", at=("uri",))
        return self

    @property
    def authority_file(self) -> str:
        """The file as it is compared: ways to write one path are the same one."""
        return normpath(self.authority)


# --- workloads -----------------------------------------------------------------------------------------------------


class UnixProcess(Fields):
    """A process of a machine; every field that is given holds."""

    uid: _UnixId | None = None
    gid: _UnixId | None = None
    path: Annotated[str, text_by(_absolute_path)] | None = None
    sha256: Annotated[str, text_by(_sha256)] | None = None


class Container(Fields):
    """A container; every field that is given holds, and every label."""

    image: Annotated[str, text_by(_image)] | None = None
    labels: dict[str, str] | None = None


class Attestation(Fields):
    """What a workload must be to get an SVID of its Service: a process or a container."""

    unix: UnixProcess | None = None
    container: Container | None = None

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if self.unix is None and self.container is None:
            raise problem("one of `unix` and `container` is required")
        if self.unix is not None and self.container is not None:
            raise problem("a workload is a process or a container; write two entries", at=("container",))
        return self
