"""How a receiver knows that a webhook is ours and new: Standard Webhooks, with secrets that both sides have. Pure.

The signature is over the id, the time of this try and the body: a receiver that refuses old times cannot be told again
what somebody has overheard. While a secret is replaced there are two of them, and two signatures.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING, Final

from authz.window_watch.errors import WindowWatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: the specification's least: 192 bits
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 1024
#: the one in use, the next one, and some more
MAX_SECRETS: Final = 4
MAX_SECRET_FILE_BYTES: Final = 16 * 1024
_PREFIX: Final = b"whsec_"


class Secret:
    """The key of an HMAC; no text of it shows the key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def signature(self, signed: bytes) -> str:
        """Give the signature of some bytes, with the version of its scheme."""
        digest = hmac.new(self._key, signed, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(digest).decode('ascii')}"

    def __repr__(self) -> str:
        return "Secret(...)"


def secrets_of_file(content: bytes) -> tuple[Secret, ...]:
    """Read secrets, one a line: `whsec_` and base64, or any text of at least 24 bytes; raises WindowWatchError."""
    if len(content) > MAX_SECRET_FILE_BYTES:
        raise WindowWatchError(f"it has more than {MAX_SECRET_FILE_BYTES} bytes")
    lines = [line.strip() for line in content.splitlines()]
    secrets = tuple(_secret(line, number) for number, line in enumerate(lines, start=1) if line)
    if not 0 < len(secrets) <= MAX_SECRETS:
        raise WindowWatchError(f"it has {len(secrets)} secrets; 1 to {MAX_SECRETS} are allowed, one a line")
    return secrets


def _secret(line: bytes, number: int) -> Secret:
    key = line
    if line.startswith(_PREFIX):
        try:
            key = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
        except (ValueError, binascii.Error) as error:
            raise WindowWatchError(f"line {number}: what follows `whsec_` is not base64") from error
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise WindowWatchError(
            f"line {number}: a secret has {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes; "
            f"`openssl rand -base64 32` makes one"
        )
    return Secret(key)


def signed_headers(announcement_id: str, body: bytes, at_s: int, secrets: Sequence[Secret]) -> dict[str, str]:
    """Give the headers of a webhook that is sent at an instant, in seconds since the epoch."""
    headers = {"webhook-id": announcement_id, "webhook-timestamp": str(at_s)}
    if secrets:
        signed = f"{announcement_id}.{at_s}.".encode() + body
        headers["webhook-signature"] = " ".join(secret.signature(signed) for secret in secrets)
    return headers
