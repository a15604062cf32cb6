"""An artifact in ONNX Runtime with everything bound to the device, and the kernels that a run launches.

    python -m benchmarks.gpu_sessions [--models crime] [--dtypes float16] [--out FILE.json] [--text FILE.txt]

What a bound session takes is what the device does: `load(...).run` is compared with it, and the kernels' sum
with both. torch's profiler sees ONNX Runtime's kernels, whichever library launches them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from benchmarks.gpu_machine import describe_gpu, require_gpu
from benchmarks.gpu_results import update_results
from benchmarks.models import BenchmarkModel, prepare_model, random_inputs
from benchmarks.report import RESULTS
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.errors import ReformerExportError
from reformer_export.libraries.operators import find_native_library
from reformer_export.reference.eager import silence_transformers

PROVIDERS: Final[dict[str, list[Any]]] = {
    # Exact in float32, as the package runs it: without TF32.
    "cuda": [("CUDAExecutionProvider", {"use_tf32": 0}), "CPUExecutionProvider"],
    "cpu": ["CPUExecutionProvider"],
}
REPEATS: Final = 10
NAME_LENGTH: Final = 100
"""Characters of a kernel's name that the table keeps."""


class BoundSession:
    """One input bound on the device, outputs left there: no copy between host and device in a run."""

    def __init__(self, model: BenchmarkModel, ids: NDArray[np.int64], device: str = "cuda") -> None:
        """ids int64 [B, L], all of them real tokens."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.enable_mem_pattern = False
        library = find_native_library("on")
        assert library is not None
        options.register_custom_ops_library(str(library.path))
        if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        path = str(model.artifact / MODEL_NAME)
        self.session = onnxruntime.InferenceSession(path, options, providers=PROVIDERS[device])
        self.binding = self.session.io_binding()
        self.inputs = {  # held here: the binding does not
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
            for name, array in (("input_ids", ids), ("attention_mask", np.ones_like(ids)))
        }
        for name, value in self.inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        for output in self.session.get_outputs():
            self.binding.bind_output(output.name, device, 0)

    def __call__(self) -> None:
        """Until the outputs are there."""
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()


def profile_session(run: Callable[[], None], repeats: int = REPEATS) -> list[dict[str, Any]]:
    """One run's kernels, slowest first: `name`, `calls` and `seconds`; copies and fills among them."""
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
    kernels = [
        {
            "name": event.key[:NAME_LENGTH],
            "calls": round(event.count / repeats, 1),
            "seconds": event.self_device_time_total / 1e6 / repeats,
        }
        for event in profiled.key_averages()
        if event.self_device_time_total > 0
    ]
    return sorted(kernels, key=lambda kernel: -kernel["seconds"])


def render_kernels(entry: dict[str, Any]) -> list[str]:
    """A table of text: microseconds of a run, share of the kernels' sum, calls, name."""
    total = entry["total_seconds"]
    lines = [
        f"## {entry['model']} {entry['dtype']} {entry['tokens']} tokens: bound session "
        f"{1e3 * entry['bound_seconds']:.2f} ms, kernels {1e3 * total:.2f} ms"
    ]
    return lines + [
        f"{1e6 * kernel['seconds']:11.1f} us {kernel['seconds'] / total:6.1%} x{kernel['calls']:<5g} "
        f"{kernel['name']}"
        for kernel in entry["kernels"]
    ]


def list_kernels(name: str, dtype: Any, tokens: int) -> dict[str, Any]:
    """One entry of `session_kernels`."""
    model = prepare_model(name, dtype=dtype)
    run = BoundSession(model, random_inputs(model.spec.vocab_size, tokens))
    run()
    start = time.perf_counter()
    run()
    bound = time.perf_counter() - start
    kernels = profile_session(run)
    return {
        "model": name,
        "dtype": dtype,
        "tokens": tokens,
        "bound_seconds": bound,
        "total_seconds": sum(kernel["seconds"] for kernel in kernels),
        "kernels": kernels,
    }


@click.command(help=__doc__)
@click.option("--models", default="crime,enwik8", show_default=True)
@click.option("--dtypes", default="float16,float32", show_default=True)
@click.option("--tokens", default=16384, show_default=True, type=click.IntRange(1))
@click.option("--out", default=RESULTS / "gpu.json", show_default=True, type=click.Path(path_type=Path))
@click.option("--text", type=click.Path(path_type=Path), help="The tables, as text.")
@silence_transformers()
def main(models: str, dtypes: str, tokens: int, out: Path, text: Path | None) -> None:
    require_gpu("gpu_sessions")
    entries: list[dict[str, Any]] = []
    missing: list[str] = []
    lines: list[str] = []
    for dtype in dtypes.split(","):
        for name in models.split(","):
            try:
                entries.append(list_kernels(name, dtype, tokens))
            except (ReformerExportError, RuntimeError) as error:
                missing.append(f"kernels of {name}, {dtype}: {' '.join(str(error).split())[:200]}")
                continue
            lines += render_kernels(entries[-1])
            update_results(out, {"machine": describe_gpu(), "session_kernels": entries})
            if text is not None:
                text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    update_results(out, {"missing": {"session_kernels": missing}})
    click.echo("\n".join([*lines, *missing]))


if __name__ == "__main__":
    main()
