"""A user's own module -> the files of an artifact, in a folder that the caller moves into place."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import DeduplicateInitializersPass
from torch import nn

from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import EXTERNAL_DATA_NAME, MODEL_NAME, Manifest, write_manifest
from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.live import describe_module
from reformer_export.contract import DEFAULT_OPSET, DOMAIN, VERSION
from reformer_export.custom_spec import custom_spec
from reformer_export.errors import ExportError, InputError, one_line
from reformer_export.export.capture import decompose_again, keep_as_captured
from reformer_export.export.exporter import EXTERNAL_DATA_THRESHOLD, library_versions
from reformer_export.export.functions import attach_function_bodies, custom_translation_table
from reformer_export.export.graph import keep_module_names_only, quiet_exporter
from reformer_export.export.model_file import save_model, weights_nbytes
from reformer_export.export.module_check import check_other_sizes
from reformer_export.export.module_copy import ModuleCopy, ReplacedLayer
from reformer_export.export.module_faults import rename
from reformer_export.export.module_trace import TracedModule, trace_module, uses_of
from reformer_export.export.module_values import ModuleInputs, name_inputs
from reformer_export.spec import MAX_DIMENSION, DType


@dataclass(frozen=True)
class ModuleOptions:
    """How a module is exported.

    Attributes:
        dynamic_shapes: by input, the symbolic axes as torch.export takes them; None for all that the module
            leaves open.
        output_names: of the tensors of the result; None for those that the result has.
        hash_seed: seed of the first layer that has none; the next one has the next.
        max_length: greatest size of the dimension `sequence`, tokens.
        opset: ONNX opset.
    """

    dynamic_shapes: Mapping[str, Any] | None = None
    output_names: Sequence[str] | None = None
    hash_seed: int | None = None
    max_length: int | None = None
    opset: int = DEFAULT_OPSET


def write_module(
    module: nn.Module,
    example_inputs: Any,
    folder: Path,
    options: ModuleOptions,
    compare: Callable[[Manifest], dict[str, Any]] | None = None,
) -> Manifest:
    """Export `module` into `folder`: model.onnx, and manifest.json at last.

    `compare` says what the manifest records of a comparison with the module, and may raise to refuse it.

    Raises:
        CheckpointError: a layer of the module is not what its class is.
        ExportError: the rest cannot be traced.
        InputError: the example inputs, or the options, do not fit the module.
        OSError: the disk refuses a write.
    """
    inputs = name_inputs(module, example_inputs)
    copy, traced = _trace(module, inputs, options)
    traced = check_other_sizes(copy.module, traced, inputs)
    graph = _convert(traced, options.opset)
    is_large = weights_nbytes(graph) > EXTERNAL_DATA_THRESHOLD
    save_model(graph, folder / MODEL_NAME, EXTERNAL_DATA_NAME if is_large else None)
    manifest = _describe(module, copy, traced, graph, options, folder)
    if compare is not None:
        manifest = dataclasses.replace(manifest, parity=compare(manifest))
    write_manifest(folder, manifest)
    return manifest


def _trace(
    module: nn.Module, inputs: ModuleInputs, options: ModuleOptions
) -> tuple[ModuleCopy, TracedModule]:
    """The copy with layers that have room for the longest sequence that can reach them, and its trace."""
    copy = ModuleCopy(module, inputs)
    load = LoadOptions(max_length=options.max_length)
    longest = options.max_length or max(each.longest for each in copy.observed.values())
    while True:
        copy.replace(longest, load, options.hash_seed or 0)
        traced = trace_module(
            copy.module, inputs, options.dynamic_shapes, options.output_names, options.max_length
        )
        needed = _longest_without_room(copy, traced)
        if needed == 0:
            return copy, traced
        longest = needed


def _longest_without_room(copy: ModuleCopy, traced: TracedModule) -> int:
    """Tokens: the most that a layer is given whose rotations are too few for it; 0 where there is none."""
    found = [0]
    for layer, node in uses_of(traced.program, copy.module, copy.replaced):
        if layer.use.family != "lucidrains" or not layer.use.rotation_columns:
            continue
        longest = traced.longest(node.meta["val"].shape[3])
        if longest is None:
            expected = "the greatest length, for which its random rotations are drawn"
            fix = "give `max_length`, or a torch.export.Dim with max in `dynamic_shapes`"
            raise InputError("max_length", f"none for module {layer.path or 'itself'}", expected, fix)
        if longest > 2 * layer.spec.chunk_length * layer.use.rotation_columns:
            found.append(longest)
    return max(found)


def _convert(traced: TracedModule, opset: int) -> ir.Model:
    """The trace in ONNX, with the functions that its nodes need and its own names."""
    options: dict[str, Any] = {
        "dynamo": True,
        "opset_version": opset,
        "input_names": [each.name for each in traced.inputs],
        "output_names": [each.name for each in traced.outputs],
        "custom_translation_table": custom_translation_table(),
        "verbose": False,
    }
    try:
        with quiet_exporter():
            program = None
            with suppress(torch.onnx.OnnxExporterError):  # an operator that is to be decomposed first
                program = torch.onnx.export(keep_as_captured(traced.program), (), **options)
            program = program or torch.onnx.export(decompose_again(traced.program), (), **options)
    except Exception as error:  # the exporter's own of many kinds
        fix = "change what it does there, or keep it outside of the module that is exported"
        raise ExportError("module", f"'{one_line(error)}' from torch.onnx", "what ONNX has", fix) from error
    assert program is not None
    graph = program.model
    keep_module_names_only(graph)
    attach_function_bodies(graph)
    DeduplicateInitializersPass(size_limit=MAX_DIMENSION**2)(graph)
    _name_axes(graph, traced.symbols)
    return graph


def _name_axes(model: ir.Model, symbols: Mapping[str, str]) -> None:
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_name_axis(size, symbols) for size in value.shape])


def _name_axis(size: ir.SymbolicDim | int, symbols: Mapping[str, str]) -> ir.SymbolicDim | int:
    """An axis by its own name; a number where tracing found that it can be nothing else."""
    if not isinstance(size, ir.SymbolicDim) or size.value is None:
        return size
    name = rename(str(size.value), symbols)
    return int(name) if name.isdecimal() else ir.SymbolicDim(name)


def _describe(
    module: nn.Module,
    copy: ModuleCopy,
    traced: TracedModule,
    graph: ir.Model,
    options: ModuleOptions,
    folder: Path,
) -> Manifest:
    used = [layer for layer, _ in uses_of(traced.program, copy.module, copy.replaced)]
    calls: collections.Counter[str] = collections.Counter()
    uses, layers = [], []
    for layer in used:
        uses.append(dataclasses.replace(layer.use, call=calls[layer.path]))
        layers.append(layer.spec)
        calls[layer.path] += 1
    spec = custom_spec(traced.inputs, traced.outputs, traced.dimensions, tuple(layers), tuple(uses))
    operators = {node.op_type for node in graph.graph if node.domain == DOMAIN}
    return Manifest(
        spec=spec,
        dtype=_dtype(copy),
        opset=options.opset,
        operators=dict.fromkeys(sorted(operators), VERSION),
        source={"kind": "module", "class": type(module).__qualname__},
        rotations_sha256=_rotations_sha256(used),
        versions=library_versions(),
        files={path.name: sha256_of_file(path) for path in sorted(folder.iterdir())},
    )


def _dtype(copy: ModuleCopy) -> DType:
    """The type of the replaced layers' weights."""
    types = {layer.dtype for layer in copy.layers}
    if len(types) > 1:
        got, expected = f"layers of {' and '.join(sorted(types))}", "one type for all of them"
        raise ExportError(describe_module("", copy.module), got, expected, "convert them")
    return types.pop()


def _rotations_sha256(layers: Sequence[ReplacedLayer]) -> dict[str, str]:
    digests = {}
    for index, layer in enumerate(layers):
        if layer.use.rotation_columns:
            rotations = layer.attention.get_buffer("rotations").contiguous().numpy()
            digests[str(index)] = hashlib.sha256(rotations.tobytes()).hexdigest()
    return digests
