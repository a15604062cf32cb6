"""Times of work on a GPU, with CUDA events."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import torch

from benchmarks.gpu_cards import Ceilings

Run = Callable[[], Any]
T = TypeVar("T")

LEAD_CYCLES: Final = 20_000_000
"""Clock cycles, about 10 ms, that the GPU is kept busy with while the host enqueues what is timed: so the
time is the GPU's, without gaps that a slow host leaves. Work that waits for the GPU itself keeps its gaps."""

WARM_UPS: Final = 3


def capture(run: Callable[[], T]) -> tuple[Callable[[], object], T]:
    """The launches of `run` as one CUDA graph: what replays it, and where its result appears, which stays in
    the graph's memory."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # torch asks for a run before the capture
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result


def capture_run(run: Callable[[], T]) -> Callable[[], T]:
    """`run` from a CUDA graph."""
    replay, result = capture(run)

    def replayed() -> T:
        replay()
        return result

    return replayed


def time_on_gpu(run: Run) -> float:
    """Seconds between the start and the end of `run` on the current stream."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(LEAD_CYCLES)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def time_in_turns(runs: Mapping[str, Run], turns: int) -> dict[str, list[float]]:
    """Seconds of each run by name, one after the other `turns` times: all see the same clock rates."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UPS + turns):
        for name, run in runs.items():
            elapsed = time_on_gpu(run)
            if turn >= WARM_UPS:
                seconds[name].append(elapsed)
    return seconds


def measure_ceilings(copied_bytes: int = 2 << 30, size: int = 8192, repeats: int = 5) -> Ceilings:
    """The rates that this GPU reaches now: of a copy larger than any cache, and of a float16 product."""
    source = torch.ones(copied_bytes // 4, device="cuda")
    target = torch.empty_like(source)
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    product = torch.empty_like(left)
    runs: dict[str, Run] = {
        "copy": lambda: target.copy_(source),
        "product": lambda: torch.mm(left, right, out=product),
    }
    seconds = {name: statistics.median(times) for name, times in time_in_turns(runs, repeats).items()}
    return Ceilings(
        copy_bytes=2 * copied_bytes / seconds["copy"], product_flops=2 * size**3 / seconds["product"]
    )


def measure_extra_bytes(run: Run) -> int:
    """Peak of what one run allocates beyond what is allocated before it; torch's allocator only."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    del result
    return extra


def measure_kernels(run: Run, repeats: int = 10) -> dict[str, float]:
    """Seconds per run in each kernel, by the kernel's name without its template and function arguments."""
    from torch.profiler import ProfilerActivity, profile

    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
    seconds: dict[str, float] = {}
    for event in profiled.key_averages():
        if event.self_device_time_total > 0:
            name = shorten_kernel_name(event.key)
            seconds[name] = seconds.get(name, 0.0) + event.self_device_time_total / 1e6 / repeats
    return seconds


def shorten_kernel_name(name: str) -> str:
    """`void a::b<c::d>(e)` -> `b`."""
    depth, kept = 0, []
    for character in name.replace("(anonymous namespace)::", ""):
        if character == "<":
            depth += 1
        elif character == ">":
            depth -= 1
        elif depth == 0:
            kept.append(character)
    return "".join(kept).partition("(")[0].strip().rpartition(" ")[2].rpartition("::")[2] or name
