"""Which inputs a user's module is compared on: their own, or drawn by what the manifest and the graph say."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from reformer_export.custom_spec import CustomSpec, CustomTensor
from reformer_export.errors import InputError
from reformer_export.parity.cases import MAX_TOKENS, Case

NamedArrays = Mapping[str, NDArray[Any]]

BATCH_SIZES: Final = (1, 2, 3)

MASK: Final = "mask"
"""In the name of an input of integers or truth values: 1 where there is a token, 0 behind the last one."""

_PASSED_ON: Final = frozenset({"Cast", "Clip", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators that leave indices what they are, or in bounds."""


@dataclass(frozen=True)
class ModuleCase(Case):
    """One input of a user's module: the `sizes` of its symbolic dimensions by name, of which `batch` and
    `length` are the first and the largest other one. `arrays`: a user's own, which `where` tells apart."""

    sizes: tuple[tuple[str, int], ...] = ()
    where: str = ""
    arrays: NamedArrays | None = dataclasses.field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        values = {"sizes": dict(self.sizes), "masked": self.masked}
        return values if self.arrays is None else values | {"inputs": self.where}

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes) or "fixed sizes"
        return f"{self.where and self.where + ': '}{sizes}{', masked' if self.masked else ''}"


def make_case(sizes: Mapping[str, int], batch: str | None, masked: bool = False, **given: Any) -> ModuleCase:
    """The case of these sizes; `batch` names the dimension that rows lie along."""
    others = [size for name, size in sizes.items() if name != batch]
    length = max(others, default=1)
    return ModuleCase(length, sizes.get(batch or "", 1), masked, sizes=tuple(sizes.items()), **given)


def masks_of(spec: CustomSpec) -> list[CustomTensor]:
    """The inputs that say which tokens there are."""
    return [each for each in spec.inputs if MASK in each.name.lower() and "float" not in each.dtype]


def choose_module_cases(
    spec: CustomSpec, batch: str | None, lengths: Sequence[int] | None, batch_sizes: Sequence[int] | None
) -> list[ModuleCase]:
    """Every combination of lengths and batch sizes that the dimensions allow, bare and where there is a mask
    masked; without any the default ones: around the chunks, in turn with batches of 1 to 3.

    A length is the size of every symbolic dimension but the batch.
    """
    if batch_sizes is not None and batch is None:
        got, fix = "them for a module without a dimension of rows", "leave them out"
        raise InputError("batch_sizes", got, "a symbolic dimension that all inputs begin with", fix)
    can_mask = bool(masks_of(spec))
    if lengths is not None or batch_sizes is not None:
        pairs = list(itertools.product(lengths or default_lengths(spec), batch_sizes or BATCH_SIZES))
    else:
        pairs = [(length, BATCH_SIZES[i % 3]) for i, length in enumerate(default_lengths(spec))]
    cases: dict[ModuleCase, None] = {}
    for length, rows in pairs:
        sizes = {each.name: rows if each.name == batch else length for each in spec.dimensions}
        allowed = all(each.minimum <= sizes[each.name] <= each.maximum for each in spec.dimensions)
        if not allowed or math.prod(sizes.values()) > MAX_TOKENS:
            continue
        for masked in (False, True) if can_mask and length > 1 else (False,):
            cases[make_case(sizes, batch, masked)] = None
    if not cases:
        given = [f"{each.name} {each.minimum} to {each.maximum}" for each in spec.dimensions]
        raise InputError("lengths", f"{lengths}", f"sizes of {', '.join(given)}", "choose others")
    return list(cases)


def default_lengths(spec: CustomSpec) -> list[int]:
    """Tokens: around each chunk length and what attends densely, up to twelve of the longest chunks."""
    chunks = {layer.chunk_length for layer in spec.layers} or {1}
    lengths = {1}
    for chunk in (*chunks, *(use.dense_threshold for use in spec.uses), math.lcm(*chunks)):
        lengths |= {chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + chunk // 2 + 1, 4 * chunk, 6 * chunk}
    lengths.add(12 * max(chunks))
    return sorted(length for length in lengths if length >= 1)


def find_bounds(graph: onnx.GraphProto, spec: CustomSpec) -> dict[str, int]:
    """Of each input of integers that chooses rows of tables, how many rows the smallest of them has: the
    greatest number that may stand in it, and one. The graph has its weights as initialisers."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    names = {each.name: each.name for each in spec.inputs if "int" in each.dtype}
    bounds: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _PASSED_ON and node.input[0] in names:
            names[node.output[0]] = names[node.input[0]]
        if node.op_type != "Gather" or node.input[1] not in names or node.input[0] not in rows:
            continue
        if next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0) == 0:
            name, count = names[node.input[1]], rows[node.input[0]]
            bounds[name] = min(count, bounds.get(name, count))
    return bounds


def draw_arrays(
    spec: CustomSpec, bounds: Mapping[str, int], case: ModuleCase, seed: int
) -> dict[str, NDArray[Any]]:
    """Random inputs: normal numbers; masks that keep at least the first token of each row; ids of the tables
    that they choose from (`find_bounds`), and truth values.

    InputError for integers of whose range nothing is known.
    """
    sizes = dict(case.sizes)
    rng = np.random.default_rng((seed, *sizes.values()))
    masks = {each.name for each in masks_of(spec)}
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in spec.inputs:
        shape = tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)
        if tensor.name in masks:
            arrays[tensor.name] = _draw_mask(rng, shape, case.masked).astype(tensor.dtype)
        elif "float" in tensor.dtype:
            arrays[tensor.name] = rng.standard_normal(shape).astype(np.float32)
        elif tensor.dtype == "bool":
            arrays[tensor.name] = rng.integers(0, 2, shape).astype(np.bool_)
        elif tensor.name in bounds:
            arrays[tensor.name] = rng.integers(0, bounds[tensor.name], shape).astype(tensor.dtype)
        else:
            got = f"{tensor.name} of {tensor.dtype}, which chooses no row of a table"
            raise InputError("inputs", got, "numbers that the module takes", "give `inputs`")
    return arrays


def _draw_mask(rng: np.random.Generator, shape: tuple[int, ...], masked: bool) -> NDArray[np.bool_]:
    """Right-padded along the last axis, at random where `masked`."""
    if not masked or not shape:
        return np.ones(shape, np.bool_)
    kept = rng.integers(1, shape[-1] + 1, shape[:-1])
    if kept.ndim:
        kept[-1] = np.maximum(np.minimum(kept[-1], shape[-1] - 1), 1)
    filled: NDArray[np.bool_] = np.arange(shape[-1]) < kept[..., None]
    return filled
