"""The tensors of product-key memories: what they say of `pkm_layers` and `pkm_num_keys`, and how they are
stored.

Of the package product-key-memory, whose versions differ in the norm of the queries: 0.1.1 to 0.1.10 have a
batch norm of all elements, 0.2.2 and later a layer norm of each half of a query.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from reformer_export.checkpoints.lucidrains_keywords import Keywords
from reformer_export.errors import CheckpointError
from reformer_export.product_keys_spec import (
    NUM_QUERIES,
    QUERY_SIZE,
    ProductKeysSpec,
    QueryNorm,
)

Shape = tuple[int, ...]

COUNTER: Final = re.compile(
    r"(?:reformer\.)?layers\.(irrev_)?blocks\.\d{1,6}\.g\.(net\.)?fn\.norm\.fn\.num_batches_tracked"
)
"""A batch norm's count of training steps, an integer that inference has no use for."""

BATCH_NORM_EPSILON: Final = 1e-5
"""torch.nn.BatchNorm1d's own, which the package uses."""

_MEMORY: Final = re.compile(r"(?:reformer\.)?layers\.(?:irrev_)?blocks\.(\d{1,6})\.g\.(?:net\.)?fn\.keys")
_DENSE: Final = re.compile(
    r"(?:reformer\.)?layers\.(?:irrev_)?blocks\.(\d{1,6})\.g\.(?:net\.)?fn\.fn\.w1\.weight"
)
_NORM: Final = re.compile(
    r"(?:reformer\.)?layers\.(?:irrev_)?blocks\.\d{1,6}\.g\.(?:net\.)?fn\.norm\.fn\.weight"
)

_QUERIES: Final = 2 * NUM_QUERIES * QUERY_SIZE
_RUNNING: Final = ("running_mean", "running_var")


@dataclass(frozen=True)
class MemoryFacts:
    """What names and shapes say of a model's memories.

    `memories` and `dense` map a layer, counted from 0, to the tensor that says what its feed-forward is; a
    layer in neither shares its weights with another one. `keys`: the shape of the first memory's keys.
    """

    memories: Mapping[int, str]
    dense: Mapping[int, str]
    keys: Shape
    query_norm: QueryNorm

    def check_layers(self, keywords: Keywords, given: list[int]) -> None:
        """CheckpointError unless `given`, `pkm_layers` from 1 and in order, can be the tensors'."""
        chosen = {number - 1 for number in given}
        expected = sorted(self.memories.keys() | (chosen - self.dense.keys()))
        if sorted(chosen) == expected:
            return
        wrong = min(chosen.symmetric_difference(expected))
        name = self.memories.get(wrong) or self.dense[wrong]
        got = given or keywords.describe("pkm_layers")
        raise keywords.error("pkm_layers", got, f"{[layer + 1 for layer in expected]}, as there is {name}")


def read_facts(shapes: Mapping[str, Shape]) -> MemoryFacts:
    """The facts that a state dict's names and shapes, without what a wrapper puts before them, are."""
    memories, dense = (
        {int(match[1]): name for name in sorted(shapes, reverse=True) if (match := kind.fullmatch(name))}
        for kind in (_MEMORY, _DENSE)
    )
    keys = shapes[memories[min(memories)]] if memories else ()
    is_batch_norm = any(_NORM.fullmatch(name) for name in shapes)
    return MemoryFacts(memories, dense, keys, "batch" if is_batch_norm else "layer")


def choose_layers(given: Any, depth: int) -> list[int]:
    """`pkm_layers` as a list in order: a number, several or none; a number above `depth` means nothing, as in
    reformer-pytorch."""
    numbers = given if isinstance(given, list | tuple) else [] if given is None else [given]
    return sorted({number for number in numbers if number <= depth})


def spec_of_memories(keywords: Keywords, query_norm: QueryNorm) -> ProductKeysSpec | None:
    """The memories that the keywords describe, None for none."""
    layers = tuple(number - 1 for number in keywords["pkm_layers"])
    return ProductKeysSpec(layers, keywords["pkm_num_keys"], query_norm) if layers else None


def memory_names(
    ours: str, theirs: str, spec: ProductKeysSpec, hidden_size: int
) -> dict[str, tuple[str, Shape]]:
    """A memory's parameters under `ours` -> the names under `theirs` and the shapes in a state dict. A batch
    norm has two more than the model (see `convert_memories`)."""
    is_batch_norm = spec.query_norm == "batch"
    norm, size = ("norm.fn", _QUERIES) if is_batch_norm else ("norm", QUERY_SIZE)
    return {
        f"{ours}.query.weight": (f"{theirs}.to_queries.weight", (_QUERIES, hidden_size)),
        **{
            f"{ours}.query_norm.{part}": (f"{theirs}.{norm}.{part}", (size,))
            for part in ("weight", "bias", *(_RUNNING if is_batch_norm else ()))
        },
        f"{ours}.keys.weight": (f"{theirs}.keys", (NUM_QUERIES, spec.num_keys, 2, QUERY_SIZE)),
        f"{ours}.values": (f"{theirs}.values.weight", (spec.num_memories, hidden_size)),
    }


def refuse_norm(where: object, name: str, shape: Shape) -> CheckpointError | None:
    """The refusal of a query norm that normalises the wrong axis, None where `name` is another tensor."""
    if not _NORM.fullmatch(name) or shape == (_QUERIES,):
        return None
    return CheckpointError(
        where,
        f"{name} of shape {list(shape)}, a memory of product-key-memory 0.2.0 or 0.2.1",
        f"[{_QUERIES}] (0.1.1 to 0.1.10), or a layer norm (0.2.2 and later): those two normalise positions, "
        f"and run {QUERY_SIZE} tokens only",
        "train with a newer product-key-memory",
    )


def convert_memories(weights: dict[str, torch.Tensor], prefixes: Collection[str]) -> None:
    """Bring the memories under `prefixes` into the model's own layout, in place; what was one tensor stays
    one."""
    converted: dict[int, tuple[torch.Tensor, ...]] = {}
    for prefix in prefixes:
        keys = weights[f"{prefix}.keys.weight"]
        norm = [weights.pop(f"{prefix}.query_norm.{part}", None) for part in ("weight", "bias", *_RUNNING)]
        if id(keys) not in converted:
            converted[id(keys)] = (keys, _arrange_keys(keys), *_affine(*norm))
        _, arranged, scale, shift = converted[id(keys)]
        weights[f"{prefix}.keys.weight"] = arranged
        weights[f"{prefix}.query_norm.weight"], weights[f"{prefix}.query_norm.bias"] = scale, shift


def _arrange_keys(keys: torch.Tensor) -> torch.Tensor:
    """float32 [NUM_QUERIES, n, 2, QUERY_SIZE] -> [2 * NUM_QUERIES, QUERY_SIZE, n], first halves first."""
    return keys.permute(2, 0, 3, 1).reshape(2 * NUM_QUERIES, QUERY_SIZE, -1).contiguous()


def _affine(
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a layer norm as they are, of a batch norm those of the map that it is at inference,
    in the order of torch's own arithmetic (aten/src/ATen/native/cpu/batch_norm_kernel.cpp)."""
    assert weight is not None
    assert bias is not None
    if mean is None or variance is None:
        return weight, bias
    scale = weight / torch.sqrt(variance + BATCH_NORM_EPSILON)
    return scale, bias - mean * scale
