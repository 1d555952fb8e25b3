"""The laws of the ext_authz server, each a class whose docstring is the sentence that is tested."""

# ruff: noqa: S311 sets are made by chance from the seed that hypothesis chooses

from __future__ import annotations

import contextlib
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from authz.decision import Verdict
from authz.instant import rfc3339_from_ns
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from authz.sidecar.in_force import PolicyInForce
from tests.support.check_server import CheckServer, NotAskable, as_seen
from tests.support.generated_sets import GeneratedSet

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = st.integers(min_value=0, max_value=2**48)
CALLS_PER_SET = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckServer]:
    with CheckServer(tmp_path_factory.mktemp("server")) as running:
        yield running


class TestWire:
    """Whatever is asked over the socket gets, in answer and record, what the engine decides about the same call."""

    @settings(max_examples=60, deadline=None)
    @given(seed=SEEDS)
    def test_the_server_equals_the_engine(self, server: CheckServer, seed: int) -> None:
        made = GeneratedSet(Random(seed))
        index = compile_index(parse_policy_set(made.files()))
        server.in_force.policy = PolicyInForce(index=index)
        for _ in range(CALLS_PER_SET):
            # Whoever the sidecar can prove is proven by an X.509-SVID.
            call, now_ns = replace(made.call(), presenter=None, third_party=None), made.now_ns()
            answered = server.ask(call, now_ns)
            expected = evaluate(index, as_seen(call), now_ns)
            shadow, until_ns = expected.shadow, expected.valid_until_ns
            record, metadata = answered.record, answered.response.dynamic_metadata
            assert (answered.response.status.code == 0) == (expected.verdict is Verdict.ALLOW), (call, now_ns)
            assert (metadata["reason"], metadata["policy"]) == (expected.reason, expected.policy or ""), (call, now_ns)
            assert {
                "time": rfc3339_from_ns(now_ns),
                "sidecar": call.service,
                "direction": call.direction,
                "decision": expected.verdict,
                "reason": expected.reason,
                "policy": expected.policy,
                "revision": index.revision,
                "route": expected.route,
                "valid_until": None if until_ns is None else rfc3339_from_ns(until_ns),
                "shadow": None
                if shadow is None
                else {"decision": shadow.decision, "reason": shadow.reason, "policy": shadow.policy},
            }.items() <= record.items(), (call, now_ns)
            caller, destination = record["caller"], record["destination"]
            assert (caller["service"], caller["third_party"]) == (expected.caller_service, expected.caller_third_party)
            assert (destination["service"], destination["third_party"]) == (
                expected.destination_service,
                expected.destination_third_party,
            )

    @settings(max_examples=60, deadline=None)
    @given(seed=SEEDS)
    def test_the_server_equals_the_engine_about_callers_that_tokens_prove(self, server: CheckServer, seed: int) -> None:
        made = GeneratedSet(Random(seed), evidence=1)
        index = compile_index(parse_policy_set(made.files()))
        server.in_force.policy = PolicyInForce(index=index)
        for _ in range(CALLS_PER_SET):
            call, now_ns = replace(made.call(), third_party=None), made.now_ns()
            with contextlib.suppress(NotAskable):
                record = server.ask(call, now_ns).record
                expected = evaluate(index, as_seen(call), now_ns)
                assert (record["reason"], record["policy"]) == (expected.reason, expected.policy), (call, now_ns)
                caller = record["caller"]
                assert (caller["identity"], caller["presented_by"]) == tuple(
                    None if each is None else str(each) for each in (call.caller, call.presenter)
                )
