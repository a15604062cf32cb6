"""Whole models on a GPU: unpatched eager, ONNX Runtime on bodies and on our kernels, TensorRT engines."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.models import BenchmarkModel, random_inputs
from reformer_export.engine import EngineOptions, build_engine, profiles_from_shapes
from reformer_export.errors import ReformerExportError
from reformer_export.measure.contenders import Run, Setup, open_contender
from reformer_export.runtimes import RuntimeOptions

TENSORRT_MODULES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
WARM_UPS: Final = 2


def set_up_tensorrt(model: BenchmarkModel, runtime_name: Any, longest: int) -> Setup:
    """An engine for 1 to `longest` tokens, built here if the artifact has none yet."""
    if importlib.util.find_spec(TENSORRT_MODULES[runtime_name]) is None:
        raise ReformerExportError("not installed")
    name = f"{runtime_name}-bench-{longest}"
    if not (model.artifact / "engines" / f"{name}.json").is_file():
        profiles = profiles_from_shapes(model.spec, [(1, 1)], [(1, longest)], [(1, longest)])
        options = EngineOptions(runtime=runtime_name, name=name, profiles=profiles)
        build_engine(model.artifact, options)
    return Setup("artifact", str(model.artifact), RuntimeOptions(runtime_name, engine=name), "cuda")


def bench_model(
    model: BenchmarkModel, dtype: str, lengths: list[int], turns: int, device: str = "cuda"
) -> list[dict[str, Any]]:
    """One entry a length, as `gpu_report` wants them, of a model whose artifact is of `dtype`."""
    opened, refused = _open_all(model, max(lengths), device)
    entries = []
    for length in lengths:
        ids = random_inputs(model.spec.vocab_size, length)
        seconds, failed, outputs = _time_in_turns(opened, ids, turns)
        compared = [outputs[name] for name in ("onnxruntime-bodies", "onnxruntime-native") if name in outputs]
        entries.append(
            {
                "model": model.name,
                "dtype": dtype,
                "tokens": length,
                "seconds": seconds,
                "not_timed": {**refused, **failed},
                "difference": float(np.abs(np.subtract(*compared)).max()) if len(compared) == 2 else None,
            }
        )
    return entries


def _open_all(model: BenchmarkModel, longest: int, device: Any) -> tuple[dict[str, Run], dict[str, str]]:
    """What can be opened, and why the rest cannot."""
    out, checkpoint = str(model.artifact), str(model.checkpoint)
    on_bodies, on_kernels = (RuntimeOptions(provider=device, native=native) for native in ("off", "on"))
    setups: dict[str, Callable[[], Setup]] = {
        "eager": lambda: Setup("eager", out, RuntimeOptions(), device, checkpoint),
        "onnxruntime-bodies": lambda: Setup("artifact", out, on_bodies, device),
        "onnxruntime-native": lambda: Setup("artifact", out, on_kernels, device),
        "tensorrt": lambda: set_up_tensorrt(model, "tensorrt", longest),
        "tensorrt-rtx": lambda: set_up_tensorrt(model, "tensorrt-rtx", longest),
    }
    opened: dict[str, Run] = {}
    refused: dict[str, str] = {}
    for name, set_up in setups.items():
        try:
            opened[name] = open_contender(set_up())
        except ReformerExportError as error:
            refused[name] = " ".join(str(error).split())
    return opened, refused


def _time_in_turns(
    runs: dict[str, Run], ids: NDArray[np.int64], turns: int
) -> tuple[dict[str, list[float]], dict[str, str], dict[str, NDArray[np.float32]]]:
    """Wall-clock seconds by run, what failed and why, and the last outputs."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    failed: dict[str, str] = {}
    outputs: dict[str, NDArray[np.float32]] = {}
    for turn in range(WARM_UPS + turns):
        for name, run in runs.items():
            if name in failed:
                continue
            start = time.perf_counter()
            try:
                outputs[name] = run(ids)["logits"]
            except (ReformerExportError, torch.OutOfMemoryError) as error:
                failed[name] = " ".join(str(error).split())[:200]
                continue
            if turn >= WARM_UPS:
                seconds[name].append(time.perf_counter() - start)
    return {name: times for name, times in seconds.items() if name not in failed}, failed, outputs
