"""What Triton's config.pbtxt says of each model, as values (text_format.py writes them).

Sources: Triton's model_config.proto; the README of each backend's repository (triton-inference-server/
onnxruntime_backend, tensorrt_backend, python_backend) and, for what those leave out, src/onnxruntime.cc and
src/instance_state.cc there.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

from reformer_export.artifact.engine_record import EngineRecord
from reformer_export.artifact.manifest import Manifest
from reformer_export.artifact.signature import graph_outputs
from reformer_export.contract import IDS_INPUT, MASK_INPUT
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.serving.triton.options import GENERATE_SUFFIX, TritonRequest
from reformer_export.serving.triton.text_format import Word
from reformer_export.spec import DType, ModelSpec

Message = dict[str, Any]

INPUT_NAMES: Final = (IDS_INPUT, MASK_INPUT)

RUNTIME_PARAMETER: Final = "runtime_options"
STREAMS_PARAMETER: Final = "max_streams"
PLAN_NAME: Final = "model.plan"

TYPES: Final[dict[DType, Word]] = {
    "float32": Word("TYPE_FP32"),
    "float16": Word("TYPE_FP16"),
    "bfloat16": Word("TYPE_BF16"),
}
INT64: Final = Word("TYPE_INT64")
FP64: Final = Word("TYPE_FP64")
STRING: Final = Word("TYPE_STRING")

GENERATE_INPUTS: Final[dict[str, tuple[Word, int]]] = {
    "text_input": (STRING, 1),
    "input_ids": (INT64, -1),
    "max_new_tokens": (INT64, 1),
    "temperature": (FP64, 1),
    "top_k": (INT64, 1),
    "top_p": (FP64, 1),
    "seed": (INT64, 1),
    "eos_token_id": (INT64, -1),
    "num_hashes": (INT64, 1),
    "refresh": (INT64, 1),
}
"""Type and size of each; all are optional, but for one of the first two, which are the prompt. The others are
fields of `GenerationOptions`; temperatures are float64, so that a draw is the same as here."""

GENERATE_OUTPUTS: Final[dict[str, tuple[Word, int]]] = {
    "token_id": (INT64, -1),
    "text_output": (STRING, 1),
    "stop_reason": (STRING, 1),
}
"""Of every response: a token, none in the last one; the text that it completes; why it ended, or ""."""


def output_dims(spec: ModelSpec) -> dict[str, list[int]]:
    """The shape of one row of each output, -1 for the sequence."""
    return {output.name: list(output.sizes({})[1:]) for output in graph_outputs(spec, "float32")}


def python_config(manifest: Manifest, request: TritonRequest) -> Message:
    """The model that answers requests of unlike lengths together."""
    inputs = _inputs()
    for each in inputs:
        each["allow_ragged_batch"] = True
    inputs[1]["optional"] = True
    return {
        "name": request.name,
        "backend": "python",
        "max_batch_size": request.max_batch_size,
        "input": inputs,
        "output": _outputs(manifest.spec, "float32"),
        **_batching(request),
        "instance_group": [_instances(request)],
        "parameters": [_runtime_parameter(request)],
        "model_warmup": [_warm_up(1, INPUT_NAMES[:1])],
    }


def generate_config(request: TritonRequest) -> Message:
    """The model that writes: one request a generation, a response a token."""
    return {
        "name": request.name + GENERATE_SUFFIX,
        "backend": "python",
        "max_batch_size": 0,
        "input": [
            {"name": name, "data_type": kind, "dims": [size], "optional": True}
            for name, (kind, size) in GENERATE_INPUTS.items()
        ],
        "output": [
            {"name": name, "data_type": kind, "dims": [size]}
            for name, (kind, size) in GENERATE_OUTPUTS.items()
        ],
        "model_transaction_policy": {"decoupled": True},
        "instance_group": [_instances(request)],
        "parameters": [
            _runtime_parameter(request),
            {"key": STREAMS_PARAMETER, "value": {"string_value": str(request.streams)}},
        ],
    }


def onnxruntime_config(manifest: Manifest, request: TritonRequest, library: str | None) -> Message:
    """model.onnx in Triton's onnxruntime backend; `library` is where the server finds the operator library.

    Keys of `parameters` and of the accelerator "cuda": the backend's README, "Model Config Options" and "ONNX
    Runtime with CUDA Execution Provider optimization". The latter's keys are handed to ONNX Runtime's CUDA
    provider as they are (src/onnxruntime.cc, LoadModel), which knows use_tf32 and has it on by default. The
    accelerator is known to servers from 24.07 on, and looked at for instances on a GPU only.
    """
    message: Message = {
        "name": request.name,
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "max_batch_size": request.max_batch_size,
        "input": _inputs(),
        "output": _outputs(manifest.spec, manifest.dtype),
        **_batching(request),
        "instance_group": [_instances(request)],
        # As this package's own sessions: a pattern's block stands beside what the arena holds already.
        "parameters": [_parameter("enable_mem_pattern", "0")],
        "model_warmup": [_warm_up(1, INPUT_NAMES)],
    }
    if request.threads is not None:
        message["parameters"].append(_parameter("intra_op_thread_count", str(request.threads)))
    if request.provider != "cpu":
        options = [{"key": "use_tf32", "value": str(int(request.tf32))}]
        cuda = {"name": "cuda", "parameters": options}
        message["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [cuda]}}
    if library is not None:
        message["model_operations"] = {"op_library_filename": [library]}
    return message


def tensorrt_config(manifest: Manifest, request: TritonRequest, engine: EngineRecord) -> Message:
    """An engine in Triton's tensorrt backend, which takes for each batch the profile that fits it best.

    No profile may be smaller than max_batch_size (src/instance_state.cc, MaximumDims).
    """
    batch = min(request.max_batch_size, *(profile.maximum[0] for profile in engine.profiles))
    profiles = [str(index) for index in range(len(engine.profiles))]
    return {
        "name": request.name,
        "backend": "tensorrt",
        "default_model_filename": PLAN_NAME,
        "max_batch_size": batch,
        "input": _inputs(),
        "output": _outputs(manifest.spec, engine.dtype),
        **_batching(request),
        "instance_group": [{"count": request.instances, "kind": Word("KIND_GPU"), "profile": profiles}],
        "model_warmup": [_warm_up(engine.profiles[0].optimum[1], INPUT_NAMES)],
    }


def _inputs() -> list[Message]:
    return [{"name": name, "data_type": INT64, "dims": [-1]} for name in INPUT_NAMES]


def _outputs(spec: ModelSpec, dtype: DType) -> list[Message]:
    return [
        {"name": name, "data_type": TYPES[dtype], "dims": dims} for name, dims in output_dims(spec).items()
    ]


def _batching(request: TritonRequest) -> Message:
    return {"dynamic_batching": {"max_queue_delay_microseconds": request.queue_delay}}


def _instances(request: TritonRequest) -> Message:
    is_gpu = request.provider == "cuda" or request.runtime_options().is_engine
    kind = "KIND_GPU" if is_gpu else {"cpu": "KIND_CPU"}.get(request.provider, "KIND_AUTO")
    return {"count": request.instances, "kind": Word(kind)}


def _parameter(key: str, text: str) -> Message:
    return {"key": key, "value": {"string_value": text}}


def _runtime_parameter(request: TritonRequest) -> Message:
    """The options that are not as `load` has them; the server says which GPU."""
    options, usual = request.runtime_options(), RuntimeOptions()
    chosen = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(RuntimeOptions)
        if getattr(options, field.name) != getattr(usual, field.name)
    }
    return _parameter(RUNTIME_PARAMETER, json.dumps(chosen))


def _warm_up(length: int, names: tuple[str, ...]) -> Message:
    """Ids of zero, which every vocabulary has; random ones would lie outside."""
    data = {"data_type": INT64, "dims": [length], "zero_data": True}
    inputs = [{"key": name, "value": data} for name in names]
    return {"name": "zeros", "batch_size": 1, "inputs": inputs}
