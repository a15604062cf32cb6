"""ModelSpec + weights -> an ONNX graph, traced with batch and sequence symbolic, and checked."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import DeduplicateInitializersPass

from reformer_export.contract import DEFAULT_OPSET, DOMAIN, INPUT_NAMES, SCOPES_KEY, check_opset
from reformer_export.errors import ExportError
from reformer_export.export.functions import attach_function_bodies, custom_translation_table
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling import CanonicalModel
from reformer_export.spec import MAX_DIMENSION

PROTOBUF_LIMIT_BYTES: Final = 2**31 - 1


def trace_model(model: CanonicalModel, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Trace the canonical model into ONNX: custom nodes, their function bodies, symbolic axes.

    Raises:
        ExportError: an axis that must be symbolic became a number.
    """
    check_opset(opset)
    spec = model.spec
    batch = torch.export.Dim("batch", min=1)
    sequence = torch.export.Dim("sequence", min=1, max=max(spec.max_length, 2))
    axes = {0: batch, 1: sequence}
    example = torch.ones(2, min(3, spec.max_length), dtype=torch.int64)
    with _quiet_exporter():
        program = torch.onnx.export(
            model,
            (example, example.clone()),
            dynamo=True,
            opset_version=opset,
            input_names=list(INPUT_NAMES),
            output_names=list(spec.output_names),
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            custom_translation_table=custom_translation_table(),
            verbose=False,
        )
    assert program is not None
    graph_model = program.model
    _keep_module_names_only(graph_model)
    if isinstance(spec, LucidrainsSpec) and spec.ties_layers:
        DeduplicateInitializersPass(size_limit=MAX_DIMENSION**2)(graph_model)
    attach_function_bodies(graph_model)
    _check_axes(graph_model)
    return graph_model


def _keep_module_names_only(model: ir.Model) -> None:
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
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's notes on packages and axis names that concern no user of ours."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "torch.fx.experimental")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_axes(model: ir.Model) -> None:
    """Inputs are [batch, sequence], outputs keep `batch`, and so does every custom node's output."""
    for value in model.graph.inputs:
        if _axes(value) != ["batch", "sequence"]:
            raise ExportError(
                f"graph input {value.name}",
                f"axes {_axes(value)}",
                "['batch', 'sequence']",
                "the exporter fixed an axis, please report the versions that `reformer-export doctor` prints",
            )
    custom = [value for node in model.graph if node.domain == DOMAIN for value in node.outputs]
    for value in [*model.graph.outputs, *custom]:
        axes = _axes(value)
        if not axes or axes[0] != "batch":
            raise ExportError(
                f"graph value {value.name}",
                f"axes {axes}",
                "the first to be 'batch'",
                "the exporter fixed an axis, please report the versions that `reformer-export doctor` prints",
            )


def _axes(value: ir.Value) -> list[str | int]:
    return [d.value or "?" if isinstance(d, ir.SymbolicDim) else d for d in value.shape or ()]


def save_model(model: ir.Model, path: Path, external_data: str | None) -> None:
    """Write `model` to `path` (weights to the file `external_data` beside it, if given), and check it."""
    ir.save(model, path, external_data=external_data)
    try:
        onnx.checker.check_model(str(path), full_check=external_data is None)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            path.name,
            f"a graph that the ONNX checker refuses ({error})",
            "a valid one",
            "please report the versions that `reformer-export doctor` prints",
        ) from error


def weights_nbytes(model: ir.Model) -> int:
    """Bytes of all initialisers."""
    return sum(_nbytes(value.const_value) for value in model.graph.initializers.values())


def _nbytes(tensor: Any) -> int:
    return 0 if tensor is None else int(tensor.nbytes)
