"""Operators whose body TensorRT runs: the body in each one's place, under names of its own.

TensorRT's parser reads a body anew for each node that calls it, with the names that it has, and refuses the
second layer of a name where a layer dequantises weights.
"""

from __future__ import annotations

from reformer_export.contract import DOMAIN, LINEAR
from reformer_export.runtimes.onnx_file import import_onnx


def inline_linears(model: bytes) -> bytes:
    """The bytes of a model, every Linear node its body; MissingDependencyError without the package onnx."""
    parsed = import_onnx().load_model_from_string(model)
    from onnx.inliner import inline_selected_functions

    inlined = inline_selected_functions(parsed, [(DOMAIN, LINEAR.name)])
    serialised: bytes = inlined.SerializeToString()
    return serialised
