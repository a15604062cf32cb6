"""ModelSpec + weights -> an ONNX graph, traced with batch and sequence symbolic, and checked."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import DeduplicateInitializersPass

from reformer_export.artifact.decoding import (
    CAPACITY,
    DECODE_INPUT_NAMES,
    DECODE_OUTPUT,
    LENGTHS_INPUT,
    NEW_LENGTHS_INPUT,
    cache_tensors,
)
from reformer_export.contract import DEFAULT_OPSET, DOMAIN, LINEAR, SCOPES_KEY, check_opset
from reformer_export.errors import ExportError
from reformer_export.export.capture import capture
from reformer_export.export.functions import attach_function_bodies, custom_translation_table
from reformer_export.export.int4_weights import pack_int4_weights
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling import TORCH_DTYPES, CanonicalDecoder, CanonicalModel
from reformer_export.spec import MAX_DIMENSION, DType, ModelSpec


def trace_model(model: CanonicalModel, dtype: DType, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Trace the canonical model in `dtype` into ONNX: custom nodes, their function bodies, symbolic axes.

    Raises:
        ExportError: an axis that must be symbolic became a number.
    """
    spec = model.spec
    axes = {0: _batch(), 1: _sequence(spec)}
    mask = torch.ones(2, min(3, spec.max_length), dtype=torch.int64)
    example = mask.clone()
    if spec.takes_vectors:
        example = torch.ones(*mask.shape, spec.hidden_size, dtype=TORCH_DTYPES[dtype])
    names = list(spec.input_names), list(spec.output_names)
    graph = _trace(model, (example, mask), dict.fromkeys(spec.input_names, axes), names, opset)
    return _share_layers(graph, spec)


def _share_layers(graph: ir.Model, spec: ModelSpec) -> ir.Model:
    """`graph` with the weights that layers have in common once."""
    if isinstance(spec, LucidrainsSpec) and spec.ties_layers:
        DeduplicateInitializersPass(size_limit=MAX_DIMENSION**2)(graph)
    return graph


def trace_decoder(model: CanonicalDecoder, dtype: DType, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Trace the decoder of a model in `dtype`: batch, new tokens and the caches' capacity symbolic.

    Raises:
        ExportError: an axis that must be symbolic became a number.
    """
    spec = model.spec
    caches = cache_tensors(spec, dtype)
    types = TORCH_DTYPES | {"int32": torch.int32}
    batch, capacity = _batch(), torch.export.Dim(CAPACITY, min=1, max=max(spec.max_length, 2))
    shapes = [each.shape_of(2, min(5, spec.max_length)) for each in caches]
    held = [torch.zeros(shape, dtype=types[each.dtype]) for shape, each in zip(shapes, caches, strict=True)]
    lengths = torch.zeros(2, dtype=torch.int32)
    ids = torch.ones(2, min(3, spec.max_length), dtype=torch.int64)
    examples = (ids, lengths, lengths + 1, tuple(held))
    axes = {
        "input_ids": {0: batch, 1: _sequence(spec)},
        LENGTHS_INPUT: {0: batch},
        NEW_LENGTHS_INPUT: {0: batch},
        "past": tuple(
            {0: batch} | {1 + i: capacity for i, size in enumerate(each.shape) if size == CAPACITY}
            for each in caches
        ),
    }
    inputs = [*DECODE_INPUT_NAMES, *(each.input for each in caches)]
    outputs = [DECODE_OUTPUT, *(each.output for each in caches)]
    return _share_layers(_trace(model, examples, axes, (inputs, outputs), opset), spec)


def _batch() -> Any:
    return torch.export.Dim("batch", min=1)


def _sequence(spec: ModelSpec) -> Any:
    return torch.export.Dim("sequence", min=1, max=max(spec.max_length, 2))


def _trace(
    model: torch.nn.Module,
    examples: tuple[Any, ...],
    axes: dict[str, Any],
    names: tuple[list[str], list[str]],
    opset: int,
) -> ir.Model:
    """`model` on `examples`; `names` of its inputs and outputs; `axes` that are symbolic, by argument."""
    check_opset(opset)
    options: dict[str, Any] = {
        "dynamo": True,
        "opset_version": opset,
        "input_names": names[0],
        "output_names": names[1],
        "dynamic_shapes": axes,
        "custom_translation_table": custom_translation_table(),
        "verbose": False,
    }
    with quiet_exporter():
        program = None
        with suppress(torch.onnx.OnnxExporterError):  # of a version that lacks an operator's translation
            program = torch.onnx.export(capture(model, examples, axes), (), **options)
        program = program or torch.onnx.export(model, examples, **options)
    assert program is not None
    graph_model = program.model
    keep_module_names_only(graph_model)
    attach_function_bodies(graph_model)
    pack_int4_weights(graph_model)
    tensors, tensor_axes = _flatten(examples), _flatten(tuple(axes.values()))
    _check_axes(
        graph_model,
        [
            [symbols[i].__name__ if i in symbols else size for i, size in enumerate(tensor.shape)]
            for tensor, symbols in zip(tensors, tensor_axes, strict=True)
        ],
    )
    return graph_model


def _flatten(values: tuple[Any, ...]) -> list[Any]:
    return [leaf for value in values for leaf in (value if isinstance(value, tuple) else (value,))]


def keep_module_names_only(model: ir.Model) -> None:
    """Drop the exporter's notes, in which are this machine's paths, but for the modules of each node."""
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        kept = node.metadata_props.get(SCOPES_KEY)
        node.metadata_props.clear()
        if kept is not None:
            node.metadata_props[SCOPES_KEY] = kept
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter's notes on packages, axis names and empty lists that concern no user of ours.

    Some versions of onnxscript print theirs to standard output, which is a command's own.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "torch.fx.experimental")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_axes(model: ir.Model, expected: list[list[str | int]]) -> None:
    """Inputs have the axes `expected`, outputs keep `batch`, and so does every custom node's output, but for
    rows of several sequences."""
    for value, axes in zip(model.graph.inputs, expected, strict=True):
        if _axes(value) != axes:
            raise _fixed_axis(f"graph input {value.name}", value, str(axes))
    custom = [node for node in model.graph if node.domain == DOMAIN]
    values = [value for node in custom if node.op_type != LINEAR.name for value in node.outputs]
    for value in [*model.graph.outputs, *values]:
        if _axes(value)[:1] != ["batch"]:
            raise _fixed_axis(f"graph value {value.name}", value, "the first to be 'batch'")
    for node in custom:
        if node.op_type == LINEAR.name and isinstance(_axes(node.outputs[0])[0], int):
            raise _fixed_axis(f"graph value {node.outputs[0].name}", node.outputs[0], "the first to be free")


def _fixed_axis(where: str, value: ir.Value, expected: str) -> ExportError:
    fix = "the exporter fixed an axis, please report the versions that `reformer-export doctor` prints"
    return ExportError(where, f"axes {_axes(value)}", expected, fix)


def _axes(value: ir.Value) -> list[str | int]:
    return [d.value or "?" if isinstance(d, ir.SymbolicDim) else d for d in value.shape or ()]
