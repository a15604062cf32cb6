"""A graph input that says how many rounds of hashing a run uses.

Each LSH layer's rotations are cut to their first rounds before the hash, so that hashing, sorting and
attention all do less: the operators take the number of rounds from their inputs' shapes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from reformer_export.artifact.decoding import BUCKET_CACHE, RECORD_CACHE
from reformer_export.artifact.manifest import RuntimeNumHashes
from reformer_export.contract import (
    DOMAIN,
    LSH_BUCKETS,
    LSH_BUCKETS_STEP,
    NUM_HASHES_INPUT,
    ROUND_AXIS,
)
from reformer_export.errors import InputError
from reformer_export.spec import LSHAttentionSpec, ModelSpec


def runtime_num_hashes_of(spec: ModelSpec) -> RuntimeNumHashes:
    """The choice of up to the model's own number of hashes; InputError when there is nothing to choose."""
    rounds = {layer.num_hashes for layer in spec.layers if isinstance(layer, LSHAttentionSpec)}
    if len(rounds) != 1:
        got = "a model without LSH layers" if not rounds else f"layers with {sorted(rounds)} hashes"
        raise InputError("max_hashes", got, "LSH layers with one number of hashes", "leave `max_hashes` out")
    return RuntimeNumHashes(rounds.pop())


def add_num_hashes_input(model: ir.Model, runtime_num_hashes: RuntimeNumHashes) -> None:
    """Add the input `num_hashes` int64 [1] to `model`, in place, and a Slice before every LSHBuckets and its
    step.

    The input has an initialiser of its name, `max_hashes`, which a run may override and need not.
    """
    graph = model.graph
    count = _add_constant(graph, NUM_HASHES_INPUT, runtime_num_hashes.max_hashes)
    graph.inputs.append(count)
    first, axis = (
        _add_constant(graph, f"{NUM_HASHES_INPUT}.{name}", value)
        for name, value in (("first", 0), ("axis", ROUND_AXIS))
    )
    names = (LSH_BUCKETS.name, LSH_BUCKETS_STEP.name)
    hashes = [node for node in graph if node.domain == DOMAIN and node.op_type in names]
    for index, node in enumerate(hashes):
        rotations = node.inputs[1]
        assert rotations is not None
        cut = ir.Node("", "Slice", [rotations, first, count, axis], name=f"first_rounds.{index}")
        cut.outputs[0].name = f"first_rounds.{index}"
        cut.outputs[0].type = rotations.type
        cut.outputs[0].shape = _with_symbolic_rounds(rotations)
        graph.insert_before(node, cut)
        node.replace_input_with(1, cut.outputs[0])
        for output in node.outputs[:2]:  # a step's third are records
            output.shape = _with_symbolic_rounds(output)
            _relax_consumers(output, runtime_num_hashes.max_hashes)
    for value in (*graph.inputs, *graph.outputs):
        if value.name is not None and value.name.endswith(BUCKET_CACHE):
            value.shape = _with_symbolic_rounds(value)
        elif value.name is not None and value.name.endswith(RECORD_CACHE):
            value.shape = _with_symbolic_rounds(value, RECORD_CACHE)


def _relax_consumers(value: ir.Value, max_hashes: int) -> None:
    """Let what standard operators compute from buckets say no more that it has `max_hashes` rounds: a runtime
    takes such words for true."""
    waiting = [value]
    while waiting:
        for node in waiting.pop().consumers():
            for output in node.outputs if node.domain == "" else ():
                if output.shape is None or len(output.shape) <= ROUND_AXIS:
                    continue
                is_cut = node.op_type == "Slice" and output.shape[ROUND_AXIS] != max_hashes
                if is_cut or output.shape[ROUND_AXIS] == max_hashes:
                    output.shape = _with_symbolic_rounds(output, None if is_cut else NUM_HASHES_INPUT)
                    waiting.append(output)


def _add_constant(graph: ir.Graph, name: str, value: int) -> ir.Value:
    tensor = ir.tensor(np.array([value], np.int64), name=name)
    constant = ir.Value(
        name=name, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64), const_value=tensor
    )
    graph.register_initializer(constant)
    return constant


def _with_symbolic_rounds(value: ir.Value, name: str | None = NUM_HASHES_INPUT) -> ir.Shape:
    assert value.shape is not None
    dims = list(value.shape)
    dims[ROUND_AXIS] = ir.SymbolicDim(name)
    return ir.Shape(dims)
