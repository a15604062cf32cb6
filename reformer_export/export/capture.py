"""torch.export of a model whose operators torch.onnx translates one by one.

torch.onnx.export would trace what torch.export captured twice more, to decompose operators that it has no
translation for and to make writes in place pure. That is half of its time, and neither is in our models.
"""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten


def capture(model: torch.nn.Module, examples: tuple[Any, ...], axes: dict[str, Any]) -> Any:
    """The `torch.export.ExportedProgram` of `model` on `examples`, with `axes` symbolic, as torch.onnx has it
    captured: no symbolic size is told apart from 1, and what is not known of sizes is left to run time."""
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program: Any = torch.export.export(
            model,
            examples,
            dynamic_shapes=axes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    return keep_as_captured(program)


def keep_as_captured(program: Any) -> Any:
    """`program`, which stands for itself when it is to be decomposed, unless an operator of it writes in
    place."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    if any(isinstance(x.target, torch._ops.OpOverload) and x.target._schema.is_mutable for x in calls):
        return program
    for node in calls:
        if node.target is aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
        elif node.target is aten.item.default:  # the two of ours that torch.onnx has by another name
            node.target = aten._local_scalar_dense.default
        elif node.target is aten.to.dtype:
            node.kwargs = {"dtype": node.args[1]}
            node.target, node.args = aten._to_copy.default, node.args[:1]
    program.run_decompositions = lambda *_: program
    return program


def decompose_again(program: Any) -> Any:
    """`program` without what `keep_as_captured` said of it."""
    vars(program).pop("run_decompositions", None)
    return program
