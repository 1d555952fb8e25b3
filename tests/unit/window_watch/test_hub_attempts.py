"""What a hub tells of the first attempts after ends: any answer of it gives attempts or an error of ours."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from authz.errors import AuthzError
from authz.window_watch.hub_attempts import HubAttempts

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST = "2026-06-01T00:00:00.001Z"
SOURCE = {
    "identity": "spiffe://acme.example/x", "service": None, "address": "10.0.0.1", "direction": "inbound",
    "sidecar": "orders", "count": 3,
}  # fmt: skip


def windows(closes: str | None = "2026-06-01T00:00:00.000Z", **after: Any) -> bytes:
    told = {"count": 3, "first": FIRST, "last": FIRST, "sources": [SOURCE], **after}
    window = {"name": "acme", "kind": "third_party", "closes": closes, "attempts_after": told}
    return json.dumps({"windows": [window]}).encode()


class Told:
    """A hub that answers what it is told to."""

    url = "http://127.0.0.1:8800"

    def __init__(self, of_windows: bytes, of_calls: bytes = b'{"calls": []}') -> None:
        self.answers = {"/windows": of_windows, "/calls": of_calls}
        self.asked: list[tuple[str, dict[str, str | None]]] = []

    def content(self, path: str, query: Mapping[str, str | None] | None = None) -> bytes:
        self.asked.append((path, dict(query or {})))
        return self.answers[path]


def test_who_tried_most_stands_for_a_record_that_is_not_kept_any_more() -> None:
    (attempt,) = HubAttempts(Told(windows())).new_attempts()
    assert (attempt.source.identity, attempt.decision_id) == ("spiffe://acme.example/x", None)


def test_an_end_is_asked_for_once_and_another_end_anew() -> None:
    hub = Told(windows())
    attempts = HubAttempts(hub)
    assert len(attempts.new_attempts()) == 1
    assert attempts.new_attempts() == ()
    assert [path for path, _ in hub.asked] == ["/windows", "/calls", "/windows"]
    assert hub.asked[1][1] | {"since": FIRST, "until": "2026-06-01T00:00:00.002Z", "policy": "acme"} == hub.asked[1][1]
    hub.answers["/windows"] = windows("2026-05-01T00:00:00.000Z")
    assert len(attempts.new_attempts()) == 1


def test_what_could_not_be_read_is_given_the_next_time() -> None:
    hub = Told(windows(), b'{"calls": 7}')
    attempts = HubAttempts(hub)
    with pytest.raises(AuthzError, match="GET /api/v1/calls"):
        attempts.new_attempts()
    hub.answers["/calls"] = b'{"calls": []}'
    assert len(attempts.new_attempts()) == 1


def test_windows_without_an_end_or_an_attempt_are_none() -> None:
    hub = Told(windows(None))
    assert HubAttempts(hub).new_attempts() == ()
    hub.answers["/windows"] = windows(count=0, first=None, last=None, sources=[])
    assert HubAttempts(hub).new_attempts() == ()


FIELDS = st.sampled_from(["calls", "reason", "time", "caller"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner),
)


@given(st.binary(max_size=200) | JSON.map(lambda each: json.dumps(each).encode()))
def test_any_answer_gives_attempts_or_an_error_of_ours(answer: bytes) -> None:
    for hub in (Told(windows(), answer), Told(answer)):
        with contextlib.suppress(AuthzError):
            HubAttempts(hub).new_attempts()
