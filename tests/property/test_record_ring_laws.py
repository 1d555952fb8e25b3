"""Laws of the record ring: whatever is put, taken, committed or killed, in whatever order; any bytes."""

from __future__ import annotations

import random

from hypothesis import example, given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from authz.sidecar.record_ring import RingConsumer, RingProducer, ring_memory

CAPACITY_BYTES = 512
#: a quarter of the ring, less an entry's own sixteen bytes
LARGEST_BYTES = CAPACITY_BYTES // 4 - 16


class RingMachine(RuleBasedStateMachine):
    """Every record that was put is taken once and in order, unless a commit was lost with its consumer: then again."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = ring_memory(CAPACITY_BYTES)
        self.sleeps = False
        self.wakes = 0
        self.producer = RingProducer(self.memory, wake=self.woken)
        self.consumer = RingConsumer(self.memory)
        self.waiting: list[bytes] = []
        self.number = 0
        self.refused = 0

    def woken(self) -> None:
        self.wakes += 1

    @rule()
    def sleep(self) -> None:
        assert self.consumer.sleep() == (not self.waiting)
        self.sleeps = True

    @rule(length=st.integers(0, LARGEST_BYTES))
    def put(self, length: int) -> None:
        self.number += 1
        record = (b"%d " % self.number).ljust(length, b"x")[: max(length, 4)]
        self.wakes = 0
        if self.producer.put(record):
            self.waiting.append(record)
            assert self.wakes == self.sleeps, "who sleeps is woken, once; who looks is left alone"
            self.sleeps = False
        else:
            self.refused += 1
            assert self.waiting, "an empty ring takes every record that is not too long"

    @rule()
    def put_what_is_too_long(self) -> None:
        assert not self.producer.put(bytes(LARGEST_BYTES + 1))
        self.refused += 1

    @rule(limit_bytes=st.integers(1, CAPACITY_BYTES), committed=st.integers(0, 30))
    def take(self, limit_bytes: int, committed: int) -> None:
        entries = self.consumer.take(limit_bytes)
        assert [entry.record for entry in entries] == self.waiting[: len(entries)]
        assert bool(entries) == bool(self.waiting)
        if entries and committed:
            done = entries[:committed]
            self.consumer.commit(done[-1].end)
            del self.waiting[: len(done)]

    @rule()
    def the_consumer_is_killed(self) -> None:
        self.consumer = RingConsumer(self.memory)

    @rule()
    def the_producer_is_killed(self) -> None:
        self.producer = RingProducer(self.memory, wake=self.woken)

    @rule(length=st.integers(1, 60), seed=st.integers())
    def the_producer_is_killed_while_it_puts(self, length: int, seed: int) -> None:
        """What a half-done put has written stands behind `head`, where nobody looks."""
        words = memoryview(self.memory)[:64].cast("Q")
        head, tail = words[0], words[1]
        free = min(CAPACITY_BYTES - (head - tail), CAPACITY_BYTES - head % CAPACITY_BYTES, length)
        start = 64 + head % CAPACITY_BYTES
        self.memory[start : start + free] = random.Random(seed).randbytes(free)  # noqa: S311 any bytes
        words.release()
        self.the_producer_is_killed()

    @invariant()
    def what_found_no_room_is_counted(self) -> None:
        assert self.consumer.lost == self.refused
        assert self.consumer.corrupt == 0
        assert self.consumer.is_empty == (not self.waiting)


TestEveryRecordOnceAndInOrder = RingMachine.TestCase


@example(records=[], damage=[(0, 16)])  # only `head` is damaged: zeros were taken for an empty record
@given(
    records=st.lists(st.binary(max_size=LARGEST_BYTES), max_size=12),
    damage=st.lists(st.tuples(st.integers(0, 64 + CAPACITY_BYTES - 1), st.integers(0, 255)), min_size=1, max_size=40),
)
def test_damaged_memory_ends_in_records_that_were_put_and_a_ring_that_works(
    records: list[bytes], damage: list[tuple[int, int]]
) -> None:
    memory = ring_memory(CAPACITY_BYTES)
    producer, consumer = RingProducer(memory, wake=lambda: None), RingConsumer(memory)
    for record in records:
        producer.put(record)
    for at, value in damage:
        memory[at] = value
    for _ in range(4 * len(records) + 8):
        for entry in consumer.take():
            assert entry.record in records
            consumer.commit(entry.end)
    assert consumer.is_empty
    assert producer.put(b"after")
    assert [entry.record for entry in consumer.take()] == [b"after"]


@given(st.binary(min_size=64 + CAPACITY_BYTES, max_size=64 + CAPACITY_BYTES))
def test_any_bytes_at_all_crash_nobody(content: bytes) -> None:
    memory = ring_memory(CAPACITY_BYTES)
    memory[:] = content
    producer, consumer = RingProducer(memory, wake=lambda: None), RingConsumer(memory)
    producer.put(b"x")
    for _ in range(4):
        for entry in consumer.take():
            consumer.commit(entry.end)
