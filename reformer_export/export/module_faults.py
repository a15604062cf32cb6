"""What of a user's own module cannot be traced, in the user's words."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import sympy  # type: ignore[import-untyped]
import torch
from torch import nn
from torch.export import ExportedProgram

from reformer_export.checkpoints.live import describe_module
from reformer_export.errors import ExportError, ReformerExportError, one_line
from reformer_export.export.module_copy import find_module

ROOT: Final = "module"
"""The attribute under which the user's module stands in what is traced."""

_NUMBER: Final = re.compile(r"@\d+$")
"""What torch.export puts behind the name of a module that is called again."""


def sizes_of(value: Any) -> list[Any]:
    """The sizes of a fake tensor: numbers, and what stays symbolic."""
    return [
        int(size.node.expr) if isinstance(size, torch.SymInt) and size.node.expr.is_Integer else size
        for size in value.shape
    ]


def rename(text: str, symbols: Mapping[str, str]) -> str:
    """What torch.export says of a size, with the dimensions' names."""
    return re.sub(r"\b[su]\d+\b", lambda match: symbols.get(match[0], match[0]), text)


def module_path(node: Any) -> str:
    """The path of the innermost module that a node comes from, in the user's module."""
    stack = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    path = _NUMBER.sub("", stack[-1]) if stack else ""
    return path.removeprefix(ROOT).removeprefix(".") if path.partition(".")[0] == ROOT else ""


def refuse_nodes(root: nn.Module, program: ExportedProgram) -> None:
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


def refuse_branches(root: nn.Module, values: Sequence[Any], symbols: Mapping[str, str]) -> None:
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
        held = rename(str(guard.expr), symbols)
        got = f"a branch on a size, {held}, in line {place.lineno} of {Path(file).name}"
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


def explain(root: nn.Module, error: Exception) -> ReformerExportError:
    """What torch.export, or the user's code under it, stumbled over, in the user's words."""
    kept: BaseException | None = error
    while kept is not None:
        if isinstance(kept, ReformerExportError):
            return kept
        kept = kept.__cause__
    where, line = find_module(root, error), _line_of_user(error)
    if "data-dependent" in str(error).lower():
        fix = "compute both ways and choose with torch.where"
        return ExportError(where, f"a branch on data{line}", "one way for all data", fix)
    fix = "change it, or keep it outside of the module that is exported"
    return ExportError(
        where, f"'{one_line(error)}' from torch.export{line}", "what torch.export can trace", fix
    )


def _line_of_user(error: BaseException) -> str:
    """The innermost line of the user's own code that an error went through, in words that follow others."""
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith((*_LIBRARIES, "<")):
            found = f" in line {frame.lineno} of {Path(frame.filename).name}"
    return found
