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
from reformer_export.contract import DOMAIN, OPERATORS, VERSION
from reformer_export.export import bodies
from reformer_export.export.bodies.function_body import function_body
from reformer_export.libraries.operators import NativeLibrary, find_native_library
from reformer_export.ops.native_kernels import NativeKernels

Arrays = dict[str, NDArray[Any]]
REFERENCES: dict[str, Callable[..., Any]] = {
    "LSHBuckets": ops.lsh_buckets_reference,
    "LSHAttention": ops.lsh_attention_reference,
    "LocalAttention": ops.local_attention_reference,
    "ResidualNorm": ops.residual_norm_reference,
    "FinalNorm": ops.final_norm_reference,
    "LSHAttentionStep": ops.lsh_attention_step_reference,
    "LocalAttentionStep": ops.local_attention_step_reference,
    "LSHBucketsStep": ops.lsh_buckets_step_reference,
    "Linear": ops.linear_reference,
}
FUNCTIONS = {body.name: body for body in bodies.BODIES}
INPUT_NAMES = {operator.name: operator.inputs for operator in OPERATORS}
OUTPUT_NAMES = {operator.name: list(operator.outputs) for operator in OPERATORS}
OUTPUT_TYPES = {
    "buckets": TensorProto.INT32,
    "present_buckets": TensorProto.INT32,
    "new_buckets": TensorProto.INT32,
    "present_records": TensorProto.INT32,
    "stream_out": TensorProto.FLOAT,
}
"""Of outputs whose type is not T."""
ELEMENT_INPUTS = {"ResidualNorm": "update", "FinalNorm": "update"}
"""The input whose type is T, where it is not the first."""

Results = Any
"""An operator's only output, or the list of its outputs."""


def run_reference(operator: str, inputs: Arrays, attributes: dict[str, Any]) -> Results:
    """The operator's PyTorch reference."""
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return arrays_of(REFERENCES[operator](**tensors, **attributes))


def arrays_of(results: Any) -> Results:
    """Torch's result, a tensor or a tuple of them, as arrays."""
    return results.numpy() if isinstance(results, torch.Tensor) else [tensor.numpy() for tensor in results]


def unwrap(values: list[NDArray[Any]]) -> Results:
    """What a session gave."""
    return values[0] if len(values) == 1 else values


def make_model(
    operator: str, inputs: Arrays, attributes: dict[str, Any], extra: tuple[str, ...] = (), opset: int = 18
) -> Any:
    """One node and its function body, all axes symbolic; `extra` names values inside the body to put out."""
    function = function_body(FUNCTIONS[operator], opset)
    function.output.extend(extra)
    functions = [function]
    if operator in bodies.CALLED:
        functions.insert(0, function_body(FUNCTIONS[bodies.CALLED[operator]], opset))  # evaluators read on
    names = list(inputs)
    node = helper.make_node(
        operator,
        names,
        [*OUTPUT_NAMES[operator], *extra],
        domain=DOMAIN,
        plugin_namespace="reformer",
        plugin_version="1",
        **{k: list(v) if isinstance(v, tuple) else v for k, v in attributes.items() if v != ()},
    )
    node.attribute.extend(
        helper.make_attribute(k, [], attr_type=onnx.AttributeProto.INTS)
        for k, v in attributes.items()
        if v == ()
    )
    declared = []
    for name, value in inputs.items():
        axes = [f"{name}_{axis}" for axis in range(value.ndim)]
        declared.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), axes)
        )
    like = inputs[ELEMENT_INPUTS.get(operator, names[0])]
    outputs = [
        helper.make_tensor_value_info(
            name,
            OUTPUT_TYPES.get(name, helper.np_dtype_to_tensor_dtype(like.dtype)),
            [f"{name}_{axis}" for axis in range(4 if OUTPUT_TYPES.get(name) == TensorProto.INT32 else 3)],
        )
        for name in OUTPUT_NAMES[operator]
    ]
    outputs += [helper.make_tensor_value_info(name, TensorProto.INT64, list("bhrl")) for name in extra]
    graph = helper.make_graph([node], "one_node", declared, outputs)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
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


def run_onnxruntime_body(operator: str, inputs: Arrays, attributes: dict[str, Any]) -> Results:
    """The function body in plain ONNX Runtime."""
    session = open_session(make_model(operator, inputs, attributes).SerializeToString())
    return unwrap(session.run(OUTPUT_NAMES[operator], inputs))


def run_onnx_reference_body(operator: str, inputs: Arrays, attributes: dict[str, Any]) -> Results:
    """The function body in ONNX's own reference evaluator."""
    evaluator = onnx.reference.ReferenceEvaluator(make_model(operator, inputs, attributes))
    return unwrap(evaluator.run(OUTPUT_NAMES[operator], inputs))


def run_native_onnxruntime(
    operator: str, inputs: Arrays, attributes: dict[str, Any], provider: str = "CPUExecutionProvider"
) -> Results:
    """The native library's kernel, registered with ONNX Runtime."""
    session = open_native_session(operator, inputs, attributes, provider)
    return unwrap(session.run(OUTPUT_NAMES[operator], inputs))


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


def run_native_torch(operator: str, inputs: Arrays, attributes: dict[str, Any]) -> Results:
    """The native library's kernel on torch tensors, through its C interface."""
    kernels = NativeKernels(require_native())
    tensors = [torch.from_numpy(value) for value in inputs.values()]
    return arrays_of(getattr(kernels, NATIVE_NAMES[operator])(*tensors, *attributes.values()))


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
    "ResidualNorm": "residual_norm",
    "FinalNorm": "final_norm",
    "LSHAttentionStep": "lsh_attention_step",
    "LocalAttentionStep": "local_attention_step",
    "LSHBucketsStep": "lsh_buckets_step",
    "Linear": "linear",
}
BACKENDS: dict[str, Callable[[str, Arrays, dict[str, Any]], Results]] = {
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
