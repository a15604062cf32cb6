"""Interleaved timing, and the machine's matrix-product ceiling in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

PAUSE_SECONDS: Final = 0.05
"""Between turns, so that idle threads of one library do not spin in the other's time."""

CEILING_SIZE: Final = 1024
"""Rows and columns of the square matrices whose product is timed: 4 MiB each."""


@dataclass(frozen=True)
class Comparison:
    """Seconds of each turn; `ours` and `theirs` alternate, so equal indices are neighbours in time."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio_of_medians(self) -> float:
        """How many times faster ours is."""
        return statistics.median(self.theirs) / statistics.median(self.ours)

    @property
    def median_of_ratios(self) -> float:
        """As `ratio_of_medians`, pair by pair: less open to a load that changes during the run."""
        return statistics.median(b / a for a, b in zip(self.ours, self.theirs, strict=True))


def time_in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], max_pairs: int, max_seconds: float
) -> Comparison:
    """Run both in turns, ours first: `max_pairs` pairs, or as many as `max_seconds` allow, but at least 3."""
    seconds: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    for pair in range(max_pairs):
        if pair >= 3 and time.perf_counter() - begin > max_seconds:
            break
        for run, times in zip((ours, theirs), seconds, strict=True):
            time.sleep(PAUSE_SECONDS)
            times.append(time_once(run))
    return Comparison(tuple(seconds[0]), tuple(seconds[1]))


def time_once(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure_ceiling(threads: int, repeats: int = 60) -> dict[str, float]:
    """GFLOP/s of a float32 matrix product, the best of interleaved runs, by library."""
    products = {"torch": _torch_product(threads), "onnxruntime": _onnxruntime_product(threads)}
    seconds: dict[str, list[float]] = {name: [] for name in products}
    for turn in range(repeats + 2):  # the first two warm up
        for name, product in products.items():
            elapsed = time_once(product)
            if turn >= 2:
                seconds[name].append(elapsed)
    return {name: 2 * CEILING_SIZE**3 / min(times) / 1e9 for name, times in seconds.items()}


def _torch_product(threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    a, b, c = (torch.ones(CEILING_SIZE, CEILING_SIZE) for _ in range(3))
    return lambda: torch.mm(a, b, out=c)


def _onnxruntime_product(threads: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.ones((CEILING_SIZE, CEILING_SIZE), np.float32)
    a, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, matrix.shape) for name in "ac")
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", [a], [c], [numpy_helper.from_array(matrix, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": matrix})
