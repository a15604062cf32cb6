"""A user's own module, with its layers replaced, traced by torch.export with symbolic sizes."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any, Final

import sympy  # type: ignore[import-untyped]
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from reformer_export.custom_spec import BATCH, SEQUENCE, UNLIMITED, CustomTensor, Dimension
from reformer_export.errors import InputError, ReformerExportError
from reformer_export.export.graph import quiet_exporter
from reformer_export.export.module_copy import ReplacedLayer, undisturbed
from reformer_export.export.module_faults import (
    explain,
    module_path,
    refuse_branches,
    refuse_nodes,
    rename,
    sizes_of,
)
from reformer_export.export.module_values import ModuleInputs, name_outputs


class FlatModule(nn.Module):
    """A module with tensors alone for inputs and outputs, in their order."""

    def __init__(self, module: nn.Module, inputs: ModuleInputs, flatten: Callable[[Any], Any]) -> None:
        super().__init__()
        self.module = module
        self._arguments: Callable[..., Any] = inputs.arguments
        self._flatten = flatten

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = self._arguments(tensors)
        flattened: tuple[torch.Tensor, ...] = self._flatten(self.module(*args, **kwargs))
        return flattened


@dataclass(frozen=True)
class TracedModule:
    """What a trace found.

    Attributes:
        program: torch.export's.
        inputs, outputs: by name; sizes are numbers, names of `dimensions`, and what is computed of them.
        dimensions: the symbolic ones, with the sizes that the module takes.
        symbols: torch.export's symbols -> the names of the dimensions.
    """

    program: ExportedProgram
    inputs: tuple[CustomTensor, ...]
    outputs: tuple[CustomTensor, ...]
    dimensions: tuple[Dimension, ...]
    symbols: dict[str, str]

    def longest(self, size: Any) -> int | None:
        """The greatest value of a size in the program, None for no limit."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        limits = {each.name: each for each in self.dimensions}
        known = {symbol: limits.get(self.symbols.get(str(symbol), "")) for symbol in expression.free_symbols}
        ranges = dict(self.program.range_constraints)
        for symbol, limit in known.items():
            if limit is not None and limit.maximum < UNLIMITED:
                ranges[symbol] = ValueRanges(sympy.Integer(limit.minimum), sympy.Integer(limit.maximum))
        only = next(iter(known.values()), None)
        if len(known) == 1 and only is not None and only.maximum <= MOST_TRIED:
            return max(_values(expression, range(only.minimum, only.maximum + 1)))
        upper = bound_sympy(expression, ranges).upper
        return int(upper) if upper.is_Integer and upper < UNLIMITED else None


MOST_TRIED: Final = 2**16
"""Sizes of a dimension that are tried one by one, since a bound of padded lengths is too great."""


def _values(expression: Any, sizes: range) -> Iterator[int]:
    """What an expression of one symbol is for each size."""
    (symbol,) = expression.free_symbols
    code = compile(PythonPrinter().doprint(expression), "size", "eval")
    return (int(eval(code, {"math": math, str(symbol): size})) for size in sizes)


def trace_module(
    root: nn.Module,
    inputs: ModuleInputs,
    shapes: Mapping[str, Any] | None,
    output_names: Sequence[str] | None,
    max_length: int | None,
) -> TracedModule:
    """Trace `root`; `shapes` by input as torch.export takes them, None for all that the module leaves open.

    Raises:
        ExportError: what cannot be traced, with the module that has it.
        InputError: `shapes` or `output_names` do not fit.
    """
    found: list[str] = []  # of the outputs

    def flatten(result: Any) -> tuple[torch.Tensor, ...]:
        outputs = name_outputs(result, output_names)
        found[:] = [name for name, _ in outputs]
        return tuple(tensor for _, tensor in outputs)

    flat = FlatModule(root, inputs, flatten)
    dims = [
        _symbolic_axes(name, tensor, shapes)
        for name, tensor in zip(inputs.names, inputs.tensors, strict=True)
    ]
    try:
        # As torch.onnx does it: no size that stays symbolic is told apart from 1.
        oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
        with quiet_exporter(), redirect_stderr(io.StringIO()), oblivious, undisturbed():
            program = torch.export.export(
                flat, inputs.tensors, dynamic_shapes={"tensors": tuple(dims)}, strict=False
            )
    except ReformerExportError:
        raise
    except Exception as error:  # torch.export's own of many kinds, or whatever the user's code raises
        raise explain(root, error) from error
    refuse_nodes(root, program)
    placeholders, results = _values_of(program)
    symbols, dimensions = _name_dimensions(inputs.names, placeholders, dims, program, max_length)
    refuse_branches(root, placeholders, symbols)
    return TracedModule(
        program,
        tuple(map(_describe, inputs.names, placeholders, [symbols] * len(placeholders))),
        tuple(map(_describe, found, results, [symbols] * len(results))),
        dimensions,
        symbols,
    )


