"""Which variants are measured, and with which flags and sockets."""

from __future__ import annotations

import pytest

from tests.bench.check_path.variants import VARIANTS, Guard, chosen

ALL_FLAGS = frozenset({"--workers", "--check-transport"})


def names(only: list[str], known: frozenset[str] = ALL_FLAGS, opa: str | None = "/opa") -> list[str]:
    return [variant.name for variant in chosen(only, known=known, opa=opa)[0]]


def test_all_are_measured_where_nothing_is_said_and_everything_is_there() -> None:
    assert names([]) == [variant.name for variant in VARIANTS]
    assert chosen([], known=ALL_FLAGS, opa="/opa")[1] == ()


def test_a_first_word_names_all_that_begin_with_it() -> None:
    assert names(["ours", "floor"]) == ["floor", "ours-10", "ours-10000", "ours-100000", "ours-one-10000"]
    assert names(["ours-10"]) == ["ours-10"]


def test_a_word_that_names_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no variant `our`"):
        names(["our"])


def test_without_its_flag_a_variant_is_left_out_with_a_word() -> None:
    found, left_out = chosen(["grpcio", "ours"], known=frozenset({"--workers"}), opa=None)
    assert [variant.name for variant in found] == ["ours-10", "ours-10000", "ours-100000", "ours-one-10000"]
    assert left_out == ("grpcio-10000 is left out: `authz sidecar` has no --check-transport",)


def test_without_its_binary_opa_is_left_out_with_a_word() -> None:
    found, left_out = chosen([], known=ALL_FLAGS, opa=None)
    assert not any(variant.guard is Guard.OPA for variant in found)
    assert len(left_out) == sum(variant.guard is Guard.OPA for variant in VARIANTS)
    assert all("OPA_ENVOY" in line for line in left_out)


def test_each_worker_has_a_socket() -> None:
    ours = next(variant for variant in VARIANTS if variant.name == "ours-10000")
    assert ours.flags(ALL_FLAGS) == ("--workers", "2")
    assert ours.sockets("/run/check.sock", ALL_FLAGS) == ("/run/check.sock", "/run/check.sock.2")


def test_a_sidecar_that_knows_no_workers_has_one_socket() -> None:
    ours = next(variant for variant in VARIANTS if variant.name == "ours-10000")
    assert ours.flags(frozenset()) == ()
    assert ours.sockets("/run/check.sock", frozenset()) == ("/run/check.sock",)


def test_no_two_variants_have_one_name() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
