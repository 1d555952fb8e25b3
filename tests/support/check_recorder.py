"""An ext_authz server that writes down every CheckRequest and answers as it is told: Envoy's side of the truth."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = Callable[[external_auth_pb2.CheckRequest], external_auth_pb2.CheckResponse]

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 30


class SeenCheck:
    """One CheckRequest, with its headers as a list of names and raw values, in order."""

    def __init__(self, request: external_auth_pb2.CheckRequest) -> None:
        self.request = request
        attributes = request.attributes
        self.extensions = dict(attributes.context_extensions)
        self.direction = self.extensions.get("direction")
        self.headers = [
            (header.key, header.raw_value.decode("latin-1") or header.value)
            for header in attributes.request.http.header_map.headers
        ]
        self.certificate_pem = unquote(attributes.source.certificate)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) < 2, values
        return values[0] if values else None


class CheckRecorder:
    """`answer` may be replaced at any time; `stop` and `start` take the server away and bring it back."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.answer: Answer = lambda _request: allow()
        self._seen: queue.SimpleQueue[SeenCheck] = queue.SimpleQueue()
        self._server: grpc.Server | None = None
        self._may_answer = threading.Event()
        self._may_answer.set()

    def hang(self) -> None:
        """Take checks from now on, and answer none."""
        self._may_answer.clear()

    def go_on(self) -> None:
        self._may_answer.set()

    def start(self) -> None:
        server = grpc.server(ThreadPoolExecutor(max_workers=4))
        check = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=external_auth_pb2.CheckRequest.FromString,
            response_serializer=external_auth_pb2.CheckResponse.SerializeToString,
        )
        server.add_registered_method_handlers("envoy.service.auth.v3.Authorization", {"Check": check})
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": check}),)
        )
        assert server.add_insecure_port(f"unix:{self.socket}")
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait(PATIENCE_S)
            self._server = None

    def next(self) -> SeenCheck:
        """Give the oldest check that was not taken yet."""
        return self._seen.get(timeout=PATIENCE_S)

    def taken(self) -> list[SeenCheck]:
        """Take every check that came so far; what was asked on behalf of an answered call has come."""
        seen = []
        while not self._seen.empty():
            seen.append(self._seen.get_nowait())
        return seen

    def _check(
        self, request: external_auth_pb2.CheckRequest, _context: grpc.ServicerContext
    ) -> external_auth_pb2.CheckResponse:
        self._seen.put(SeenCheck(request))
        self._may_answer.wait(PATIENCE_S)
        return self.answer(request)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def allow(**headers: str) -> external_auth_pb2.CheckResponse:
    """Allow; a header `x_authz_caller="a"` is set for the app."""
    response = external_auth_pb2.CheckResponse()
    response.status.code = 0
    response.ok_response.SetInParent()
    _set(response.ok_response.headers, headers)
    return response


def deny(status: int = 403, **headers: str) -> external_auth_pb2.CheckResponse:
    response = external_auth_pb2.CheckResponse()
    response.status.code = 7
    response.denied_response.status.code = status
    response.denied_response.body = "{}"
    _set(response.denied_response.headers, headers)
    return response


def _set(options: external_auth_pb2.HeaderValueOptions, headers: dict[str, str]) -> None:
    for name, value in headers.items():
        option = options.add()
        option.header.key, option.header.value = name.replace("_", "-"), value
        option.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
