"""Eager's buckets, and its values at the points of an exported graph, read by forward hooks.

Eager pads to a multiple of its chunk lengths: its values are cut to the tokens that were given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.contract import PRODUCT
from reformer_export.reference.module_layers import without_round_offsets
from reformer_export.reference.rounded import compute_slice, multiply
from reformer_export.spec import AxialPositionsSpec, LSHAttentionSpec, ModelSpec, Task

Values = dict[str, NDArray[Any]]
"""Arrays by a point's name: float32 [B, L, size] where tokens have values, [L, size] for positions, [B, size]
for what a classifier reads of the first token, [B, 1, size] for the last attended token; buckets int32
[B, H, R, L]."""


SPAN_OUTPUTS: Final = ("start_logits", "end_logits")
"""Outputs that are no module's result."""

HEADS: Final[dict[Task, tuple[str, ...]]] = {
    "text-generation": ("lm_head.decoder",),
    "fill-mask": ("lm_head.decoder",),
    "text-classification": ("classifier.dense", "classifier.out_proj"),
    "question-answering": ("qa_outputs",),
}
"""A head's linear modules."""

Hook = Callable[[Any, Any, Any], None]


def attention_name(layer: int) -> str:
    """The module, below a head, of a layer's attention."""
    return f"encoder.layers.{layer}.attention.self_attention"


def memory_name(layer: int) -> str:
    """The module of a layer's product-key memory, in the canonical model (modeling/lucidrains_memory.py)."""
    return f"encoder.layers.{layer}.feed_forward.memory"


class ValueReader:
    """Hooks that fill `values`, those of the points in `names` (None: all), and `buckets` by LSH layer."""

    def __init__(
        self,
        spec: ModelSpec,
        attention_mask: NDArray[np.int64],
        num_hashes: int | None,
        names: Collection[str] | None,
    ) -> None:
        self.spec = spec
        self.values: Values = {}
        self.buckets: dict[int, NDArray[np.int32]] = {}
        self._names = names
        self._mask = attention_mask
        self._length = attention_mask.shape[1]
        self._num_hashes = num_hashes

    def hooks(self, prefix: str) -> list[tuple[str, Hook]]:
        """(name of eager's module, its hook); `prefix` leads to the model below a head."""
        buckets = [
            (prefix + attention_name(layer), self._read_buckets(layer)) for layer in self.spec.lsh_layers
        ]
        return buckets if self._names is not None and not self._names else buckets + self._value_hooks(prefix)

    def _value_hooks(self, prefix: str) -> list[tuple[str, Hook]]:
        hooks: list[tuple[str, Hook]] = [
            (f"{prefix}embeddings.word_embeddings", self._keep("embeddings.word_embeddings")),
            (f"{prefix}embeddings.position_embeddings", self._read_positions),
            (f"{prefix}embeddings", self._keep("embeddings")),
            (f"{prefix}encoder.layer_norm", self._read_last_norm),
        ]
        for index, layer in enumerate(self.spec.layers):
            block, attention = f"encoder.layers.{index}", attention_name(index)
            is_lsh = isinstance(layer, LSHAttentionSpec)
            projections = ("query_key", "value") if is_lsh else ("query", "key", "value")
            kept = [f"{attention}.{name}" for name in projections]
            kept += [f"{block}.attention.layer_norm", f"{block}.attention.output.dense"]
            kept += [f"{block}.feed_forward.layer_norm", f"{block}.feed_forward"]
            hooks += [(prefix + name, self._keep(name)) for name in kept]
            hooks.append((prefix + attention, self._keep(attention, "hidden_states")))
            hooks.append((prefix + block, self._keep(f"{block}.attention_stream", "attn_output")))
            hooks.append((prefix + block, self._keep(f"{block}.hidden_states", "hidden_states")))
            inner, feed_forward = self._read_slices(f"{block}.feed_forward")
            hooks.append((f"{prefix}{block}.feed_forward.dense.dense", inner))
            hooks.append((f"{prefix}{block}.feed_forward.output.dense", feed_forward))
        return hooks + [(name, self._read_head(name)) for name in HEADS.get(self.spec.task, ())]

    def _put(self, name: str, value: torch.Tensor) -> None:
        if self._names is None or name in self._names:
            self.values[name] = value.detach().float().numpy().copy()

    def _keep(self, name: str, field: str | None = None) -> Hook:
        """Keep a module's result, or a field of it."""

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self._put(name, (output if field is None else getattr(output, field))[:, : self._length])

        return hook

    def _read_positions(self, _module: Any, _inputs: Any, output: Any) -> None:
        name = "embeddings.position_embeddings"
        positions = output[0, : self._length]
        self._put(name, positions)
        if isinstance(self.spec.positions, AxialPositionsSpec):
            for axis, values in enumerate(positions.split(self.spec.positions.dims, dim=-1)):
                self._put(f"{name}.{axis}", values)

    def _read_slices(self, block: str) -> tuple[Hook, Hook]:
        """Hooks of the two linear modules of a feed-forward, whose inner dimension may be cut into slices."""
        slices = self.spec.feed_forward_slices

        def read_inner(_module: Any, _inputs: Any, output: Any) -> None:
            for i, values in enumerate(output[:, : self._length].chunk(slices, dim=-1)):
                self._put(f"{block}.inner.{i}", values)

        def read_outer(module: Any, inputs: Any, _output: Any) -> None:
            activations = inputs[0][:, : self._length].chunk(slices, dim=-1)
            for i, values in enumerate(activations):
                self._put(f"{block}.activation.{i}", values)
                self._put(f"{block}.outer.{i}", compute_slice(module, i, slices, values))

        return read_inner, read_outer

    def _read_last_norm(self, _module: Any, _inputs: Any, output: Any) -> None:
        normalised = output[:, : self._length]
        is_last = self.spec.logits == "last"
        self._put("encoder.layer_norm", last_rows(normalised, self._mask) if is_last else normalised)

    def _read_head(self, name: str) -> Hook:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            given = inputs[0]
            if self.spec.logits == "last":
                given, output = last_rows(given, self._mask), last_rows(output, self._mask)
            self._put(name, output)
            self._put(name + PRODUCT, multiply(module, given))

        return hook

    def _read_buckets(self, layer: int) -> Hook:
        attention = self.spec.layers[layer]
        assert isinstance(attention, LSHAttentionSpec)
        rounds = self._num_hashes or attention.num_hashes
        size = (len(self._mask), self.spec.num_heads, rounds)
        num_buckets = math.prod(attention.num_buckets)

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if output.buckets is None:
                self.buckets[layer] = np.zeros((*size, self._length), np.int32)
                return
            buckets = output.buckets.reshape(*size, -1)
            own = without_round_offsets(buckets, num_buckets)[..., : self._length]
            self.buckets[layer] = own.numpy().astype(np.int32)

        return hook


def last_rows(value: Any, attention_mask: NDArray[np.int64]) -> Any:
    """Array or tensor [B, L, size] -> [B, 1, size]: each sequence's row at its last position with mask 1."""
    last = (attention_mask * np.arange(attention_mask.shape[1])).max(axis=1)
    return value[np.arange(len(last)), last][:, None]
