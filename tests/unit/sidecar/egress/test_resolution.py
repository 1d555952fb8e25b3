"""Names become addresses off the loop, one look-up at a time for each, within bounds."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from typing import TYPE_CHECKING

import pytest

from authz.sidecar.egress import resolution
from authz.sidecar.egress.resolution import NameResolution, ResolutionError, system_addresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.egress.resolution import Addresses

HERE = (ipaddress.ip_address("203.0.113.1"),)
PATIENCE_S = 30


class Lookup:
    """Answers when it is told to, and counts."""

    def __init__(self, answer: Callable[[str], Addresses] = lambda _name: HERE) -> None:
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self._answer = answer

    def __call__(self, name: str) -> Addresses:
        self.asked.append(name)
        assert self.may_answer.wait(PATIENCE_S)
        return self._answer(name)


def test_look_ups_of_one_name_at_a_time_are_one_and_serve_for_a_moment() -> None:
    lookup = Lookup()

    async def calls() -> list[Addresses]:
        resolution = NameResolution(lookup)
        waiting = [asyncio.ensure_future(resolution.addresses("a.example")) for _ in range(50)]
        await asyncio.sleep(0)
        lookup.may_answer.set()
        found = await asyncio.gather(*waiting)
        return [*found, await resolution.addresses("a.example")]

    assert asyncio.run(calls()) == [HERE] * 51
    assert lookup.asked == ["a.example"]


def test_a_failure_is_told_to_all_who_wait_and_is_not_remembered() -> None:
    def fail(name: str) -> Addresses:
        raise ResolutionError(f"`{name}` is not there")

    lookup = Lookup(fail)
    lookup.may_answer.set()

    async def calls() -> list[object]:
        resolution = NameResolution(lookup)
        first = await asyncio.gather(
            resolution.addresses("a.example"), resolution.addresses("a.example"), return_exceptions=True
        )
        return [*first, *await asyncio.gather(resolution.addresses("a.example"), return_exceptions=True)]

    told = asyncio.run(calls())
    assert [str(one) for one in told] == ["`a.example` is not there"] * 3
    assert len(lookup.asked) == 2


def test_a_fault_of_a_look_up_is_an_answer_too() -> None:
    def fail(_name: str) -> Addresses:
        raise RuntimeError("out of everything")

    lookup = Lookup(fail)
    lookup.may_answer.set()
    with pytest.raises(ResolutionError, match="RuntimeError: out of everything"):
        asyncio.run(NameResolution(lookup).addresses("a.example"))


def test_no_more_names_are_resolved_at_once_than_there_are_threads_for() -> None:
    lookup = Lookup()

    async def calls() -> None:
        names = NameResolution(lookup)
        waiting = [
            asyncio.ensure_future(names.addresses(f"{number}.example")) for number in range(resolution.MOST_LOOKUPS)
        ]
        await asyncio.sleep(0)
        with pytest.raises(ResolutionError, match="64 names are being resolved"):
            await names.addresses("one-more.example")
        lookup.may_answer.set()
        assert await asyncio.gather(*waiting) == [HERE] * resolution.MOST_LOOKUPS
        assert await names.addresses("one-more.example") == HERE

    asyncio.run(calls())


def test_who_waits_for_a_resolver_that_hangs_hears_so_in_time() -> None:
    lookup = Lookup()
    with pytest.raises(ResolutionError, match="has not answered within"):
        asyncio.run(NameResolution(lookup, patience_s=0.01).addresses("a.example"))
    lookup.may_answer.set()


@pytest.mark.parametrize("name", ["a..example", "a" * 64 + ".example", "no\0name.example"])
def test_a_name_that_has_no_address_is_an_error_of_ours(name: str) -> None:
    with pytest.raises(ResolutionError, match=r"cannot be resolved|is no name"):
        system_addresses(name)
