"""Why a hub could not be asked: in plain words at which address, what is wrong there, and what to do about it.

What libraries say of a connection is for their authors: `Connect call failed ('127.0.0.1', 1)` names no remedy.
"""

from __future__ import annotations

import errno
import ipaddress
import json
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from authz.errors import UsageError

if TYPE_CHECKING:
    from ssl import SSLError

#: of why a hub refuses, what a terminal is shown
_MAX_WHY_CHARS: Final = 300
#: RFC 9110 4.1 recommends 8,000 at least; a longer one is no address that somebody typed
MAX_URL_CHARS: Final = 8192
_EXAMPLE: Final = "such as http://127.0.0.1:8800 or https://hub.example:8443"
#: what the system says of an address where nobody answers
_AWAY: Final = {
    errno.ENETUNREACH: "there is no way to its network",
    errno.EHOSTUNREACH: "its host cannot be reached",
    errno.ETIMEDOUT: "its host does not answer",
    errno.EACCES: "this process may not connect there",
    errno.EPERM: "this process may not connect there",
    errno.EMFILE: "this process has too many files open",
}


def hub_url(text: str) -> URL:
    """Read the URL of a hub; raises UsageError for one that leads nowhere, or that others on the way could read."""
    if len(text) > MAX_URL_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"it is no URL; give one {_EXAMPLE}")
    try:
        url = URL(text)
        host, port = url.host, url.port
    except ValueError as error:
        raise UsageError(f"it is no URL; give one {_EXAMPLE}") from error
    if url.scheme not in {"http", "https"} or not host or not port:
        raise UsageError(f"it is no address of a hub; give a URL {_EXAMPLE}")
    if url.user is not None or url.password is not None:
        raise UsageError("no user or password in the URL; show a token with --token-file")
    if url.query_string or url.fragment:
        raise UsageError(f"no `?` and no `#` in the address of a hub; give a URL {_EXAMPLE}")
    if url.scheme == "http" and not _is_this_machine(host):
        raise UsageError(
            "http is for this machine only (127.0.0.1, ::1, localhost), others could read it on its way: give https"
        )
    return url


def why_not_reached(error: Exception, url: URL, timeout_s: float) -> str:
    """Say what is wrong with a connection to a hub, and what to do; `error` is what the attempt raised."""
    place = _place(url)
    match error:
        case aiohttp.ClientConnectorDNSError():
            why = (
                f"no address is known for the name `{url.host}`: is it spelled right, and does this machine resolve it?"
            )
        case aiohttp.ClientConnectorCertificateError():
            why = _certificate(error.certificate_error)
        case aiohttp.ClientConnectorSSLError():
            why = f"what listens at {place} agrees on no TLS ({_reason(error)}): is it a hub with --identity?"
        case aiohttp.ClientConnectorError():
            why = _not_connected(error.os_error, url)
        case TimeoutError():
            why = f"{place} has not answered within {timeout_s:.0f} s: is it a hub? ask for less, or again"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            why = f"{place} ended the connection without an answer: {_other_scheme(url)}"
        case aiohttp.ClientPayloadError():
            why = f"the answer from {place} ended early: was the hub stopped? ask again"
        case aiohttp.ClientResponseError():
            why = f"what listens at {place} does not speak HTTP: {_other_scheme(url)}"
        case _:
            why = f"{place} cannot be asked: give the URL of a hub, {_EXAMPLE}"
    return why


def why_not_answered(status: int, content: bytes, *, shown: str | None) -> str:
    """Say what is wrong where a status is not 200; `shown`: what was shown of who asks, None for nothing."""
    why = _told(content)
    parameter = _parameter(content)
    said = "" if why is None else f": {why}"
    match status:
        case 401 | 403 if shown is not None:  # RFC 9110 15.5.2, 15.5.4
            answer = f"it does not take {shown} for this (status {status}{said}): the hub's --access file says who may"
        case 401 | 403:
            answer = f"it wants to know who asks (status {status}{said}): give --token-file or --identity"
        case 404 if why is None:
            answer = (
                "what answers there is no hub, or one of another version (status 404): is the path of the URL right?"
            )
        case 429:
            answer = f"it is asked too often (status 429{said}): ask again in a second"
        case _ if 300 <= status < 400:  # noqa: PLR2004 RFC 9110 15.4
            answer = f"what answers there sends elsewhere (status {status}), where nobody goes: give the hub's own URL"
        case 400 if why is not None and parameter is not None:  # RFC 9110 15.5.1
            answer = f"`{parameter}`: {why} (status {status})"
        case _ if why is not None:
            answer = f"{why} (status {status})"
        case _:
            answer = f"it answers with status {status}: is it a hub, and is it well? its log says more"
    return answer


def _not_connected(error: OSError, url: URL) -> str:
    place = _place(url)
    # Where a name has several addresses there is one error for all of them, without a number.
    if error.errno in {errno.ECONNREFUSED, None}:
        start = f"`authz hub --data DIR --listen {place}`" if _is_this_machine(url.host or "") else "it there"
        return (
            f"nothing listens at {place}: start {start}, or name with --hub (or AUTHZ_HUB) the address where a hub is"
        )
    why = _AWAY.get(error.errno, "no connection")
    return f"{place} cannot be reached, {why}: is the address right, and does a firewall stand between?"


def _certificate(error: Exception) -> str:
    why = str(getattr(error, "verify_message", "") or "it is not to be believed")
    return (
        f"its certificate is not believed ({why}): a hub with an SVID is believed by yours, give --identity; another "
        "one needs a certificate for the name in the URL, of an authority that this machine trusts (or SSL_CERT_FILE)"
    )


def _reason(error: aiohttp.ClientConnectorSSLError) -> str:
    broken: SSLError | OSError = error.os_error
    reason = getattr(broken, "reason", None)
    return str(reason or "the handshake failed").replace("_", " ").lower()


def _other_scheme(url: URL) -> str:
    if url.scheme == "http":
        return "if it serves TLS, give https:// in place of http://"
    return "if it serves no TLS, give http:// in place of https://"


def _told(content: bytes) -> str | None:
    return _text(content, "error")


def _parameter(content: bytes) -> str | None:
    """Give what the hub names as wrong: parameters have the names of the commands' flags."""
    return _text(content, "parameter")


def _text(content: bytes, name: str) -> str | None:
    try:
        text = json.loads(content)[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return text[:_MAX_WHY_CHARS] if isinstance(text, str) else None


def _place(url: URL) -> str:
    host = url.host or ""
    return f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
