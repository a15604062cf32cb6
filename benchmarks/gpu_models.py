"""Whole models on a GPU: unpatched eager, ONNX Runtime on bodies and on our kernels, TensorRT engines.

Of our kernels in ONNX Runtime there are three: `run` with ids and logits on the host, `run` with logits left
on the device where this version of the package has that, and the bare session with everything bound, which is
what the device itself takes.
"""

from __future__ import annotations

import importlib.util
import inspect
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu_sessions import BoundSession
from benchmarks.models import BenchmarkModel, random_inputs
from reformer_export.engine import EngineOptions, build_engine, profiles_from_shapes
from reformer_export.errors import ReformerExportError
from reformer_export.measure.contenders import Setup, open_contender
from reformer_export.runtimes import RuntimeOptions, load

TENSORRT_MODULES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
WARM_UPS: Final = 2
FEWEST_TURNS: Final = 3
LONGEST_SECONDS: Final = 3.0
"""A contender that has taken longer, and its fewest turns, is not asked again."""

COMPARED: Final = ("onnxruntime-bodies", "onnxruntime-native")
Run = Callable[[NDArray[np.int64]], Any]
"""int64 [1, L] token ids -> the outputs by name, or nothing where they stay on the device."""


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
    model: BenchmarkModel, dtype: str, lengths: list[int], turns: int, device: Any = "cuda"
) -> list[dict[str, Any]]:
    """One entry a length, as `gpu_results` has them, of a model whose artifact is of `dtype`."""
    opened, refused = _open_all(model, max(lengths), device)
    entries = []
    for length in lengths:
        ids = random_inputs(model.spec.vocab_size, length)
        runs = {**opened, "onnxruntime-bound": open_bound(model, ids, device)}
        seconds, failed, outputs = time_in_turns(runs, ids, turns)
        compared = [outputs[name]["logits"] for name in COMPARED if name in outputs]
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


def open_bound(model: BenchmarkModel, ids: NDArray[np.int64], device: str) -> Run:
    """The session with `ids` on the device already; it is opened at the first run."""
    opened: list[BoundSession] = []

    def run(_ids: NDArray[np.int64]) -> None:
        if not opened:
            opened.append(BoundSession(model, ids, device))
        opened[0]()

    return run


def open_on_device(model: BenchmarkModel, device: Any) -> Run:
    """`load(...).run` whose outputs stay on the device; ReformerExportError where there is no such run."""
    loaded: Any = load(str(model.artifact), RuntimeOptions(provider=device, native="on"))
    if "device" not in inspect.signature(loaded.run).parameters:
        raise ReformerExportError("this version of the package leaves no outputs on the device")

    def run(ids: NDArray[np.int64]) -> None:
        loaded.run(ids, device=device)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _open_all(model: BenchmarkModel, longest: int, device: Any) -> tuple[dict[str, Run], dict[str, str]]:
    """What can be opened, and why the rest cannot."""
    out, checkpoint = str(model.artifact), str(model.checkpoint)
    on_bodies, on_kernels = (RuntimeOptions(provider=device, native=native) for native in ("off", "on"))
    setups: dict[str, Callable[[], Run]] = {
        "eager": lambda: open_contender(Setup("eager", out, RuntimeOptions(), device, checkpoint)),
        "onnxruntime-bodies": lambda: open_contender(Setup("artifact", out, on_bodies, device)),
        "onnxruntime-native": lambda: open_contender(Setup("artifact", out, on_kernels, device)),
        "onnxruntime-device": lambda: open_on_device(model, device),
        "tensorrt": lambda: open_contender(set_up_tensorrt(model, "tensorrt", longest)),
        "tensorrt-rtx": lambda: open_contender(set_up_tensorrt(model, "tensorrt-rtx", longest)),
    }
    opened: dict[str, Run] = {}
    refused: dict[str, str] = {}
    for name, open_run in setups.items():
        try:
            opened[name] = open_run()
        except ReformerExportError as error:
            refused[name] = " ".join(str(error).split())
    return opened, refused


def time_in_turns(
    runs: dict[str, Run], ids: NDArray[np.int64], turns: int
) -> tuple[dict[str, list[float]], dict[str, str], dict[str, dict[str, NDArray[np.float32]]]]:
    """Wall-clock seconds by run, what failed and why, and the last outputs."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    failed: dict[str, str] = {}
    outputs: dict[str, dict[str, NDArray[np.float32]]] = {}
    for turn in range(WARM_UPS + turns):
        for name, run in runs.items():
            taken = seconds[name]
            if name in failed or (len(taken) >= FEWEST_TURNS and sum(taken) > LONGEST_SECONDS):
                continue
            start = time.perf_counter()
            try:
                output = run(ids)
            # ONNX Runtime's own errors are RuntimeErrors, as torch's of memory are.
            except (ReformerExportError, RuntimeError) as error:
                failed[name] = " ".join(str(error).split())[:200]
                continue
            if turn >= WARM_UPS:
                taken.append(time.perf_counter() - start)
            if name in COMPARED:
                outputs[name] = output
    return {name: times for name, times in seconds.items() if name not in failed}, failed, outputs
