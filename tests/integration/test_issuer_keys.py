"""No private key shows anywhere but in the answer to its workload and in the key files, which are the owner's alone."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from authz.identity.authority_rotation import RotationPlan
from authz.identity.authority_state import authority_from_json
from authz.issuer.settings import AUTHORITY_LIFETIME
from authz.workload_api import messages
from tests.support.issuer_process import MESH, Issuer, service, workload

ME = f"[{{unix: {{uid: {os.getuid()}}}}}]"


def spellings(der: bytes) -> list[bytes]:
    """Give how a key could show: DER, lines of PEM, base64, hex, and the same of its secret number."""
    key = load_der_private_key(der, password=None)
    secret = key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    lines = [line for line in pem.splitlines() if not line.startswith(b"-----")]
    return [
        *(der, *lines[:2], base64.b64encode(der), base64.urlsafe_b64encode(der), der.hex().encode()),
        *(secret, secret.hex().encode(), base64.b64encode(secret)),
    ]


def fetched(issuer: Issuer, count: int) -> tuple[list[bytes], list[str]]:
    """Fetch so many keys of X.509-SVIDs, renewals among them, and some tokens."""
    keys: list[bytes] = []
    with grpc.insecure_channel(f"unix:{issuer.socket}") as channel:
        stream = channel.unary_stream(
            messages.FETCH_X509_SVID.path,
            request_serializer=messages.X509SVIDRequest.SerializeToString,
            response_deserializer=messages.X509SVIDResponse.FromString,
        )(messages.X509SVIDRequest(), metadata=(messages.SECURITY_HEADER,))
        while len(keys) < count:
            keys += [svid.x509_svid_key for svid in next(stream).svids]
        stream.cancel()
        issue = channel.unary_unary(
            messages.FETCH_JWT_SVID.path,
            request_serializer=messages.JWTSVIDRequest.SerializeToString,
            response_deserializer=messages.JWTSVIDResponse.FromString,
        )
        answer = issue(messages.JWTSVIDRequest(audience=["a"]), metadata=(messages.SECURITY_HEADER,))
    return keys, [svid.svid for svid in answer.svids]


def kept_keys(file: Path) -> tuple[list[bytes], str]:
    """Give the private keys of a kept authority, and how it shows itself."""
    authority = authority_from_json(file.read_bytes(), RotationPlan(lifetime=AUTHORITY_LIFETIME))
    keys = []
    for one in (authority.current, authority.prepared):
        if one is not None and one.jwt is not None:
            for pem in (one.to_pem(), one.jwt.key_pem()):
                key = load_pem_private_key(pem, password=None)
                keys.append(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    return keys, repr(authority) + str(authority)


def test_no_private_key_is_in_logs_records_the_environment_the_command_line_or_a_representation() -> None:
    flags = ["--svid-lifetime=2s", "--jwt-lifetime=2s", "--authority-lifetime=12s"]
    with Issuer(MESH, service("orders", attest=ME), service("x", attest=ME), keep=True, arguments=flags) as issuer:
        keys, tokens = fetched(issuer, 20)
        with workload(issuer.socket, user=65534 if os.geteuid() == 0 else None) as stranger:
            stranger.ask()
        (kept,) = issuer.state.glob("*.json")
        of_authorities, representation = kept_keys(kept)
        shown = representation.encode()
        assert issuer.process is not None
        if os.geteuid() == 0:  # it keeps to itself: only root can look
            for name in ("environ", "cmdline", "comm"):
                shown += Path(f"/proc/{issuer.process.pid}/{name}").read_bytes()
        for path in issuer.folder.rglob("*"):
            if path.is_file() and path != kept:
                shown += path.read_bytes()
        assert b"ready" in shown  # the log is among it
        assert len(of_authorities) >= 2
        found = [each for key in (*keys, *of_authorities) for each in spellings(key) if each in shown]
        assert not found
        assert not [token for token in tokens if token.encode() in shown]


def test_key_files_and_their_folder_are_the_owners_alone_whatever_the_umask() -> None:
    before = os.umask(0)
    try:
        with Issuer(MESH, service("orders", attest=ME), keep=True) as issuer:
            assert stat.S_IMODE(issuer.state.stat().st_mode) == 0o700
            files = [path for path in issuer.state.rglob("*") if path.is_file()]
            assert files
            assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_another_process_of_the_same_user_cannot_read_the_issuers_memory_or_descriptors() -> None:
    look = """
import os, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
for name in ("mem", "fd", "maps", "environ"):
    try:
        os.close(os.open(f"/proc/{sys.argv[1]}/{name}", os.O_RDONLY))
        print(name)
    except PermissionError:
        pass
"""
    hide = """
import os, sys, time
from authz.issuer.run import _keep_to_ourselves
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
if sys.argv[1] == "hidden":
    _keep_to_ourselves()
else:  # the change of user has hidden it already
    import ctypes
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
print(flush=True)
sys.stdin.read()
"""
    seen = {}
    for kind in ("hidden", "open"):
        with subprocess.Popen(
            [sys.executable, "-c", hide, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            looked = subprocess.run(
                [sys.executable, "-c", look, str(process.pid)], check=True, capture_output=True, text=True
            )
            seen[kind] = looked.stdout.split()
            process.communicate()
    assert seen["hidden"] == []
    assert seen["open"] == ["mem", "fd", "maps", "environ"]  # the look itself works
