"""When a control counts as hung."""

from __future__ import annotations

from authz.sidecar.control_seen import BEGINS_WITHIN_LOOKS, HUNG_AFTER_LOOKS, ControlSeen


def silent_looks(seen: ControlSeen, beats: int) -> int:
    """Look until it counts as hung; give how many looks that took."""
    looks = 1
    while not seen.is_hung(beats):
        looks += 1
    return looks


def test_who_beats_is_never_hung_and_who_falls_silent_is() -> None:
    seen = ControlSeen()
    assert not any(seen.is_hung(beats) for beats in range(1, 3 * BEGINS_WITHIN_LOOKS))
    assert silent_looks(seen, 3 * BEGINS_WITHIN_LOOKS - 1) == HUNG_AFTER_LOOKS


def test_who_begins_on_a_busy_machine_has_longer_but_not_for_ever() -> None:
    assert silent_looks(ControlSeen(), 0) == BEGINS_WITHIN_LOOKS > HUNG_AFTER_LOOKS


def test_a_successor_has_the_time_to_begin_as_the_first_one_had() -> None:
    seen = ControlSeen()
    assert not seen.is_hung(7)
    assert silent_looks(seen, 7) == HUNG_AFTER_LOOKS
    seen.begins(7)
    assert silent_looks(seen, 7) == BEGINS_WITHIN_LOOKS
