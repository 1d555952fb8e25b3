"""Who may ask what: by a bearer token, or by the SPIFFE ID that a client's certificate has proven.

    {"tokens": [{"name": "dashboard", "role": "viewer", "sha256": HEX}],
     "identities": [{"identity": "spiffe://example.org/ns/ops/sa/*", "role": "security"}],
     "hosts": ["hub.example.org:8443"]}

A token is written as its hash only; it is as good as a password, so it must be one that nobody guesses. A sidecar has
the role `sidecar`, which may send batches and read nothing. `hosts` are the names by which the hub is reached.

Without such a file everybody on this machine may do everything, and the hub listens on loopback only.

# INVARIANT (nobody by default): who has neither a token nor an identity of the file may do nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.errors import AuthzError
from authz.hub.errors import HubError
from authz.hub.operation import Role
from authz.identity.json_document import json_object
from authz.policy.identity_pattern import IdentityPattern

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.identity.spiffe_id import SpiffeId

#: a thousand tokens take 150 KiB
MAX_FILE_BYTES: Final = 1024 * 1024
MAX_ENTRIES: Final = 10_000
#: a token of 256 bits in base64 has 43 characters
MAX_TOKEN_CHARACTERS: Final = 4096
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
#: RFC 9110 7.2: a host, perhaps with a port
_HOST: Final = re.compile(r"(?:[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ROLES: Final = {role.name.lower(): role for role in Role if role is not Role.NOBODY}
_FIELDS: Final = frozenset({"tokens", "identities", "hosts"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks: the name of its token or its SPIFFE ID, and what it may do."""

    name: str
    role: Role
    identity: SpiffeId | None = None


#: whoever asks where nothing says who may
ANYBODY: Final = Asker(name="(anybody on this machine)", role=Role.ADMIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    name: str
    digest: bytes
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    pattern: IdentityPattern
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What an access file says."""

    tokens: tuple[_Token, ...] = ()
    identities: tuple[_Identity, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def from_json(cls, content: bytes) -> Access:
        """Read an access file; raises HubError that says what is wrong."""
        if len(content) > MAX_FILE_BYTES:
            raise HubError(f"more than {MAX_FILE_BYTES} bytes")
        try:
            data = _known_fields(json_object(content))
            return cls(
                tokens=tuple(map(_token, _list(data, "tokens"))),
                identities=tuple(map(_identity, _list(data, "identities"))),
                hosts=frozenset(map(_host, _list(data, "hosts"))),
            )
        except HubError:
            raise
        except AuthzError as error:
            raise HubError(str(error)) from error

    def of_token(self, token: str) -> Asker | None:
        """Give who has this token; takes as long for any."""
        digest = hashlib.sha256(token[:MAX_TOKEN_CHARACTERS].encode("utf-8", "surrogateescape")).digest()
        found = None
        for each in self.tokens:
            if hmac.compare_digest(each.digest, digest):
                found = each
        return None if found is None else Asker(name=found.name, role=found.role)

    def of_identity(self, identity: SpiffeId) -> Asker | None:
        """Give what a proven SPIFFE ID may do: the most that any of the entries says."""
        roles = [each.role for each in self.identities if each.pattern.matches(identity)]
        return Asker(name=str(identity), role=max(roles), identity=identity) if roles else None


def _known_fields(data: dict[str, Any]) -> dict[str, Any]:
    unknown = data.keys() - _FIELDS
    if unknown:
        raise HubError(f"`{min(unknown)[:64]}` is not known; there are {', '.join(sorted(_FIELDS))}")
    return data


def _token(data: Any) -> _Token:
    name, role = _entry(data, "tokens", {"name", "role", "sha256"}, "name")
    digest = data["sha256"]
    if not isinstance(digest, str) or _SHA256.fullmatch(digest) is None:
        raise HubError("tokens: `sha256` is the SHA-256 of the token, in 64 lower-case hexadecimal digits")
    return _Token(name=name, digest=bytes.fromhex(digest), role=role)


def _identity(data: Any) -> _Identity:
    text, role = _entry(data, "identities", {"identity", "role"}, "identity")
    return _Identity(pattern=IdentityPattern.parse(text), role=role)


def _entry(data: Any, of: str, fields: set[str], name: str) -> tuple[str, Role]:
    if not isinstance(data, dict) or data.keys() != fields:
        raise HubError(f"{of}: an entry has exactly {', '.join(f'`{each}`' for each in sorted(fields))}")
    text, role = data[name], data["role"]
    if not isinstance(text, str) or not text.isprintable() or not 1 <= len(text) <= MAX_TOKEN_CHARACTERS:
        raise HubError(f"{of}: `{name}` is a printable text")
    if not isinstance(role, str) or role not in _ROLES:
        raise HubError(f"{of}: `role` is one of {', '.join(_ROLES)}")
    return text, _ROLES[role]


def _host(data: Any) -> str:
    if not isinstance(data, str) or _HOST.fullmatch(data.lower()) is None:
        raise HubError("hosts: give names such as `hub.example.org` or `hub.example.org:8443`")
    return data.lower()


def _list(data: dict[str, Any], field: str) -> Iterable[Any]:
    value = data.get(field, [])
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise HubError(f"`{field}` is a list of at most {MAX_ENTRIES}")
    return value


def refusal_line(*, time: str, who: str, address: str, method: str, path: str, why: str) -> bytes:
    """Write down that somebody was refused, as one line of JSON in ASCII."""
    record = {"time": time, "who": who, "address": address, "method": method[:64], "path": path[:256], "why": why}
    return (json.dumps(record) + "\n").encode("ascii")
