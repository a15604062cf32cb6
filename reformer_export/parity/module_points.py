"""Which values of a user's graph are which of its modules' results.

Each node says which modules it came from, in the user's own words. A module that runs again is another scope
then, under one of its other names or with the number of its run behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx
import torch

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.contract import DOMAIN, LSH_BUCKETS, RESIDUAL_NORM
from reformer_export.custom_spec import CustomSpec
from reformer_export.errors import ArtifactError
from reformer_export.parity.points import Point, PointFinder, Role
from reformer_export.reference.eager_values import Values
from reformer_export.reference.module import BUCKETS, QUERY_KEY, layer_name
from reformer_export.reference.module_layers import class_names, use_name
from reformer_export.spec import LSHAttentionSpec

_NORM: Final = frozenset({"LayerNormalization", RESIDUAL_NORM.name, "Cast"})
_ANY: Final = frozenset[str]()
_REFORMER: Final = "transformers.models.reformer.modeling_reformer"

RESULTS: Final[Mapping[str, frozenset[str]]] = {
    "torch.nn.modules.linear.Linear": frozenset({"MatMul", "Gemm", "Add"}),
    "torch.nn.modules.normalization.LayerNorm": _NORM,
    "torch.nn.modules.sparse.Embedding": frozenset({"Gather"}),
    f"{_REFORMER}.LSHSelfAttention": _ANY,
    f"{_REFORMER}.LocalSelfAttention": _ANY,
    f"{_REFORMER}.ChunkReformerFeedForward": _ANY,
    "reformer_pytorch.reformer_pytorch.LSHSelfAttention": _ANY,
    "reformer_pytorch.reformer_pytorch.LSHAttention": _ANY,
    "reformer_pytorch.reformer_pytorch.Reformer": _ANY,
}
"""Parts whose last node computes their result, and which operators that may be: any of what is ours."""


@dataclass(frozen=True)
class ModuleHashing:
    """How a graph hashes: its outputs and what each run of a layer chooses, as `points`; and by layer the
    point of what it hashes, or None where that is an input of the graph."""

    points: tuple[Point, ...]
    query_keys: dict[int, str | None]


def find_module_hashing(model: onnx.ModelProto, spec: CustomSpec) -> ModuleHashing:
    """ArtifactError unless the graph hashes once for each run of a layer that does."""
    finder = PointFinder(model)
    for output in spec.output_names:
        finder.add(output, output)
    query_keys = _add_hashing(finder, model, spec)
    return ModuleHashing(tuple(finder.points.values()), query_keys)


def _add_hashing(finder: PointFinder, model: onnx.ModelProto, spec: CustomSpec) -> dict[int, str | None]:
    nodes = [n for n in model.graph.node if (n.domain, n.op_type) == (DOMAIN, LSH_BUCKETS.name)]
    layers = [i for i, layer in enumerate(spec.layers) if isinstance(layer, LSHAttentionSpec)]
    if len(nodes) != len(layers):
        got, expected = f"{len(nodes)} LSHBuckets nodes", f"{len(layers)} as the manifest says"
        raise ArtifactError(MODEL_NAME, got, expected, "export the module again")
    inputs = {value.name for value in model.graph.input}
    query_keys: dict[int, str | None] = {}
    for layer, node in zip(layers, nodes, strict=True):
        name, value = layer_name(spec, layer), node.input[0]
        query_keys[layer] = None
        if value not in inputs:
            finder.add(name + QUERY_KEY, value, layer)
            query_keys[layer] = finder.points[value].name
        finder.add(name + BUCKETS, node.output[0], layer, "buckets")
    return query_keys


def find_module_points(
    model: onnx.ModelProto, spec: CustomSpec, module: torch.nn.Module, values: Values
) -> list[Point]:
    """The hashing, and each result of a part in `RESULTS` that eager has too, in topological order.

    `values` are those of a pass of eager. A part that ran another number of times there than the graph says
    is left out: one of its runs is for nothing, and nobody knows which.
    """
    finder, roles = PointFinder(model), _find_roles(spec)
    _add_hashing(finder, model, spec)
    for path, scopes in _find_runs(finder, module).items():
        kinds = class_names(module.get_submodule(path))
        operators = next(RESULTS[kind] for kind in kinds if kind in RESULTS)
        if use_name(path, len(scopes)) in values or use_name(path, len(scopes) - 1) not in values:
            continue
        for run, scope in enumerate(scopes):
            last, name = finder.within(scope)[-1], use_name(path, run)
            value = last.output[-1]
            if (not operators or last.op_type in operators) and finder.describes(value):
                finder.add(name, value, *roles.get(name, ()))
    found = [point for point in finder.points.values() if _is_comparable(point, values)]
    return sorted(found, key=lambda point: point.node)


def _find_runs(finder: PointFinder, module: torch.nn.Module) -> dict[str, list[str]]:
    """By the path of each part in `RESULTS` its runs' scopes, in turn."""
    paths = {id(part): path for path, part in module.named_modules()}
    runs: dict[str, list[str]] = {}
    for scope in finder.scopes():
        try:
            part = module.get_submodule(re.sub(r"@\d+", "", scope))
        except AttributeError:  # of what stands for a layer
            continue
        if scope and any(kind in RESULTS for kind in class_names(part)):
            runs.setdefault(paths[id(part)], []).append(scope)
    return runs


def _find_roles(spec: CustomSpec) -> dict[str, tuple[int, Role]]:
    """The layer and the role of the points that a picture of the layers shows."""
    roles: dict[str, tuple[int, Role]] = {}
    for layer, use in enumerate(spec.uses):
        is_whole = use.family == "lucidrains"  # with its projection, which transformers has behind it
        roles[layer_name(spec, layer)] = layer, "attention output" if is_whole else "attention operator"
        block = use.path.removesuffix(".attention.self_attention")
        if not is_whole and block != use.path:
            roles[use_name(f"{block}.attention.output.dense", use.call)] = layer, "attention output"
            roles[use_name(f"{block}.feed_forward", use.call)] = layer, "feed forward"
    return roles


def _is_comparable(point: Point, values: Values) -> bool:
    value = values.get(point.name)
    return value is not None and (value.ndim == point.rank or (value.ndim, point.rank) == (3, 2))