def _symbolic_axes(name: str, tensor: torch.Tensor, shapes: Mapping[str, Any] | None) -> Any:
    """The symbolic axes of an input, by number."""
    if shapes is None:
        return {axis: Dim.AUTO for axis, size in enumerate(tensor.shape) if size > 1}
    given = shapes.get(name)
    if isinstance(given, tuple | list):
        given = dict(enumerate(given))
    if given is not None and not isinstance(given, Mapping):
        expected = "a mapping from axes to torch.export.Dim, or None"
        raise InputError("dynamic_shapes", f"{given!r:.80} for {name}", expected, "mend it")
    return {axis: dim for axis, dim in (given or {}).items() if dim is not None}


def _values_of(program: ExportedProgram) -> tuple[list[Any], list[Any]]:
    """The fake tensors that go into a program and come out of it."""
    wanted = program.graph_signature.user_inputs
    found = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    results = {node.name: node.meta["val"] for node in output.args[0]}
    return [found[name] for name in wanted], [results[n] for n in program.graph_signature.user_outputs]


def _describe(name: str, value: Any, symbols: Mapping[str, str]) -> CustomTensor:
    shape = tuple(size if isinstance(size, int) else rename(str(size), symbols) for size in sizes_of(value))
    return CustomTensor(name, str(value.dtype).removeprefix("torch."), shape)


def _name_dimensions(
    names: Sequence[str],
    values: Sequence[Any],
    dims: Sequence[Mapping[int, Any]],
    program: ExportedProgram,
    max_length: int | None,
) -> tuple[dict[str, str], tuple[Dimension, ...]]:
    """A name for every symbol of the inputs: the caller's, or `batch`, `sequence`, then the input's own; and
    the sizes that each may have."""
    symbols: dict[str, str] = {}
    dimensions: list[Dimension] = []
    for name, value, own in zip(names, values, dims, strict=True):
        for axis, size in enumerate(sizes_of(value)):
            if isinstance(size, int) or str(size) in symbols:
                continue
            known = {each.name for each in dimensions}
            chosen = getattr(own.get(axis), "__name__", None)
            if chosen is None:
                free = BATCH if axis == 0 else SEQUENCE
                chosen = free if free not in known else f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{axis}"
            symbols[str(size)] = chosen
            dimensions.append(_limit(chosen, size, program, max_length))
    return symbols, tuple(dimensions)


def _limit(name: str, size: Any, program: ExportedProgram, max_length: int | None) -> Dimension:
    found = bound_sympy(size.node.expr, program.range_constraints)
    lower = int(found.lower) if found.lower.is_Integer else 1
    upper = int(found.upper) if found.upper.is_Integer else UNLIMITED
    if name == SEQUENCE and max_length is not None:
        upper = min(upper, max_length)
    # Two is what torch.export takes for the least size of any symbolic axis.
    return Dimension(name, 1 if lower <= 2 else lower, min(upper, UNLIMITED))


def uses_of(program: ExportedProgram, root: nn.Module, replaced: Sequence[ReplacedLayer]) -> list[Any]:
    """Each call of replaced attention in a program: (layer, its node), in the order of a run."""
    layers = {id(each.attention): each for each in replaced}
    operators = torch.ops.reformer
    found = []
    for node in program.graph.nodes:
        if node.target not in (operators.lsh_buckets.default, operators.local_attention.default):
            continue
        module: Any = root.get_submodule(module_path(node))
        layer = layers.get(id(module)) or layers[id(module.canonical)]  # an LSHAttention's
        hashes = layer.use.rotation_columns > 0
        if hashes == (node.target == operators.lsh_buckets.default):
            found.append((layer, node))
    return found
