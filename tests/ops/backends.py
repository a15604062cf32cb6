"""Each way to compute an operator, behind one call, so that the same tests hold for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from reformer_export import ops
from reformer_export.contract import DOMAIN, VERSION
from reformer_export.export import bodies
from reformer_export.export.bodies.function_body import function_body
from reformer_export.libraries.operators import NativeLibrary, find_native_library
from reformer_export.ops.native_kernels import NativeKernels

Arrays = dict[str, NDArray[Any]]
REFERENCES: dict[str, Callable[..., torch.Tensor]] = {
    "LSHBuckets": ops.lsh_buckets_reference,
    "LSHAttention": ops.lsh_attention_reference,
    "LocalAttention": ops.local_attention_reference,
}
FUNCTIONS = {
    "LSHBuckets": bodies.LSHBuckets,
    "LSHAttention": bodies.LSHAttention,
    "LocalAttention": bodies.LocalAttention,
}
INPUT_NAMES = {
    "LSHBuckets": ("query_key", "rotations", "attention_mask"),
    "LSHAttention": ("query_key", "value", "buckets", "attention_mask"),
    "LocalAttention": ("query", "key", "value", "attention_mask"),
}
OUTPUT_TYPES = {"LSHBuckets": TensorProto.INT32, "LSHAttention": None, "LocalAttention": None}


def run_reference(operator: str, inputs: Arrays, attributes: dict[str, Any]) -> NDArray[Any]:
    """The operator's PyTorch reference."""
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return REFERENCES[operator](**tensors, **attributes).numpy()


def make_model(
    operator: str, inputs: Arrays, attributes: dict[str, Any], extra: tuple[str, ...] = (), opset: int = 18
) -> Any:
    """One node and its function body, all axes symbolic; `extra` names values inside the body to put out."""
    function = function_body(FUNCTIONS[operator], opset)
    function.output.extend(extra)
    names = list(inputs)
    node = helper.make_node(
        operator,
        names,
        ["output", *extra],
        domain=DOMAIN,
        plugin_namespace="reformer",
        plugin_version="1",
        **{k: list(v) if isinstance(v, tuple) else v for k, v in attributes.items()},
    )
    declared = []
    for name, value in inputs.items():
        axes = [f"{name}_{axis}" for axis in range(value.ndim)]
        declared.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), axes)
        )
    dtype = OUTPUT_TYPES[operator] or helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    rank = 4 if operator == "LSHBuckets" else 3
    outputs = [helper.make_tensor_value_info("output", dtype, [f"output_{axis}" for axis in range(rank)])]
    outputs += [helper.make_tensor_value_info(name, TensorProto.INT64, list("bhrl")) for name in extra]
    graph = helper.make_graph([node], "one_node", declared, outputs)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


@functools.lru_cache(maxsize=64)
def open_session(
    serialized: bytes,
    library: str | None = None,
    provider: str = "CPUExecutionProvider",
    profile: str | None = None,
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    if library is not None:
        options.register_custom_ops_library(library)
    options.log_severity_level = 3
    return ort.InferenceSession(serialized, options, providers=[provider])


def run_onnxruntime_body(operator: str, inputs: Arrays, attributes: dict[str, Any]) -> NDArray[Any]:
    """The function body in plain ONNX Runtime."""
    session = open_session(make_model(operator, inputs, attributes).SerializeToString())
    return session.run(["output"], inputs)[0]


def run_onnx_reference_body(operator: str, inputs: Arrays, attributes: dict[str, Any]) -> NDArray[Any]:
    """The function body in ONNX's own reference evaluator."""
    evaluator = onnx.reference.ReferenceEvaluator(make_model(operator, inputs, attributes))
    return evaluator.run(["output"], inputs)[0]


def run_native_onnxruntime(
    operator: str, inputs: Arrays, attributes: dict[str, Any], provider: str = "CPUExecutionProvider"
) -> NDArray[Any]:
    """The native library's kernel, registered with ONNX Runtime."""
    session = open_native_session(operator, inputs, attributes, provider)
    return session.run(["output"], inputs)[0]


def open_native_session(
    operator: str,
    inputs: Arrays,
    attributes: dict[str, Any],
    provider: str,
    library: NativeLibrary | None = None,
    profile: str | None = None,
) -> ort.InferenceSession:
    """One node on a native library's kernel in a session of `provider`; `profile` begins a file's name."""
    library = library or require_native()
    model = make_model(operator, inputs, attributes).SerializeToString()
    return open_session(model, str(library.path), provider, profile)


def run_native_torch(operator: str, inputs: Arrays, attributes: dict[str, Any]) -> NDArray[Any]:
    """The native library's kernel on torch tensors, through its C interface."""
    kernels = NativeKernels(require_native())
    tensors = [torch.from_numpy(value) for value in inputs.values()]
    return getattr(kernels, NATIVE_NAMES[operator])(*tensors, *attributes.values()).numpy()


def require_native() -> NativeLibrary:
    """The native library; skips the test where there is none (no compiler or headers at set-up)."""
    library = find_native_library("auto")
    if library is None:
        pytest.skip("no native library: make native says what is missing")
    return library


NATIVE_NAMES = {
    "LSHBuckets": "lsh_buckets",
    "LSHAttention": "lsh_attention",
    "LocalAttention": "local_attention",
}
BACKENDS: dict[str, Callable[[str, Arrays, dict[str, Any]], NDArray[Any]]] = {
    "onnxruntime-body": run_onnxruntime_body,
    "onnx-reference-body": run_onnx_reference_body,
    "native-onnxruntime": run_native_onnxruntime,
    "native-torch": run_native_torch,
}


def random_mask(rng: np.random.Generator, batch: int, length: int) -> NDArray[np.int32]:
    """int32 [batch, length] with holes, and the last row fully masked now and then."""
    mask = (rng.random((batch, length)) < rng.choice([0.5, 0.9, 1.1])).astype(np.int32)
    if batch > 1 and rng.random() < 0.2:
        mask[-1] = 0
    return mask
