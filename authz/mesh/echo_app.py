"""The echo app: the workload of a Service in the local mesh, and behind TLS the stand-in of a ThirdParty.

    python -m authz.mesh.echo_app --service orders --listen 127.0.0.1:8080
    python -m authz.mesh.echo_app --service psp --listen unix:/run/psp.sock --tls-certificate psp.pem --tls-key psp.key

It answers what reached it, over HTTP/1.1, HTTP/2, gRPC and WebSocket on one port. It says `READY=1` when it serves
(sd_notify(3)), and ends by SIGTERM or SIGINT within a second with status 0. Nothing it is sent can stop it.

Exit status: 0 when told to end, 2 for arguments or addresses that cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any

from authz.errors import AuthzError
from authz.mesh.echo.server import EchoServer
from authz.mesh.echo.tls import ServedCertificate
from authz.mesh.errors import MeshError
from authz.notify import notify
from authz.proxy.addresses import Address, parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence

ENDED, USAGE = 0, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the app until it is told to end; give the exit status."""
    given = _parser().parse_args(arguments)
    try:
        addresses = [parse_address(text) for text in given.listen]
        if (given.tls_certificate is None) != (given.tls_key is None):
            raise MeshError("--tls-certificate and --tls-key are given together")
        tls = None
        if given.tls_certificate is not None:
            tls = ServedCertificate(given.tls_certificate, given.tls_key).listening_context
        asyncio.run(_serve(EchoServer(given.service, tls), given.service, addresses))
    except AuthzError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    return ENDED


async def _serve(server: EchoServer, service: str, addresses: Sequence[Address]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_say_fault)
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    listening = [await _listen(server, address) for address in addresses]
    notify(f"READY=1\nSTATUS=`{service}` echoes on {', '.join(map(str, listening))}")
    await told_to_end.wait()
    notify("STOPPING=1")
    await server.close()


async def _listen(server: EchoServer, address: Address) -> Address:
    try:
        return await server.listen(address)
    except OSError as error:
        raise MeshError(f"cannot listen on {address}: {error.strerror or error}") from error


def _say_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say in one line what asyncio could not hand to anybody; the connection that it concerns is cut by asyncio."""
    error = context.get("exception")
    cause = f": {type(error).__name__}: {error}" if error is not None else ""
    sys.stderr.write(f"echo app: {context['message']}{cause}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m authz.mesh.echo_app",
        description="answer what was received, over HTTP/1.1, HTTP/2, gRPC and WebSocket on one port",
        epilog="example:\n  python -m authz.mesh.echo_app --service orders --listen 127.0.0.1:8080",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--service", required=True, metavar="NAME", help="the name that answers carry")
    parser.add_argument(
        "--listen",
        required=True,
        action="append",
        metavar="ADDRESS",
        help="HOST:PORT or unix:PATH; may be given more than once",
    )
    parser.add_argument("--tls-certificate", metavar="FILE", help="PEM certificate chain, leaf first: serve TLS only")
    parser.add_argument("--tls-key", metavar="FILE", help="PEM private key; both files are read again when they change")
    return parser


if __name__ == "__main__":
    sys.exit(main())
