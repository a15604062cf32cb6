"""The canonical Reformer: inference only, pure tensor code, no padding and no branch on the length."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import nn

from reformer_export.errors import CheckpointError
from reformer_export.low_precision import LowPrecision
from reformer_export.modeling.embeddings import Embeddings
from reformer_export.modeling.layers import (
    Attention,
    FeedForward,
    FinalNorm,
    LayerCache,
    ReversibleLayer,
    run_layers,
)
from reformer_export.modeling.low_precision import store_weights
from reformer_export.spec import DType, ModelSpec

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Encoder(nn.Module):
    """The reversible layers, and a layer norm over both streams."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ReversibleLayer(Attention(spec, attention, dtype), FeedForward(spec, dtype))
            for attention in spec.layers
        )
        self.layer_norm = FinalNorm(2 * spec.hidden_size, spec.layer_norm_eps, dtype)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        caches: Sequence[LayerCache] = (),
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float32 [B, L, hidden_size], int32 [B, L], a cache for every layer of a call that decodes, and
        int64 [B], each sequence's position to keep, or None for all -> T [B, L or 1, 2 * hidden_size]."""
        beside: Sequence[LayerCache | None] = caches or [None] * len(self.layers)
        rows = run_layers(self.layers, hidden_states, attention_mask, beside)
        return cast(torch.Tensor, self.layer_norm(*(take_rows(each, last) for each in rows)))


class LMHead(nn.Module):
    """Scores over the vocabulary, for causal and masked language models."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.decoder = nn.Linear(2 * spec.hidden_size, spec.vocab_size)


class ClassificationHead(nn.Module):
    """Scores over labels, from the first token."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * spec.hidden_size, spec.hidden_size)
        self.out_proj = nn.Linear(spec.hidden_size, spec.num_labels)


class Reformer(nn.Module):
    """A Reformer with the head of its task; the outputs are those of `ModelSpec.output_names`, in order."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype = torch.float32) -> None:
        """`dtype` is T, the type of the norms' results and so of the weights that read them."""
        super().__init__()
        self.spec = spec
        self.embeddings = Embeddings(spec)
        self.encoder = Encoder(spec, dtype)
        if spec.task in ("text-generation", "fill-mask"):
            self.lm_head = LMHead(spec)
        elif spec.task == "text-classification":
            self.classifier = ClassificationHead(spec)
        elif spec.task == "question-answering":
            self.qa_outputs = nn.Linear(2 * spec.hidden_size, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """int64 [B, L], int64 [B, L] -> the task's outputs.

        last_hidden_state T [B, L, 2 * hidden_size]; logits T [B, L or 1, vocab_size] or [B, num_labels];
        start_logits and end_logits T [B, L].
        """
        mask = attention_mask.to(torch.int32)
        last = last_attended(attention_mask) if self.spec.logits == "last" else None
        hidden_states = self.encoder(self.embeddings(input_ids), mask, last=last)
        if self.spec.task == "feature-extraction":
            return (hidden_states,)
        if self.spec.task == "text-classification":
            pooled = torch.tanh(self.classifier.dense(hidden_states[:, 0]))
            return (self.classifier.out_proj(pooled),)
        if self.spec.task == "question-answering":
            scores = self.qa_outputs(hidden_states)
            return scores[..., 0], scores[..., 1]
        return (self.lm_head.decoder(hidden_states),)


def last_attended(attention_mask: torch.Tensor) -> torch.Tensor:
    """int64 [B, L] -> int64 [B]: each sequence's last position with mask 1."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask * positions).amax(dim=1)


def take_rows(x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
    """T [B, L, N], int64 [B] -> T [B, 1, N]: each sequence's row at its position; without positions, all."""
    if positions is None:
        return x
    return x.gather(1, positions[:, None, None].expand(-1, -1, x.shape[2]))


def build_reformer(
    spec: ModelSpec,
    weights: Mapping[str, torch.Tensor],
    dtype: DType = "float32",
    low_precision: LowPrecision | None = None,
) -> Reformer:
    """A Reformer in evaluation mode; `weights` under transformers' parameter names, without `reformer.`.

    Rotations and norms stay float32 whatever the dtype. CheckpointError when names or shapes do not fit.
    """
    with torch.device("meta"):
        model = Reformer(spec, TORCH_DTYPES[dtype])
    return _load(model, spec, weights, dtype, low_precision)


def build_encoder(spec: ModelSpec, weights: Mapping[str, torch.Tensor], dtype: DType = "float32") -> Encoder:
    """The layers alone, in the same way; of a sequence each of them sees as many tokens as its own chunks
    need."""
    with torch.device("meta"):
        encoder = Encoder(spec, TORCH_DTYPES[dtype])
    for layer, attention in zip(encoder.layers, spec.layers, strict=True):
        own: Any = layer.get_submodule("attention.self_attention")
        own.spec = dataclasses.replace(spec, layers=(attention,))
    return _load(encoder, spec, weights, dtype)


def _load(
    model: AnyModule,
    spec: ModelSpec,
    weights: Mapping[str, torch.Tensor],
    dtype: DType,
    low_precision: LowPrecision | None = None,
) -> AnyModule:
    model = load_weights(model, dict(_slice_feed_forward(spec, weights)))
    store_weights(model, low_precision, TORCH_DTYPES[dtype])
    return model


def load_weights(model: AnyModule, state: Mapping[str, torch.Tensor]) -> AnyModule:
    """`model`, made without memory, with the tensors of `state` as they are, in evaluation mode.

    CheckpointError when names or shapes do not fit.
    """
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            "weights",
            f"names or shapes that do not fit ({error})",
            "those of the model description",
            "use the config.json that belongs to these weights",
        ) from error
    return model.requires_grad_(False).eval()


def _slice_feed_forward(
    spec: ModelSpec, weights: Mapping[str, torch.Tensor]
) -> list[tuple[str, torch.Tensor]]:
    """Rename `feed_forward.dense.dense` / `feed_forward.output.dense` and cut them into slices."""
    slices = spec.feed_forward_slices
    state: list[tuple[str, torch.Tensor]] = []
    for name, weight in weights.items():
        if ".feed_forward.dense.dense." in name:
            parts = weight.chunk(slices, dim=0)
            state += [(name.replace("dense.dense", f"inner.{i}"), part) for i, part in enumerate(parts)]
        elif name.endswith(".feed_forward.output.dense.weight"):
            parts = weight.chunk(slices, dim=1)
            state += [(name.replace("output.dense", f"outer.{i}"), part) for i, part in enumerate(parts)]
        elif name.endswith(".feed_forward.output.dense.bias"):
            state.append((name.replace("output.dense", "outer.0"), weight))
        else:
            state.append((name, weight))
    return state
