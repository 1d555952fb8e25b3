"""What is said of a machine: each part that is missing is named, with what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from authz.doctor.machine import FILES, clock, envoy, files, kernel, sockets, synchronization
from authz.doctor.observation import Level, printable, span
from authz.mesh.errors import MeshError

if TYPE_CHECKING:
    from pathlib import Path


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize(
    ("script", "level", "words"),
    [
        ("echo 'envoy  version: 9e55/1.38.4/Clean/RELEASE/BoringSSL'", Level.OK, "1.38.4"),
        ("echo 'envoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL'", Level.OK, "1.40.0"),
        ("echo 'envoy  version: 9e55/1.38.3/Clean/RELEASE/BoringSSL'", Level.MISSING, "too old"),
        ("echo 'envoy  version: 9e55/1.9.10/Clean/RELEASE/BoringSSL'", Level.MISSING, "too old"),
        ("echo hello", Level.MISSING, "does not say its version"),
        ("exit 1", Level.MISSING, "does not say its version"),
    ],
)
def test_an_envoy_counts_from_the_version_on_that_is_supported(
    tmp_path: Path, script: str, level: Level, words: str
) -> None:
    told = envoy(lambda: program(tmp_path / "envoy", script))
    assert (told.level, words in told.says) == (level, True)
    assert bool(told.remedy) is (level is not Level.OK)


def test_an_envoy_that_is_not_there_or_does_not_run_is_missing_with_where_to_get_one(tmp_path: Path) -> None:
    def none() -> str:
        raise MeshError("there is no Envoy on this machine")

    (tmp_path / "text").write_text("no program")
    for told in (envoy(none), envoy(lambda: str(tmp_path / "text"))):
        assert told.level is Level.MISSING
        assert "pip install" in told.remedy


def test_this_kernel_can_what_the_tests_run_with() -> None:
    told = {one.about: one.level for one in kernel()}
    assert {told[f"kernel: {name}"] for name in ("pidfd", "memfd", "eventfd")} == {Level.OK}


def test_a_clock_before_the_program_was_written_cannot_be_right() -> None:
    [told] = clock(0)
    assert (told.level, "NTP" in told.remedy) == (Level.MISSING, True)
    first, _ = clock(int(datetime(2031, 5, 4, tzinfo=UTC).timestamp()) * 1_000_000_000)
    assert (first.level, first.says.partition(" ")[0]) == (Level.OK, "2031-05-04T00:00:00Z")


def test_who_keeps_the_clock_is_said_and_unknown_is_no_fault() -> None:
    assert synchronization(None).level is Level.OK
    assert "unknown" in synchronization(None).says
    assert synchronization((0, timedelta(milliseconds=20))).says.endswith("0.020 s")
    assert synchronization((5, timedelta())).level is Level.WARNING


@pytest.mark.parametrize(("hard", "level"), [(1024, Level.WARNING), (FILES, Level.OK), (-1, Level.OK)])
def test_a_low_limit_of_open_files_is_a_warning_with_the_one_that_is_wanted(hard: int, level: Level) -> None:
    told = files(hard)
    assert (told.level, f"LimitNOFILE={FILES}" in told.remedy) == (level, level is Level.WARNING)


def test_sockets_go_to_tmp_where_the_temporary_directory_has_too_long_a_path_and_need_a_folder(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 60)
    long.mkdir()
    assert (sockets(str(long)).level, sockets(str(long)).says) == (Level.OK, "can be made below /tmp")
    told = sockets("/no")
    assert (told.level, "TMPDIR" in told.remedy) == (Level.MISSING, True)


def test_what_does_not_print_is_escaped_and_stays_on_its_line() -> None:
    assert printable("a\nb\x1b[2J\u202ec\udc80é") == r"a\nb\x1b[2J\u202ec\udc80é"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (-61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (86_400 + 5, "1 d 5 s")],
)
def test_a_span_has_two_units(seconds: int, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text
