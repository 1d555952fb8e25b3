"""Batches as sidecars would send them, made before anything is measured: packed, in a file, one after the other."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import struct
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.hub.traffic import DAY_S, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: of one batch in a file: how many bytes it has, how many flows and how many records
_HEAD = struct.Struct("!III")


class Prepared(NamedTuple):
    """A batch: gzip of its JSON, and what is in it."""

    content: bytes
    flows: int
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What traffic to make, as the fields of `Traffic`."""

    services: int
    decisions: int
    days: float
    until_s: int
    seed: int = 8
    part: int = 0

    def traffic(self) -> Traffic:
        return Traffic(
            services=self.services,
            decisions=self.decisions,
            days=self.days,
            until_s=self.until_s,
            seed=self.seed,
            part=self.part,
        )

    def parts(self, count: int) -> list[Recipe]:
        """Cut it into spans that follow each other, each with as many calls."""
        length_s = round(self.days * DAY_S / count / 3600) * 3600
        return [
            replace(
                self,
                decisions=self.decisions * (number + 1) // count - self.decisions * number // count,
                days=length_s / DAY_S,
                until_s=self.until_s - (count - 1 - number) * length_s,
                part=number + 1,
            )
            for number in range(count)
        ]


def packed(recipe: Recipe) -> Iterator[Prepared]:
    """Make batches as sidecars write them."""
    for batch in recipe.traffic().batches():
        content = gzip.compress(json.dumps(batch, separators=(",", ":")).encode("ascii"), 1)
        yield Prepared(content, len(batch["flows"]), len(batch["records"]))


def prepare(folder: Path, recipe: Recipe, progress: Callable[[str], None]) -> list[Path]:
    """Make the batches with all processors; give the files, the oldest calls first."""
    parts = recipe.parts(10)
    files = [folder / f"part-{part.part:02}" for part in parts]
    done = 0
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for _ in as_completed(pool.submit(_write, file, part) for file, part in zip(files, parts, strict=True)):
            done += 1
            progress(f"  making   {done * 100 // len(parts):3} %")
    return files


def _write(file: Path, recipe: Recipe) -> None:
    with file.open("wb") as opened:
        for each in packed(recipe):
            opened.write(_HEAD.pack(len(each.content), each.flows, each.records) + each.content)


def prepared(files: list[Path]) -> Iterator[Prepared]:
    """Give what was made."""
    for file in files:
        with file.open("rb") as opened:
            while head := opened.read(_HEAD.size):
                size, flows, records = _HEAD.unpack(head)
                yield Prepared(opened.read(size), flows, records)
