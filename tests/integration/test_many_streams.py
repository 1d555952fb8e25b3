"""Many long calls at once, each with a close of its own: each ends at its own, and nothing of them is left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.local_mesh import mesh_of
from tests.support.many_streams import cuts, held, round_of
from tests.support.window_close import SET

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.envoy

STREAMS = 100
#: enough for a loaded machine to begin them all
LEAD_S = 10.0
APART_S = 0.05
#: Envoy begins to count at an instant that its loop has read before, on a busy machine long before
EARLY_S = 0.1


def test_each_of_a_hundred_streams_ends_at_its_own_close_and_nothing_of_them_is_left(tmp_path: Path) -> None:
    with mesh_of(tmp_path, SET) as mesh:
        before = held(mesh)
        begun_s = time.time()
        streams = round_of(mesh, STREAMS, lead_s=LEAD_S, apart_s=APART_S)
        assert all(each.ended_s is not None for each in streams), [each.how for each in streams]
        assert {each.status for each in streams} == {200}
        assert all(each.begun_s is not None for each in streams)
        early = [each for each in streams if each.late_s < -EARLY_S]
        assert not early, "they ended before their own close"
        # Had one close ended the others too, most would have ended at once: the first and the last are 5 s apart.
        ends = [each.ended_s or 0.0 for each in streams]
        assert max(ends) - min(ends) >= APART_S * (STREAMS - 1) - EARLY_S - max(each.late_s for each in streams)
        wanted = {f"/s/{each.number}" for each in streams}
        assert eventually(lambda: {path for _, path in cuts(mesh, begun_s)} == wanted)
        assert max(cuts(mesh, begun_s).values()) == 1, "an end was recorded twice"
        assert eventually(lambda: held(mesh).is_idle), held(mesh).under_way
        assert before.is_idle
