from __future__ import annotations

import errno
import socket

import pytest

from authz.mesh.ports import LOOPBACK, ReservedPorts


def _listener(port: int, *, shared: bool) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def test_a_reserved_port_cannot_be_taken_by_who_does_not_share_ports() -> None:
    with ReservedPorts() as ports:
        with pytest.raises(OSError, match="in use") as refused:
            _listener(ports.reserve().port, shared=False)
        assert refused.value.errno == errno.EADDRINUSE


def test_connections_reach_the_listener_beside_the_reservation_each_time_it_comes_back() -> None:
    with ReservedPorts() as ports:
        port = ports.reserve().port
        for _ in range(3):
            with _listener(port, shared=True) as listener:
                for _ in range(8):
                    with socket.create_connection((LOOPBACK, port)), listener.accept()[0]:
                        pass
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((LOOPBACK, port))


def test_no_port_is_given_out_twice() -> None:
    with ReservedPorts() as ports, ReservedPorts() as others:
        given = [one.reserve().port for one in (ports, others) for _ in range(50)]
        assert len(set(given)) == len(given)


def test_a_released_port_is_free_again() -> None:
    ports = ReservedPorts()
    port = ports.reserve().port
    ports.release()
    ports.release()
    _listener(port, shared=False).close()
