"""What unpatched eager computes at the points of an exported graph, read by forward hooks.

Eager pads to a multiple of its chunk lengths: its values are cut to the tokens that were given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.contract import PRODUCT
from reformer_export.reference.eager import EagerReformer, EagerRun
from reformer_export.spec import AxialPositionsSpec, LSHAttentionSpec, ModelSpec

Values = dict[str, NDArray[Any]]
"""Arrays by a point's name: float32 [B, L, size] where tokens have values, [L, size] for positions, [B, size]
for what a classifier reads of the first token, [B, 1, size] for the last attended token; buckets int32
[B, H, R, L]."""


def run_eager(
    eager: EagerReformer,
    input_ids: NDArray[np.int64],
    attention_mask: NDArray[np.int64],
    num_hashes: int | None = None,
    names: Collection[str] | None = None,
) -> tuple[EagerRun, Values]:
    """One forward pass of eager on int64 [B, L] each: its outputs, and its values at every point.

    `num_hashes` is `EagerReformer.run`'s; `names` are the points to read, None for all.
    """
    reader = _Reader(eager.spec, attention_mask, names)
    handles = [
        eager.model.get_submodule(name).register_forward_hook(hook)
        for name, hook in reader.hooks(prefix="" if eager.spec.task == "feature-extraction" else "reformer.")
    ]
    try:
        run = eager.run(input_ids, attention_mask, num_hashes)
    finally:
        for handle in handles:
            handle.remove()
    values = reader.values
    for layer, buckets in run.buckets.items():
        values[f"encoder.layers.{layer}.attention.self_attention.buckets"] = buckets
    return run, values | {name: run.outputs[name] for name in SPAN_OUTPUTS if name in run.outputs}


SPAN_OUTPUTS: Final = ("start_logits", "end_logits")
"""Outputs that are no module's result."""

Hook = Callable[[Any, Any, Any], None]


class _Reader:
    """Hooks that fill `values`."""

    def __init__(
        self, spec: ModelSpec, attention_mask: NDArray[np.int64], names: Collection[str] | None
    ) -> None:
        self.spec = spec
        self.values: Values = {}
        self._names = names
        self._mask = attention_mask
        self._length = attention_mask.shape[1]

    def hooks(self, prefix: str) -> list[tuple[str, Hook]]:
        """(name of eager's module, its hook); `prefix` leads to the model below a head."""
        hooks: list[tuple[str, Hook]] = [
            (f"{prefix}embeddings.word_embeddings", self._keep("embeddings.word_embeddings")),
            (f"{prefix}embeddings.position_embeddings", self._read_positions),
            (f"{prefix}embeddings", self._keep("embeddings")),
            (f"{prefix}encoder.layer_norm", self._read_last_norm),
        ]
        for index, layer in enumerate(self.spec.layers):
            block = f"encoder.layers.{index}"
            is_lsh = isinstance(layer, LSHAttentionSpec)
            attention = f"{block}.attention.self_attention"
            projections = ("query_key", "value") if is_lsh else ("query", "key", "value")
            kept = [f"{attention}.{name}" for name in projections]
            kept += [f"{block}.attention.layer_norm", f"{block}.attention.output.dense"]
            kept += [f"{block}.feed_forward.layer_norm", f"{block}.feed_forward"]
            hooks += [(prefix + name, self._keep(name)) for name in kept]
            hooks.append((prefix + attention, self._read_attention(attention)))
            hooks.append((prefix + block, self._read_streams(block)))
            inner, feed_forward = self._read_slices(f"{block}.feed_forward")
            hooks.append((f"{prefix}{block}.feed_forward.dense.dense", inner))
            hooks.append((f"{prefix}{block}.feed_forward.output.dense", feed_forward))
        heads = {
            "text-generation": ("lm_head.decoder",),
            "fill-mask": ("lm_head.decoder",),
            "text-classification": ("classifier.dense", "classifier.out_proj"),
            "question-answering": ("qa_outputs",),
        }
        hooks += [(name, self._read_head(name)) for name in heads.get(self.spec.task, ())]
        return hooks

    def _put(self, name: str, value: torch.Tensor) -> None:
        if self._names is None or name in self._names:
            self.values[name] = value.detach().float().numpy().copy()

    def _keep(self, name: str) -> Hook:
        return lambda _module, _inputs, output: self._put(name, output[:, : self._length])

    def _read_positions(self, _module: Any, _inputs: Any, output: Any) -> None:
        name = "embeddings.position_embeddings"
        positions = output[0, : self._length]
        self._put(name, positions)
        if isinstance(self.spec.positions, AxialPositionsSpec):
            for axis, part in enumerate(positions.split(self.spec.positions.dims, dim=-1)):
                self._put(f"{name}.{axis}", part)

    def _read_attention(self, name: str) -> Hook:
        return lambda _module, _inputs, output: self._put(name, output.hidden_states[:, : self._length])

    def _read_streams(self, block: str) -> Hook:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self._put(f"{block}.attention_stream", output.attn_output[:, : self._length])
            self._put(f"{block}.hidden_states", output.hidden_states[:, : self._length])

        return hook

    def _read_slices(self, block: str) -> tuple[Hook, Hook]:
        """Hooks of the two linear modules of a feed-forward, whose inner dimension may be cut into slices."""
        slices = self.spec.feed_forward_slices

        def read_inner(_module: Any, _inputs: Any, output: Any) -> None:
            for i, part in enumerate(output[:, : self._length].chunk(slices, dim=-1)):
                self._put(f"{block}.inner.{i}", part)

        def read_outer(module: Any, inputs: Any, _output: Any) -> None:
            activations = inputs[0][:, : self._length].chunk(slices, dim=-1)
            for i, part in enumerate(activations):
                self._put(f"{block}.activation.{i}", part)
                weight, bias = module.weight.chunk(slices, dim=1)[i], module.bias if i == 0 else None
                self._put(f"{block}.outer.{i}", torch.nn.functional.linear(part, weight, bias))

        return read_inner, read_outer

    def _read_last_norm(self, _module: Any, _inputs: Any, output: Any) -> None:
        normalised = output[:, : self._length]
        self._put("encoder.layer_norm", normalised)
        if self.spec.logits == "last":
            self._put("last_attended", self._last_rows(normalised))

    def _read_head(self, name: str) -> Hook:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            given = inputs[0]
            if self.spec.logits == "last":
                given, output = self._last_rows(given), self._last_rows(output)
            self._put(name, output)
            self._put(name + PRODUCT, torch.nn.functional.linear(given, module.weight))

        return hook

    def _last_rows(self, value: torch.Tensor) -> torch.Tensor:
        """[B, L, size] -> [B, 1, size]: each sequence's row at its last position with mask 1."""
        last = (self._mask * np.arange(self._length)).max(axis=1)
        return value[torch.arange(len(last)), torch.from_numpy(last)][:, None]
