"""What Triton's config.pbtxt says of each model, as values (text_format.py writes them).

Sources: Triton's model_config.proto; the README of each backend's repository (triton-inference-server/
onnxruntime_backend, tensorrt_backend, python_backend) and, for what those leave out, src/onnxruntime.cc and
src/instance_state.cc there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Final

from reformer_export.artifact.engine_record import EngineRecord
from reformer_export.artifact.manifest import Manifest
from reformer_export.artifact.signature import SEQUENCE, GraphTensor
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.serving.triton.options import GENERATE_SUFFIX, TritonRequest
from reformer_export.serving.triton.text_format import Word

Message = dict[str, Any]

RUNTIME_PARAMETER: Final = "runtime_options"
GENERATION_LIMITS: Final = {"max_streams": "streams", "max_cache": "max_cache", "max_waiting": "max_queue"}
"""Of a scheduler of generations: parameters of config.pbtxt, and the fields of `TritonRequest` with them."""
PLAN_NAME: Final = "model.plan"

TYPES: Final = {
    **{name: Word(f"TYPE_{name.upper()}") for name in ("bool", "int8", "int16", "int32", "int64")},
    **{name: Word(f"TYPE_{name.upper()}") for name in ("uint8", "uint16", "uint32", "uint64")},
    **{"float16": Word("TYPE_FP16"), "float32": Word("TYPE_FP32"), "float64": Word("TYPE_FP64")},
    "bfloat16": Word("TYPE_BF16"),
}
"""By a manifest's names."""
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
    "stop": (STRING, -1),
}
"""Type and size of each; all are optional, but for one of the first two, which are the prompt. The others are
fields of `GenerationOptions` (temperatures are float64, so that a draw is the same as here), and texts before
which a text ends."""

GENERATE_OUTPUTS: Final[dict[str, tuple[Word, int]]] = {
    "token_id": (INT64, -1),
    "text_output": (STRING, 1),
    "stop_reason": (STRING, 1),
}
"""Of every response: a token, none in the last one; the text that it completes; why it ended, or ""."""


def has_rows(manifest: Manifest) -> bool:
    """Whether every input and output has its rows first, so that Triton may join requests."""
    return manifest.signature.batch is not None


def python_config(manifest: Manifest, request: TritonRequest) -> Message:
    """The model that answers requests of unlike lengths together."""
    message: Message = {
        "name": request.name,
        "backend": "python",
        **_tensors(manifest, request.max_batch_size, as_float32=True),
        **_batching(manifest, request),
        "instance_group": [_instances(request)],
        "parameters": [_runtime_parameter(request)],
    }
    if has_rows(manifest):
        for each in message["input"]:
            each["allow_ragged_batch"] = True
    if not manifest.is_custom:
        message["input"][1]["optional"] = True
    return message | _warm_up(manifest, None, manifest.inputs[:1], as_float32=True)


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
            *(_parameter(key, str(getattr(request, field))) for key, field in GENERATION_LIMITS.items()),
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
        **_tensors(manifest, request.max_batch_size),
        **_batching(manifest, request),
        "instance_group": [_instances(request)],
        # As this package's own sessions: a pattern's block stands beside what the arena holds already.
        "parameters": [_parameter("enable_mem_pattern", "0")],
        **_warm_up(manifest, None, manifest.inputs),
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
        **_tensors(manifest, batch),
        **_batching(manifest, request),
        "instance_group": [{"count": request.instances, "kind": Word("KIND_GPU"), "profile": profiles}],
        **_warm_up(manifest, engine.profiles[0].optimum[-1], manifest.inputs),
    }


def _tensors(manifest: Manifest, max_batch_size: int, as_float32: bool = False) -> Message:
    """What goes in and out, a row at a time where there are rows; `as_float32`: floats of 16 bits so."""

    def describe(tensor: GraphTensor) -> Message:
        dims = list(tensor.sizes({}))[has_rows(manifest) :]
        described: Message = {"name": tensor.name, "data_type": _type_of(tensor, as_float32)}
        if dims:
            return described | {"dims": dims}
        # Triton wants a dimension; of rows it takes it off again (model_config.proto, ModelTensorReshape).
        return described | {"dims": [1]} | ({"reshape": {"shape": []}} if has_rows(manifest) else {})

    return {
        "max_batch_size": max_batch_size if has_rows(manifest) else 0,
        "input": [describe(each) for each in manifest.inputs],
        "output": [describe(each) for each in manifest.outputs],
    }


def _type_of(tensor: GraphTensor, as_float32: bool) -> Word:
    return TYPES["float32" if as_float32 and tensor.dtype in ("float16", "bfloat16") else tensor.dtype]


def _batching(manifest: Manifest, request: TritonRequest) -> Message:
    if not has_rows(manifest):
        return {}
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


def _warm_up(
    manifest: Manifest, length: int | None, inputs: Sequence[GraphTensor], as_float32: bool = False
) -> Message:
    """A sequence of zeros, which every vocabulary has (random ids would lie outside), of `length` tokens,
    else of as few as the model takes. Of a custom module nobody knows what it takes: it has none."""
    if manifest.is_custom:
        return {}
    length = length or manifest.spec.shortest
    data = {
        each.name: {
            "data_type": _type_of(each, as_float32),
            "dims": list(each.sizes({SEQUENCE: length})[1:]),
            "zero_data": True,
        }
        for each in inputs
    }
    warm_up = [{"key": name, "value": value} for name, value in data.items()]
    return {"model_warmup": [{"name": "zeros", "batch_size": 1, "inputs": warm_up}]}
