"""Which values of a user's graph are which of its modules' results.

Each node says which modules it came from, in the user's own words, under any of a module's names. The nodes
of one run of a module stand together: those of another come after nodes of other modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx
import torch

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.contract import DOMAIN, FINAL_NORM, LSH_BUCKETS, RESIDUAL_NORM
from reformer_export.custom_spec import CustomSpec
from reformer_export.errors import ArtifactError
from reformer_export.parity.points import Point, PointFinder, Role
from reformer_export.reference.eager_values import Values
from reformer_export.reference.module import BUCKETS, INPUT, QUERY_KEY, layer_name
from reformer_export.reference.module_layers import class_names, use_name
from reformer_export.spec import LSHAttentionSpec

_REFORMER: Final = "transformers.models.reformer.modeling_reformer"
_LUCIDRAINS: Final = "reformer_pytorch.reformer_pytorch"
_NORM: Final = frozenset({"LayerNormalization", RESIDUAL_NORM.name, FINAL_NORM.name, "Cast"})
_ANY: Final = frozenset[str]()

RESULTS: Final[Mapping[str, frozenset[str]]] = {
    "torch.nn.modules.linear.Linear": frozenset({"MatMul", "Gemm", "Add"}),
    "torch.nn.modules.normalization.LayerNorm": _NORM,
    "torch.nn.modules.sparse.Embedding": frozenset({"Gather"}),
    f"{_REFORMER}.LSHSelfAttention": _ANY,
    f"{_REFORMER}.LocalSelfAttention": _ANY,
    f"{_REFORMER}.ChunkReformerFeedForward": _ANY,
    **{f"{_LUCIDRAINS}.{name}": _ANY for name in ("LSHSelfAttention", "LSHAttention", "Reformer")},
    **{f"{_LUCIDRAINS}.{name}": _ANY for name in ("PreNorm", "ReZero", "ScaleNorm")},
}
"""Parts whose last node computes their result, and which operators that may be: any of what is ours."""

_ROOT: Final = "module"
_CANONICAL: Final = ".canonical."
"""The scope of the user's module, and what stands between a replaced layer's and those inside of it."""

_BLOCK: Final = r"layers\.(\d+)\."
_INSIDE: Final = tuple(
    (re.compile(pattern), path)
    for pattern, path in (
        (rf"{_BLOCK}attention\.self_attention", f"{{}}to_out{INPUT}"),
        (rf"{_BLOCK}attention\.output\.dense", "{}to_out"),
        (rf"{_BLOCK}attention\.layer_norm", "layers.blocks.{1}.f.net.norm"),
        (rf"{_BLOCK}attention", "layers.blocks.{1}.f.net"),
        (rf"{_BLOCK}feed_forward\.layer_norm", "layers.blocks.{1}.g.net.norm"),
        (rf"{_BLOCK}feed_forward", "layers.blocks.{1}.g.net"),
    )
)
"""Scopes in a replaced layer of reformer-pytorch, and the paths there: {} leads to its attention."""


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
    is left out: one of its runs is for nothing, or two follow each other, and nobody knows which.
    """
    finder, roles = PointFinder(model), _find_roles(spec)
    _add_hashing(finder, model, spec)
    for path, runs in _find_runs(finder, module).items():
        kinds = class_names(module.get_submodule(path.removesuffix(INPUT)))
        operators = _ANY if path.endswith(INPUT) else next(RESULTS[kind] for kind in kinds if kind in RESULTS)
        if use_name(path, len(runs)) in values or use_name(path, len(runs) - 1) not in values:
            continue
        for run, last in enumerate(runs):
            value, name = last.output[-1], use_name(path, run)
            if (not operators or last.op_type in operators) and finder.describes(value):
                finder.add(name, value, *roles.get(name, ()))
    found = [point for point in finder.points.values() if _is_comparable(point, values)]
    return sorted(found, key=lambda point: point.node)


def _find_runs(finder: PointFinder, module: torch.nn.Module) -> dict[str, list[onnx.NodeProto]]:
    """By the path of each part in `RESULTS`, or that with `INPUT`, the last node of each of its runs: nodes
    of one run stand together."""
    paths = {id(part): path for path, part in module.named_modules()}
    users: dict[str, str | None] = {}
    runs: dict[str, list[onnx.NodeProto]] = {}
    before: set[str] = set()
    for node, scopes in finder.scoped_nodes():
        if _ROOT not in scopes:
            continue  # sizes, which are of no module
        now = set()
        for scope in scopes:
            if scope not in users:
                users[scope] = _path_of(module, paths, scope)
            path = users[scope]
            if path is not None and path not in now:
                now.add(path)
                found = runs.setdefault(path, [])
                found[len(found) - (path in before) :] = [node]
        before = now
    return runs


def _path_of(module: torch.nn.Module, paths: Mapping[int, str], scope: str) -> str | None:
    """The path of a part in `RESULTS` that a scope is of, by its first name; None for other scopes."""
    outer, _, inner = scope.removeprefix(_ROOT).removeprefix(".").partition(_CANONICAL)
    try:
        replaced = module.get_submodule(outer)
        if inner and any(kind.startswith(_LUCIDRAINS) for kind in class_names(replaced)):
            inner = _inside_lucidrains(replaced, inner)
        path = ".".join(filter(None, (outer, inner.removesuffix(INPUT))))
        part = module.get_submodule(path)
    except AttributeError:  # of what stands for a layer, and has no twin there
        return None
    is_known = any(kind in RESULTS for kind in class_names(part))
    return paths[id(part)] + INPUT * inner.endswith(INPUT) if is_known else None


def _inside_lucidrains(layer: torch.nn.Module, inner: str) -> str:
    """The path in the package's `layer`; AttributeError where it has no such part."""
    attention = "" if hasattr(layer, "toqk") else "layers.blocks.{}.f.net.fn."
    for pattern, path in _INSIDE:
        found = pattern.fullmatch(inner)
        if found is not None:
            return path.format(attention.format(found[1]), found[1])
    raise AttributeError(inner)


def _find_roles(spec: CustomSpec) -> dict[str, tuple[int, Role]]:
    """The layer and the role of the points that a picture of the layers shows."""
    roles: dict[str, tuple[int, Role]] = {}
    for layer, use in enumerate(spec.uses):
        if use.family == "lucidrains":
            block = use.path.removesuffix(".f.net.fn")
            projection = ".".join(filter(None, (use.path, "to_out")))
            found: dict[str, Role] = {
                projection + INPUT: "attention operator",
                projection: "attention output",
                use.path: "attention output",
                f"{block}.g.net": "feed forward",
            }
        else:
            block = use.path.removesuffix(".attention.self_attention")
            found = {
                use.path: "attention operator",
                f"{block}.attention.output.dense": "attention output",
                f"{block}.feed_forward": "feed forward",
            }
        for path, role in found.items():
            roles[use_name(path, use.call)] = layer, role
    return roles


def _is_comparable(point: Point, values: Values) -> bool:
    value = values.get(point.name)
    return value is not None and (value.ndim == point.rank or (value.ndim, point.rank) == (3, 2))
