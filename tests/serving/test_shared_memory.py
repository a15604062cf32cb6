"""Regions are whoever's took them until nobody looks at them any more."""

from __future__ import annotations

import fcntl
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.serving.shared_memory import (
    KEPT_BYTES,
    REGIONS,
    SharedMemory,
    map_memory,
    write_outputs,
)


def count_pages(memory: SharedMemory) -> int:
    """Bytes that it takes up."""
    return 512 * os.fstat(memory.descriptor.fileno()).st_blocks


def test_the_worker_writes_what_the_front_reads() -> None:
    memory = SharedMemory(5000)
    theirs = map_memory(os.dup(memory.descriptor.fileno()))
    taken = [memory.take() for _ in range(REGIONS)]
    assert memory.take() is None
    rng = np.random.default_rng(0)
    places = []
    for place in taken:
        assert place is not None
        at, region = place
        outputs = {"a": rng.random((3, 7), np.float32).T, "b": rng.integers(0, 9, 5), "c": np.float16([2.5])}
        write_outputs(theirs, at, outputs)
        places.append((region, b"".join(np.ascontiguousarray(value).tobytes() for value in outputs.values())))
    for region, expected in places:
        assert region[: len(expected)].tobytes() == expected
        assert not region[len(expected) :].any()
    with pytest.raises(ValueError, match="buffer"):
        write_outputs(theirs, REGIONS * memory.region_bytes - 4, {"a": np.zeros(2, np.float32)})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["take", "drop", "view"]), max_size=60), st.randoms())
def test_a_region_is_free_when_nothing_looks_at_it(steps: list[str], rng: object) -> None:
    memory = SharedMemory(4096)
    held: list[tuple[int, object]] = []
    for step in steps:
        if step == "take" and len(held) < REGIONS:
            place = memory.take()
            assert place is not None
            assert place[0] not in {at for at, _ in held}
            held.append(place)
            del place
        elif step == "drop" and held:
            held.pop(rng.randrange(len(held)))  # type: ignore[attr-defined]
        elif step == "view" and held:  # as an answer keeps it: slices of arrays over its bytes
            at, region = held[-1]
            rows = np.frombuffer(memoryview(region).cast("B"), np.float32)[1:]  # type: ignore[arg-type]
            held[-1] = at, rows.data.cast("B") if len(held) % 2 else rows
            del region, rows
    held.clear()
    assert [memory.take() is not None for _ in range(REGIONS)] == [True] * REGIONS


def test_what_is_large_is_given_back_to_the_system() -> None:
    memory = SharedMemory(3 * KEPT_BYTES)
    for _ in range(3):
        place = memory.take()
        assert place is not None
        place[1][:] = 1
        assert count_pages(memory) == 3 * KEPT_BYTES
        del place
        assert count_pages(memory) == KEPT_BYTES
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(memory.descriptor.fileno(), 0)
    assert fcntl.fcntl(memory.descriptor.fileno(), fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
