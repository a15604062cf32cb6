"""Extra memory of one run of a layer, in a process of its own.

The processes are forked from one that has torch and transformers loaded but has run nothing: each starts
clean, and in a fraction of a second.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final

import torch

from benchmarks.layers import CHUNK, CONTENDERS, Layer
from reformer_export.measure.memory import bytes_from_proc, peak_bytes, reset_peak, resident_bytes

WARM_TOKENS: Final = 2 * CHUNK
"""The fewest that are hashed: little is left behind for the measured run to use again."""


def measure_extra_bytes(contender: str, layer: Layer, threads: int) -> int | None:
    """Peak resident bytes of the first run at this length, less those with its operands ready.

    A run over WARM_TOKENS tokens goes before, so that code being loaded does not count. None when the
    process was killed (out of memory).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        try:
            return executor.submit(_extra_bytes, contender, layer, threads).result()
        except BrokenProcessPool:
            return None


def available_bytes() -> int:
    """Memory that can be had without swapping (Linux, proc(5))."""
    return bytes_from_proc("meminfo", "MemAvailable")


def _extra_bytes(contender: str, layer: Layer, threads: int) -> int:
    torch.set_num_threads(threads)
    CONTENDERS[contender](dataclasses.replace(layer, length=WARM_TOKENS))()
    run = CONTENDERS[contender](layer)
    if not reset_peak():
        raise OSError("/proc/self/clear_refs: cannot be written, so that no peak is known")
    before = resident_bytes()
    result = run()
    extra = peak_bytes() - before
    del result
    return extra
