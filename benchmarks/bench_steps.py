"""One new token of a layer's attention against its cache, over context length: microseconds a step.

    python -m benchmarks.bench_steps [--threads 1]

The crime shape (2 heads of 64, chunks of 64, 1 hash, buckets of 64 x 128), one sequence, the native kernels
in ONNX Runtime on caches that are bound as inputs and outputs. Every context is a graph of LAYERS such nodes
with caches of their own, so that the time of a call, which is not theirs, is shared as in a model. Beside it,
in turns, so that a step finds little of its cache in the processor's: the whole operator over the same
tokens. The step's output is compared with the whole's last row first.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Final

import click
import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

from benchmarks.report import Row, describe_machine, describe_run, print_table, write_results
from reformer_export.contract import (
    DOMAIN,
    LOCAL_ATTENTION_STEP,
    LSH_ATTENTION_STEP,
    NO_SELF_LOGIT,
    SELF_LOGIT,
    VERSION,
    Operator,
)
from reformer_export.libraries.operators import find_native_library
from reformer_export.measure.timing import time_in_turns
from reformer_export.ops.torch_operator import cpu_kernels

LAYERS: Final = 3
HEADS: Final = 2
HEAD_SIZE: Final = 64
CHUNK: Final = 64
BUCKETS: Final = 64 * 128
CONTEXTS: Final = (1024, 16384, 65536)
TOLERANCE: Final = 5e-6
"""Of the operators' tests, float32."""

Arrays = dict[str, np.ndarray[Any, Any]]


def make_attributes(operator: Operator) -> dict[str, Any]:
    attributes = {"num_heads": HEADS, "chunk_length": CHUNK, "num_chunks_before": 1, "num_chunks_after": 0}
    attributes |= {"is_causal": 1, "padding_multiple": CHUNK, "padding_threshold": CHUNK}
    if operator is LSH_ATTENTION_STEP:
        return attributes | {"key_norm_epsilon": 1e-6, "self_logit": SELF_LOGIT, "dense_threshold": CHUNK}
    return attributes | {"self_logit": NO_SELF_LOGIT, "wraps": 1}


def draw_sequence(operator: Operator, length: int, seed: int) -> Arrays:
    """The whole operator's inputs over `length` tokens, less the mask."""
    rng = np.random.default_rng(seed)
    names = ("query_key", "value") if operator is LSH_ATTENTION_STEP else ("query", "key", "value")
    shape = (1, length, HEADS * HEAD_SIZE)
    tensors = {name: rng.standard_normal(shape, dtype=np.float32) for name in names}
    if operator is LSH_ATTENTION_STEP:
        tensors["buckets"] = rng.integers(0, BUCKETS, (1, HEADS, 1, length), dtype=np.int32)
    return tensors


def cut_step(operator: Operator, sequence: Arrays, length: int) -> Arrays:
    """The step's inputs whose new token is the sequence's last."""
    inputs: Arrays = {}
    for name, value in sequence.items():
        inputs["new_buckets" if name == "buckets" else name] = np.ascontiguousarray(
            value[..., -1:] if name == "buckets" else value[:, -1:]
        )
    for name in operator.inputs:
        if not name.startswith("past_"):
            continue
        cache = sequence[name.removeprefix("past_")].copy()
        if operator is LOCAL_ATTENTION_STEP:
            ring = 2 * CHUNK
            slots = np.arange(length - 1 - ring, length - 1)
            cache = np.ascontiguousarray(cache[:, slots[np.argsort(slots % ring)]])
        inputs[name] = cache
    inputs |= {"lengths": np.array([length - 1], np.int32), "new_lengths": np.array([1], np.int32)}
    return {name: inputs[name] for name in operator.inputs}


