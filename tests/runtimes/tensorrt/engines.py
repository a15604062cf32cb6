"""Engines for the fake TensorRT in an artifact's folder, with true records, and machines that fit them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from reformer_export.artifact.decoding import (
    DECODE_INPUT_NAMES,
    DECODE_NAME,
    DECODE_OUTPUT,
    cache_tensors,
)
from reformer_export.artifact.engine_record import (
    EngineFlags,
    EngineProfile,
    EngineRecord,
    EngineRuntime,
    PluginRecord,
    engine_path,
    record_path,
    record_text,
)
from reformer_export.artifact.manifest import MODEL_NAME, read_manifest
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.gpus import Gpu
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.tensorrt import describe_tensorrt_library
from reformer_export.runtimes import RuntimeOptions
from reformer_export.runtimes.tensorrt.machine import Machine
from reformer_export.runtimes.tensorrt.runtime import TensorRTRuntime
from reformer_export.spec import DType
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.fake_cuda import FakeCuda
from tests.runtimes.tensorrt.fake_tensorrt import VERSION, EngineFile, FakeTensorRT

PROFILES = (EngineProfile((1, 1), (1, 8), (2, 16)), EngineProfile((1, 1), (1, 64), (4, 64)))
DATA_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
GPU = Gpu("Fake 4090", ComputeCapability(8, 9), 24 * 2**30)

REQUESTS: tuple[tuple[list[list[int]], list[list[int]] | None], ...] = (
    ([[5, 6, 7]], None),
    ([[5, 6, 7, 8], [9, 10, 0, 0]], [[1, 1, 1, 1], [1, 1, 0, 0]]),
    ([[5]], None),
    ([list(range(60))], None),
    ([[7, 8, 9]], None),
    ([list(range(64)), list(range(100, 164)), list(range(64))], None),
)
"""Ids and masks of several shapes, for both profiles."""


def write_library(folder: Path, architectures: str = "80,86,89,90,120", abi: int = ABI_VERSION) -> Path:
    """A file that says it is the plugin library."""
    path = folder / "libreformer_tensorrt.so"
    marker = f"reformer-tensorrt-plugin abi={abi} version=0.1.0 cuda={architectures}"
    path.write_bytes(b"\x7fELF" + bytes(12) + marker.encode() + bytes(4))
    return path


def write_engine(
    out: Path,
    library: Path,
    name: str = "fake",
    *,
    runtime: EngineRuntime = "tensorrt",
    profiles: tuple[EngineProfile, ...] = PROFILES,
    data: bytes | None = None,
    file: dict[str, Any] | None = None,
    **record: Any,
) -> EngineRecord:
    """Write OUT/engines/NAME.engine and its record; `file` and `record` change fields of either."""
    manifest = read_manifest(out)
    values = {
        "model": str(out / MODEL_NAME),
        "outputs": dict.fromkeys(manifest.spec.output_names, DATA_TYPES[manifest.dtype]),
        "profiles": [list(map(list, dataclasses.astuple(profile))) for profile in profiles],
        **(file or {}),
    }
    content = EngineFile(**values).to_bytes() if data is None else data
    fields: dict[str, Any] = {
        "name": name,
        "runtime": runtime,
        "runtime_version": VERSION,
        "compute_capabilities": (str(GPU.compute_capability),),
        "profiles": profiles,
        "dtype": manifest.dtype,
        "model_sha256": manifest.files[MODEL_NAME],
        "engine_sha256": hashlib.sha256(content).hexdigest(),
        "engine_bytes": len(content),
        "plugin": PluginRecord(
            library.name, hashlib.sha256(library.read_bytes()).hexdigest(), ABI_VERSION, "0.1.0", False
        ),
        "flags": EngineFlags(),
        "plugin_layers": {"LSHBuckets": 1, "LSHAttention": 1},
        "build_seconds": 1.0,
        "tool_version": "0.1.0",
        **record,
    }
    made = EngineRecord(**fields)
    engine_path(out, name).parent.mkdir(exist_ok=True)
    engine_path(out, name).write_bytes(content)
    record_path(out, name).write_text(record_text(made))
    return made


def write_decode_engine(out: Path, library: Path, name: str = "fake-decode", **record: Any) -> EngineRecord:
    """Write an engine of OUT/decode.onnx: prompts alone, and steps of up to 8 sequences."""
    manifest = read_manifest(out)
    tensors = cache_tensors(manifest.spec, manifest.dtype)
    types = {**DATA_TYPES, "int32": "INT32"}
    capacity = record.pop("capacity", manifest.spec.max_length)
    longest = min(capacity, manifest.spec.max_length)
    profiles = (EngineProfile((1, 1), (1, 8), (1, longest)), EngineProfile((1, 1), (1, 1), (8, 1)))
    file = {
        "model": str(out / DECODE_NAME),
        "inputs": {
            **dict(zip(DECODE_INPUT_NAMES, ("INT64", "INT32", "INT32"), strict=True)),
            **{tensor.input: types[tensor.dtype] for tensor in tensors},
        },
        "outputs": {
            DECODE_OUTPUT: types[manifest.dtype],
            **{tensor.output: types[tensor.dtype] for tensor in tensors},
        },
        "plugins": ["LSHAttentionStep", "LocalAttentionStep"],
        "capacity": capacity,
    }
    fields = {
        "model_sha256": manifest.files[DECODE_NAME],
        "plugin_layers": {"LSHAttentionStep": 2, "LSHBuckets": 2, "LocalAttentionStep": 2},
        "profiles": profiles,
        **record,
    }
    return write_engine(
        out, library, name, file={**file, **fields.pop("file", {})}, capacity=capacity, **fields
    )


def make_artifact(tmp_path: Path, library: Path, dtype: DType = "float32", **engine: Any) -> Path:
    """An artifact and its engine; for bfloat16, which ONNX Runtime's CPU lacks, a float32 twin computes."""
    out = write_artifact(tmp_path / "out", logits="last", dtype=dtype)
    if dtype == "bfloat16":
        twin = write_artifact(tmp_path / "twin", logits="last")
        engine["file"] = {"model": str(twin / MODEL_NAME)}
    write_engine(out, library, **engine)
    return out


def count_graphs(model: TensorRTRuntime) -> int:
    """The CUDA graphs that a model holds."""
    assert model._executor is not None
    return len(model._executor._graphs)


def make_machine(library: Path | None, **values: Any) -> Machine:
    """A machine that fits what `write_engine` writes; `values` change it."""
    found = None if library is None else describe_tensorrt_library(library)
    return Machine(**{"runtime_version": VERSION, "gpu": GPU, "library": found, **values})


def open_fake(
    out: Path,
    library: Path,
    *,
    cuda: FakeCuda | None = None,
    trt: FakeTensorRT | None = None,
    runtime: EngineRuntime = "tensorrt",
    machine: Machine | None = None,
    **options: Any,
) -> TensorRTRuntime:
    """The artifact's engine open on a fake GPU; its numbers come from ONNX Runtime."""
    device = cuda or (trt.cuda if trt else FakeCuda())
    return TensorRTRuntime(
        out,
        RuntimeOptions(runtime, **options),
        machine=machine or make_machine(library),
        cuda=device,
        trt=trt or FakeTensorRT(device, rtx=runtime == "tensorrt-rtx"),
    )
