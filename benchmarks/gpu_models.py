"""Whole models on a GPU: unpatched eager, ONNX Runtime on bodies and on our kernels, TensorRT engines."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

import reformer_export
from benchmarks.gpu_layers import DTYPES
from benchmarks.models import BenchmarkModel, random_inputs
from reformer_export.engine import EngineOptions, build_engine, profiles_from_shapes
from reformer_export.errors import ReformerExportError
from reformer_export.reference.eager import EagerReformer, silence_transformers

Run = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""int64 [1, L] token ids on the host -> float32 logits [1, L, vocabulary] on the host."""

TENSORRT_MODULES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
WARM_UPS: Final = 2


def open_eager(model: BenchmarkModel, dtype: str, device: str) -> Run:
    """transformers at its fastest: inference mode, no cache, no attention mask."""
    silence_transformers()
    eager: Any = EagerReformer(model.checkpoint, model.spec).model.to(device, DTYPES[dtype])

    @torch.inference_mode()
    def run(input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        ids = torch.from_numpy(input_ids).to(device)
        logits: NDArray[np.float32] = eager(ids, use_cache=False).logits.float().cpu().numpy()
        return logits

    return run


def open_onnxruntime(model: BenchmarkModel, native: Any, device: str) -> Run:
    """The artifact on ONNX Runtime's provider `device`; `native` "on" is our kernels, "off" the bodies."""
    runtime = reformer_export.load(model.artifact, provider=device, native=native)
    return lambda input_ids: runtime.run(input_ids)["logits"]


def open_tensorrt(model: BenchmarkModel, runtime_name: Any, longest: int) -> Run:
    """An engine for 1 to `longest` tokens, built here if the artifact has none yet."""
    if importlib.util.find_spec(TENSORRT_MODULES[runtime_name]) is None:
        raise ReformerExportError("not installed")
    name = f"{runtime_name}-bench-{longest}"
    if not (model.artifact / "engines" / f"{name}.json").is_file():
        profiles = profiles_from_shapes(model.spec, [(1, 1)], [(1, longest)], [(1, longest)])
        options = EngineOptions(runtime=runtime_name, name=name, profiles=profiles)
        build_engine(model.artifact, options)
    runtime = reformer_export.load(model.artifact, runtime=runtime_name, engine=name)
    return lambda input_ids: runtime.run(input_ids)["logits"]


def bench_model(
    model: BenchmarkModel, dtype: str, lengths: list[int], turns: int, device: str = "cuda"
) -> list[dict[str, Any]]:
    """One entry a length, as `gpu_report` wants them, of a model whose artifact is of `dtype`."""
    opened, refused = _open_all(model, dtype, max(lengths), device)
    entries = []
    for length in lengths:
        ids = random_inputs(model.spec.vocab_size, length)
        seconds, failed, outputs = _time_in_turns(opened, ids, turns)
        bodies, native = outputs.get("onnxruntime-bodies"), outputs.get("onnxruntime-native")
        both = bodies is not None and native is not None
        entries.append(
            {
                "model": model.name,
                "dtype": dtype,
                "tokens": length,
                "seconds": seconds,
                "not_timed": {**refused, **failed},
                "difference": float(np.abs(bodies - native).max()) if both else None,
            }
        )
    return entries


def _open_all(
    model: BenchmarkModel, dtype: str, longest: int, device: str
) -> tuple[dict[str, Run], dict[str, str]]:
    """What can be opened, and why the rest cannot."""
    openers: dict[str, Callable[[], Run]] = {
        "eager": lambda: open_eager(model, dtype, device),
        "onnxruntime-bodies": lambda: open_onnxruntime(model, "off", device),
        "onnxruntime-native": lambda: open_onnxruntime(model, "on", device),
        "tensorrt": lambda: open_tensorrt(model, "tensorrt", longest),
        "tensorrt-rtx": lambda: open_tensorrt(model, "tensorrt-rtx", longest),
    }
    opened: dict[str, Run] = {}
    refused: dict[str, str] = {}
    for name, open_one in openers.items():
        try:
            opened[name] = open_one()
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
                outputs[name] = run(ids)
            except (ReformerExportError, torch.OutOfMemoryError) as error:
                failed[name] = " ".join(str(error).split())[:200]
                continue
            if turn >= WARM_UPS:
                seconds[name].append(time.perf_counter() - start)
    return {name: times for name, times in seconds.items() if name not in failed}, failed, outputs
