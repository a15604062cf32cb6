"""A user's own module, with its layers replaced, traced by torch.export with symbolic sizes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sympy  # type: ignore[import-untyped]
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from reformer_export.checkpoints.live import describe_module
from reformer_export.custom_spec import BATCH, SEQUENCE, UNLIMITED, CustomTensor, Dimension
from reformer_export.errors import ExportError, InputError, ReformerExportError, one_line
from reformer_export.export.graph import quiet_exporter
from reformer_export.export.module_copy import ReplacedLayer, find_module
from reformer_export.export.module_values import ModuleInputs, name_outputs

ROOT: Final = "module"
"""The attribute under which the user's module stands in what is traced."""

_NUMBER: Final = re.compile(r"@\d+$")
"""What torch.export puts behind the name of a module that is called again."""


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
        named = {each.name: each for each in self.dimensions}
        ranges = dict(self.program.range_constraints)
        for symbol in list(ranges):
            dimension = named.get(self.symbols.get(str(symbol), ""))
            if dimension is not None and dimension.maximum < UNLIMITED:
                ranges[symbol] = ValueRanges(ranges[symbol].lower, sympy.Integer(dimension.maximum))
        upper = bound_sympy(size.node.expr, ranges).upper
        return int(upper) if upper.is_Integer and upper < UNLIMITED else None


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
        with quiet_exporter(), oblivious, torch.random.fork_rng(devices=[]), torch.no_grad():
            program = torch.export.export(
                flat, inputs.tensors, dynamic_shapes={"tensors": tuple(dims)}, strict=False
            )
    except ReformerExportError:
        raise
    except Exception as error:  # torch.export's own of many kinds, or whatever the user's code raises
        raise _explain(root, error) from error
    _refuse_nodes(root, program)
    placeholders, results = _values_of(program)
    _refuse_branches(root, placeholders)
    symbols, dimensions = _name_dimensions(inputs.names, placeholders, dims, program, max_length)
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


def sizes_of(value: Any) -> list[Any]:
    """The sizes of a fake tensor: numbers, and what stays symbolic."""
    return [
        int(size.node.expr) if isinstance(size, torch.SymInt) and size.node.expr.is_Integer else size
        for size in value.shape
    ]


def rename(text: str, symbols: Mapping[str, str]) -> str:
    """What torch.export says of a size, with the dimensions' names."""
    return re.sub(r"\b[su]\d+\b", lambda match: symbols.get(match[0], match[0]), text)


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


def module_path(node: Any) -> str:
    """The path of the innermost module that a node comes from, in the user's module."""
    stack = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    path = _NUMBER.sub("", stack[-1]) if stack else ""
    return path.removeprefix(ROOT).removeprefix(".") if path.partition(".")[0] == ROOT else ""


def _refuse_nodes(root: nn.Module, program: ExportedProgram) -> None:
    """ExportError for what gives another answer in every run, or changes the module."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        arguments = dict(zip((each.name for each in node.target._schema.arguments), node.args, strict=False))
        arguments |= node.kwargs
        trains = [arguments.get(name) for name in ("train", "training")]
        path = module_path(node)
        where = describe_module(path, root.get_submodule(path))
        if True in trains:
            got = f"training mode ({node.target._schema.name.removeprefix('aten::')})"
            raise ExportError(where, got, "evaluation mode", "call .eval() on the module before the export")
        is_seeded = torch.Tag.nondeterministic_seeded in node.target.tags
        if is_seeded and False not in trains and arguments.get("dropout_p", 1.0) != 0.0:
            got = f"random numbers ({node.target._schema.name.removeprefix('aten::')})"
            fix = "draw them outside of the module and give them as an input, or keep them in a buffer"
            raise ExportError(where, got, "the same answer in every run", fix)
    changed = list(program.graph_signature.buffers_to_mutate.values())
    if changed:
        got = f"{changed[0].removeprefix(ROOT + '.')}, a buffer that every run changes"
        fix = "call .eval() on the module, or keep what changes outside of it"
        raise ExportError(describe_module("", root), got, "a module without a memory", fix)


def _refuse_branches(root: nn.Module, values: Sequence[Any]) -> None:
    """ExportError where code of the user's chose its way by a size that stays symbolic: torch.export traces
    one way, and holds it for the other sizes too."""
    sizes = [size for value in values for size in sizes_of(value) if not isinstance(size, int)]
    guards = sizes[0].node.shape_env.guards if sizes else ()
    for guard in guards:
        place = guard.sloc.framework_loc
        file = getattr(place, "filename", "")
        if not file or file.startswith(_LIBRARIES) or _only_narrows(guard.expr):
            continue
        where = _module_of_line(root, file, place.lineno)
        got = f"a branch on a size, {guard.expr}, in line {place.lineno} of {Path(file).name}"
        fix = (
            "compute it for any size, e.g. -length % 8 in place of a test of length % 8, or fix the size by "
        )
        raise ExportError(where, got, "one way for all sizes", fix + "`dynamic_shapes`")


_LIBRARIES: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def _only_narrows(expression: Any) -> bool:
    """Whether a guard is one that the sizes' limits tell: of a size and a number, or of two equal sizes."""
    if isinstance(expression, sympy.Eq):
        return all(each.is_Symbol or each.is_Integer for each in expression.args)
    is_order = isinstance(expression, sympy.Lt | sympy.Le | sympy.Gt | sympy.Ge)
    return is_order and len(expression.free_symbols) == 1 and _is_linear(expression)


def _is_linear(expression: Any) -> bool:
    (symbol,) = expression.free_symbols
    difference = expression.lhs - expression.rhs
    return bool(difference.is_polynomial(symbol) and sympy.degree(difference, symbol) == 1)


def _module_of_line(root: nn.Module, file: str, line: int) -> str:
    """The first of the user's modules in whose class a line of code is, in words."""
    for name, module in root.named_modules():
        for kind in type(module).__mro__:
            for function in vars(kind).values():
                code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
                if code is None or code.co_filename != file or code.co_firstlineno > line:
                    continue
                if line <= max(last for _, _, last in code.co_lines() if last is not None):
                    return describe_module(name, module)
    return describe_module("", root)


def _explain(root: nn.Module, error: Exception) -> ReformerExportError:
    """What torch.export, or the user's code under it, stumbled over, in the user's words."""
    kept: BaseException | None = error
    while kept is not None:
        if isinstance(kept, ReformerExportError):
            return kept
        kept = kept.__cause__
    where, reason = find_module(root, error), one_line(error)
    if "data-dependent" in str(error).lower() or "GuardOnDataDependent" in type(error).__name__:
        got = f"a branch on data ({reason})"
        fix = "compute both ways and choose with torch.where"
        return ExportError(where, got, "one way for all data", fix)
    fix = "change it, or keep it outside of the module that is exported"
    return ExportError(where, f"'{reason}' from torch.export", "what torch.export can trace", fix)


def uses_of(program: ExportedProgram, root: nn.Module, replaced: Sequence[ReplacedLayer]) -> list[Any]:
    """Each call of replaced attention in a program: (layer, its node), in the order of a run."""
    layers = {id(each.attention): each for each in replaced}
    operators = torch.ops.reformer
    found = []
    for node in program.graph.nodes:
        if node.target not in (operators.lsh_buckets.default, operators.local_attention.default):
            continue
        module: Any = root.get_submodule(module_path(node))
        layer = layers.get(id(module)) or layers[id(module.canonical)]  # an LSHAttention calls its part itself
        hashes = layer.use.rotation_columns > 0
        if hashes == (node.target == operators.lsh_buckets.default):
            found.append((layer, node))
    return found