def bind_layers(operator: Operator, layers: list[Arrays], threads: int) -> tuple[Callable[[], Any], Any]:
    """(one step of every layer, the first layer's output)."""
    nodes, declared, outputs = [], [], []
    for index, inputs in enumerate(layers):
        nodes.append(
            helper.make_node(
                operator.name,
                [f"{name}{index}" for name in operator.inputs],
                [f"{name}{index}" for name in operator.outputs],
                domain=DOMAIN,
                **make_attributes(operator),
            )
        )
        for name, value in inputs.items():
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            declared.append(helper.make_tensor_value_info(f"{name}{index}", kind, value.shape))
        for name in operator.outputs:
            kind = TensorProto.INT32 if "buckets" in name else TensorProto.FLOAT
            outputs.append(helper.make_tensor_value_info(f"{name}{index}", kind, None))
    graph = helper.make_graph(nodes, "steps", declared, outputs)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options: Any = ort.SessionOptions()
    options.intra_op_num_threads = threads
    library = find_native_library("on")
    assert library is not None
    options.register_custom_ops_library(str(library.path))
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    binding = session.io_binding()
    results = []
    for index, inputs in enumerate(layers):
        result = np.zeros_like(inputs[operator.inputs[0]])
        results.append(result)
        for name, value in inputs.items():
            shape = list(value.shape)
            binding.bind_input(f"{name}{index}", "cpu", 0, value.dtype, shape, value.ctypes.data)
        present = [value for name, value in inputs.items() if name.startswith("past_")]
        for name, value in zip(operator.outputs, (result, *present), strict=True):
            shape = list(value.shape)
            binding.bind_output(f"{name}{index}", "cpu", 0, value.dtype, shape, value.ctypes.data)
    return lambda: session.run_with_iobinding(binding), results[0]


def whole_operator(operator: Operator, sequence: Arrays) -> Callable[[], torch.Tensor]:
    kernels = cpu_kernels()
    assert kernels is not None
    tensors = [torch.from_numpy(value) for value in sequence.values()]
    tensors.append(torch.ones(tensors[0].shape[:2], dtype=torch.int32))
    run = kernels.lsh_attention if operator is LSH_ATTENTION_STEP else kernels.local_attention
    return lambda: run(*tensors, *make_attributes(operator).values())


def time_context(operator: Operator, length: int, threads: int, repeats: int) -> dict[str, float]:
    """Seconds: of a layer's step, and of the whole operator."""
    sequences = [draw_sequence(operator, length, seed) for seed in range(LAYERS)]
    layers = [cut_step(operator, sequence, length) for sequence in sequences]
    step, output = bind_layers(operator, layers, threads)
    whole = whole_operator(operator, sequences[0])
    step()
    np.testing.assert_allclose(output[:, -1], whole()[:, -1].numpy(), atol=TOLERANCE, rtol=TOLERANCE)
    seconds = time_in_turns({"step": step, "whole": whole}, repeats, 20)
    return {
        "step": statistics.median(seconds["step"]) / LAYERS,
        "best": min(seconds["step"]) / LAYERS,
        "whole": statistics.median(seconds["whole"]),
    }


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--repeats", type=click.IntRange(3), default=200, show_default=True)
def main(threads: int, repeats: int) -> None:
    torch.set_num_threads(threads)
    rows: list[Row] = []
    data = []
    for operator in (LSH_ATTENTION_STEP, LOCAL_ATTENTION_STEP):
        first = None
        for length in CONTEXTS:
            seconds = time_context(operator, length, threads, repeats)
            first = first or seconds["step"]
            data.append({"operator": operator.name, "tokens": length, **seconds})
            rows.append(
                {
                    "operator": operator.name,
                    "context": f"{length:,}",
                    "us a step": f"{1e6 * seconds['step']:.1f}",
                    "best": f"{1e6 * seconds['best']:.1f}",
                    "x of the first": f"{seconds['step'] / first:.2f}",
                    "whole operator, ms": f"{1e3 * seconds['whole']:.2f}",
                    "whole / step": f"{seconds['whole'] / seconds['step']:,.0f}",
                }
            )
    machine = describe_machine()
    title = f"Steps of attention, {threads} thread{'s' * (threads > 1)}"
    print_table(title, rows)
    results = {"machine": machine, "threads": threads, "results": data}
    write_results(f"steps-{threads}", title, rows, results, [describe_run(machine)])


if __name__ == "__main__":
    main()
