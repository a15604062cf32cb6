"""From the torch custom operators to nodes of domain `reformer`, and their ONNX function bodies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Sequence  # noqa: UP035 - onnxscript on Python 3.10 needs this Sequence

import onnx_ir as ir
import torch
from onnxscript import FLOAT, INT32, INT64, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from reformer_export.ops import DOMAIN, VERSION, LocalAttention, LSHAttention, LSHBuckets
from reformer_export.ops.function_body import function_body

_reformer = Opset(DOMAIN, VERSION)
_translation = Opset(f"{DOMAIN}.translation", 1)

PLUGIN_ATTRIBUTES: Final = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION)}
"""With `plugin_namespace` on the node TensorRT prefers our plugin to the function body."""


# The exporter wants typed inputs and results here; it does not check them, so FLOAT stands for T.


@script(_translation, default_opset=op)
def _lsh_buckets(
    query_key: FLOAT, rotations: FLOAT, attention_mask: INT32, num_heads: int, num_buckets: Sequence[int]
) -> INT32:
    return _reformer.LSHBuckets(
        query_key,
        rotations,
        attention_mask,
        num_heads=num_heads,
        num_buckets=num_buckets,
        plugin_namespace="reformer",
        plugin_version="1",
    )


@script(_translation, default_opset=op)
def _lsh_attention(
    query_key: FLOAT,
    value: FLOAT,
    buckets: INT32,
    attention_mask: INT32,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: int,
    padding_multiple: int,
    padding_threshold: int,
    key_norm_epsilon: float,
) -> FLOAT:
    return _reformer.LSHAttention(
        query_key,
        value,
        buckets,
        attention_mask,
        num_heads=num_heads,
        chunk_length=chunk_length,
        num_chunks_before=num_chunks_before,
        num_chunks_after=num_chunks_after,
        is_causal=is_causal,
        padding_multiple=padding_multiple,
        padding_threshold=padding_threshold,
        key_norm_epsilon=key_norm_epsilon,
        plugin_namespace="reformer",
        plugin_version="1",
    )


@script(_translation, default_opset=op)
def _local_attention(
    query: FLOAT,
    key: FLOAT,
    value: FLOAT,
    attention_mask: INT32,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: int,
    padding_multiple: int,
    padding_threshold: int,
) -> FLOAT:
    return _reformer.LocalAttention(
        query,
        key,
        value,
        attention_mask,
        num_heads=num_heads,
        chunk_length=chunk_length,
        num_chunks_before=num_chunks_before,
        num_chunks_after=num_chunks_after,
        is_causal=is_causal,
        padding_multiple=padding_multiple,
        padding_threshold=padding_threshold,
        plugin_namespace="reformer",
        plugin_version="1",
    )


@script(_translation, default_opset=op)
def _divide_positions(position: INT64, stride: INT64) -> INT64:
    """Floor division of what is never negative, in integers: the exporter's own goes through float32, where a
    runtime that divides with an approximate reciprocal may end one below."""
    return op.Div(position, stride)


def custom_translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` writes for each custom operator: one node of domain `reformer`; and for the
    integer division of positions."""
    operators = torch.ops.reformer
    return {
        operators.lsh_buckets.default: _lsh_buckets,
        operators.lsh_attention.default: _lsh_attention,
        operators.local_attention.default: _local_attention,
        torch.ops.aten.floor_divide.default: _divide_positions,
    }


def attach_function_bodies(model: ir.Model) -> None:
    """Store the function body of every `reformer` operator that the graph uses in the model."""
    opset = model.opset_imports[""]
    assert opset is not None
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for operator in (LSHBuckets, LSHAttention, LocalAttention):
        if operator.name not in used:
            continue
        function = ir.serde.deserialize_function(function_body(operator, opset))
        model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = VERSION
