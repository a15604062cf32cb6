"""Where one forward pass spends its time, kernel by kernel, as ONNX Runtime's profiler has it."""

from __future__ import annotations

import bisect
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reformer_export.artifact.manifest import Manifest
from reformer_export.contract import MASK_INPUT
from reformer_export.measure.contenders import Inputs, random_inputs
from reformer_export.runtimes.ort_binding import NUMPY_TYPES
from reformer_export.runtimes.ort_session import Placement, open_session


@dataclass(frozen=True)
class KernelRun:
    """One kernel of a pass: its node's name, its operator, the shapes of its inputs, and its time."""

    name: str
    op_type: str
    shapes: str
    seconds: float


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one operator in one pass: how many ran, and their seconds."""

    operator: str
    runs: int
    seconds: float


@dataclass(frozen=True)
class NodeTimes:
    """Where the time of one pass over `length` tokens went, the slowest operator first."""

    length: int
    operators: tuple[OperatorTime, ...]


def measure_node_times(model: Path, manifest: Manifest, length: int, placement: Placement) -> NodeTimes:
    """Where one pass of `model` over `length` random tokens spends its time."""
    kernels = profile_model(model, random_inputs(manifest, 1, length), placement)
    return NodeTimes(length, rank_operators(kernels))


def profile_model(model: Path, inputs: Inputs, placement: Placement, passes: int = 3) -> list[KernelRun]:
    """The kernels of one pass of `model` over `inputs`, each the best of `passes`.

    Nodes inside of loops are listed once for every turn; the loops themselves are not.
    """
    with tempfile.TemporaryDirectory(prefix="reformer-export-") as folder:
        session = open_session(model, placement, Path(folder) / "profile")
        wanted = {value.name: NUMPY_TYPES[value.type] for value in session.get_inputs()}
        if not isinstance(inputs, dict):  # whatever they are called
            masks = {name: np.ones(inputs.shape[:2]) for name in wanted if name == MASK_INPUT}
            inputs = {name: masks.get(name, inputs) for name in wanted}
        feeds = {name: inputs[name].astype(dtype, copy=False) for name, dtype in wanted.items()}
        for _ in range(1 + passes):
            session.run(None, feeds)
        trace = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = _kernels_by_run(trace)[1:]  # the first one warms up
    return [min(repeats, key=lambda kernel: kernel.seconds) for repeats in zip(*runs, strict=True)]


def rank_operators(kernels: list[KernelRun]) -> tuple[OperatorTime, ...]:
    """The kernels, grouped by their operator, slowest first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for kernel in kernels:
        groups[kernel.op_type].append(kernel.seconds)
    times = [OperatorTime(name, len(seconds), sum(seconds)) for name, seconds in groups.items()]
    return tuple(sorted(times, key=lambda time: -time.seconds))


def _kernels_by_run(trace: list[dict[str, Any]]) -> list[list[KernelRun]]:
    """The kernels of each run in order; Loop and If, which contain others, are left out."""
    begins = sorted(entry["ts"] for entry in trace if entry["name"] == "model_run")
    runs: list[list[KernelRun]] = [[] for _ in begins]
    for entry in sorted(trace, key=lambda entry: entry["ts"]):
        arguments = entry.get("args", {})
        is_kernel = entry["name"].endswith("_kernel_time")
        if is_kernel and arguments["op_name"] not in ("Loop", "If", "Scan"):
            name = entry["name"].removesuffix("_kernel_time")
            kernel = KernelRun(name, arguments["op_name"], _describe_shapes(arguments), entry["dur"] / 1e6)
            runs[bisect.bisect(begins, entry["ts"]) - 1].append(kernel)
    return runs


def _describe_shapes(arguments: dict[str, Any]) -> str:
    shapes = [shape for described in arguments.get("input_type_shape", ()) for shape in described.values()]
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
