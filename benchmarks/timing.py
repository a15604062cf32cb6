"""Pairs timed in turns, and the machine's matrix-product ceiling in the same run."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from reformer_export.measure.timing import time_once

CEILING_SIZE: Final = 1024
"""Rows and columns of the square matrices whose product is timed: 4 MiB each."""


@dataclass(frozen=True)
class Comparison:
    """Seconds of each turn; equal indices are neighbours in time, and each begins every other pair."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def median_of_ratios(self) -> float:
        """How many times faster ours is, pair by pair: less open to a load that changes during the run."""
        return statistics.median(b / a for a, b in zip(self.ours, self.theirs, strict=True))


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
