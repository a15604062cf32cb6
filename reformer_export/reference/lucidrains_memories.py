"""What eager's product-key memories choose, read from the unpatched package by hooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.errors import MissingDependencyError
from reformer_export.product_keys_spec import NUM_CHOSEN, NUM_QUERIES, QUERY_SIZE, ProductKeysSpec, QueryNorm
from reformer_export.reference.eager_values import Values, memory_name

VERSIONS: Final[dict[QueryNorm, tuple[str, str]]] = {
    "layer": ("0.2.2 or later", ">=0.2.2"),
    "batch": ("0.1.1 to 0.1.10", ">=0.1.1,<0.1.11"),
}
"""Versions of product-key-memory with a norm, in words and as pip takes them. Those between have a batch norm
that normalises the wrong axis, and run one length only."""


class RunningLayer(Protocol):
    """Says which layer runs."""

    layer: int | None


def hook_memories(net: Any, running: RunningLayer, chosen: dict[int, NDArray[np.int64]]) -> Iterator[Any]:
    """Hook the memories of a ReformerLM or Reformer `net`, which fill `chosen` by layer: int64 [B * L,
    NUM_QUERIES, NUM_CHOSEN], sorted. Gives what removes the hooks."""

    def keep(_module: Any, inputs: tuple[Any, ...]) -> None:
        assert running.layer is not None
        memories = inputs[0].reshape(-1, NUM_QUERIES, NUM_CHOSEN).numpy()
        chosen[running.layer] = np.sort(memories, axis=-1)

    tables = {id(memory): memory.values for memory in _memories(net).values()}  # one for all that are tied
    for table in tables.values():
        yield table.register_forward_pre_hook(keep)


def check_version(net: Any, spec: ProductKeysSpec | None) -> None:
    """MissingDependencyError unless the package that is installed is one that `spec` is of."""
    if spec is None:
        return
    memory = _memories(net)[spec.layers[0]]
    found: QueryNorm = "batch" if hasattr(memory.norm, "fn") else "layer"
    if found == spec.query_norm and _runs_any_length(memory):
        return
    words, pip = VERSIONS[spec.query_norm]
    raise MissingDependencyError(
        "comparing with eager",
        f"a version of product-key-memory whose memories have another {found} norm of queries",
        f"{words}, with the {spec.query_norm} norm that the checkpoint has",
        f"pip install 'product-key-memory{pip}'",
    )


def _runs_any_length(memory: Any) -> bool:
    try:
        with torch.no_grad():
            memory.eval()(torch.zeros(1, 1, memory.to_queries.in_features))
    except (RuntimeError, ValueError):
        return False
    return True


def memory_values(net: Any, memories: dict[int, NDArray[np.int64]]) -> Values:
    """By a point's name: what was chosen, and beside it each layer's keys, float32 [2 * NUM_QUERIES,
    QUERY_SIZE, n], first halves first."""
    values: Values = {}
    modules = _memories(net)
    for layer, chosen in memories.items():
        keys = modules[layer].keys.detach().permute(2, 0, 3, 1).reshape(2 * NUM_QUERIES, QUERY_SIZE, -1)
        values |= {f"{memory_name(layer)}.choice": chosen, f"{memory_name(layer)}.keys": keys.numpy()}
    return values


def pad_tokens(memories: NDArray[np.int64], batch: int, length: int) -> NDArray[np.int64]:
    """int64 [B * n, H, k] -> int64 [B * length, H, k]: any memories for the tokens that a graph pads with and
    eager does not."""
    by_row = memories.reshape(batch, -1, *memories.shape[1:])
    padding = length - by_row.shape[1]
    return np.pad(by_row, ((0, 0), (0, padding), (0, 0), (0, 0))).reshape(-1, *memories.shape[1:])


def _memories(net: Any) -> dict[int, Any]:
    """The package's PKM modules by layer."""
    reformer = getattr(net, "reformer", net)
    blocks = reformer.layers.blocks if hasattr(reformer, "layers") else ()  # an LSHSelfAttention has none
    found = enumerate(block.g.net.fn for block in blocks)
    return {layer: module for layer, module in found if hasattr(module, "num_keys")}
