"""The canonical form of reformer-pytorch's models: inference only, pure tensor code, no branch on the
length; an Autopadder's padding is part of it.

Module names are those of the other canonical model (reformer.py), as far as the two have the same parts. T
is the model's dtype; the streams and the norms are float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from reformer_export.low_precision import LowPrecision
from reformer_export.lucidrains_spec import LucidrainsSpec, RotaryPositionsSpec
from reformer_export.modeling.casts import cast
from reformer_export.modeling.layers import (
    ACTIVATIONS,
    AttentionOutput,
    ReversibleLayer,
    StreamNorm,
    run_layers,
)
from reformer_export.modeling.low_precision import store_weights
from reformer_export.modeling.lucidrains_attention import Caches, SelfAttention, Turn
from reformer_export.modeling.lucidrains_embeddings import (
    Embeddings,
    RotaryPositions,
)
from reformer_export.modeling.lucidrains_memory import ProductKeyMemory
from reformer_export.modeling.lucidrains_norms import NoNorm, make_norm
from reformer_export.modeling.lucidrains_padding import pad_rows, padded_length
from reformer_export.modeling.reformer import TORCH_DTYPES, last_attended, load_weights, take_rows
from reformer_export.spec import DType


class Attention(nn.Module):
    """Norm, self-attention, projection."""

    def __init__(self, spec: LucidrainsSpec, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer_norm = make_norm(spec, dtype)
        self.self_attention = SelfAttention(spec, layer)
        self.output = AttentionOutput(spec, bias=True)
        self.gate = nn.Parameter(torch.zeros(1)) if spec.norm == "rezero" else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        update: torch.Tensor | None,
        attention_mask: torch.Tensor,
        beside: Turn | Caches | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stream float32 [B, L, hidden_size], what to add to it first, or None, int32 [B, L], the turn or the
        caches -> that sum, and what this block adds to the other stream, T [B, L, hidden_size]."""
        hidden_states, normalised = self.layer_norm(hidden_states, update)
        attended = self.self_attention(normalised, attention_mask, beside)
        projected: torch.Tensor = self.output.dense(attended)
        return hidden_states, projected if self.gate is None else projected * self.gate


class FeedForward(nn.Module):
    """Norm and a two-layer perceptron, gated or not."""

    def __init__(self, spec: LucidrainsSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.is_gated = spec.has_gated_feed_forward
        self.layer_norm = make_norm(spec, dtype)
        self.activation = ACTIVATIONS[spec.hidden_act]
        self.inner = nn.Linear(spec.hidden_size, spec.feed_forward_size * (2 if self.is_gated else 1))
        self.outer = nn.Linear(spec.feed_forward_size, spec.hidden_size)
        self.gate = nn.Parameter(torch.zeros(1)) if spec.norm == "rezero" else None

    def forward(
        self, attention_stream: torch.Tensor, update: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stream float32 [B, L, hidden_size], what to add to it first -> that sum, and what this block adds
        to the other stream, T [B, L, hidden_size]."""
        attention_stream, normalised = self.layer_norm(attention_stream, update)
        # Two dimensions: a Gemm with its bias and activation inside, where three kernels would pass memory.
        inner = self.inner(normalised.reshape(-1, normalised.shape[-1]))
        if self.is_gated:
            inner, gate = inner.chunk(2, dim=-1)
            activated = self.activation(inner) * gate
        else:
            activated = self.activation(inner)
        output: torch.Tensor = self.outer(activated)
        output = output if self.gate is None else output * self.gate
        return attention_stream, output.reshape(attention_stream.shape)


class Memory(nn.Module):
    """Norm and a product-key memory; called as FeedForward is."""

    def __init__(self, spec: LucidrainsSpec, dtype: torch.dtype) -> None:
        super().__init__()
        assert spec.product_keys is not None
        self.layer_norm = make_norm(spec, dtype)
        self.memory = ProductKeyMemory(spec.product_keys, spec.hidden_size)
        self.gate = nn.Parameter(torch.zeros(1)) if spec.norm == "rezero" else None

    def forward(
        self, attention_stream: torch.Tensor, update: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stream float32 [B, L, hidden_size], what to add to it first -> that sum, and what this block adds
        to the other stream, T [B, L, hidden_size]."""
        attention_stream, normalised = self.layer_norm(attention_stream, update)
        output: torch.Tensor = self.memory(normalised.reshape(-1, normalised.shape[-1]))
        output = output if self.gate is None else output * self.gate
        return attention_stream, output.reshape(attention_stream.shape)


def _make_feed_forward(spec: LucidrainsSpec, layer: int, dtype: torch.dtype) -> nn.Module:
    return Memory(spec, dtype) if layer in spec.memory_layers else FeedForward(spec, dtype)


class Encoder(nn.Module):
    """The reversible layers, and the mean of both streams, which a language model's layer norm follows."""

    def __init__(self, spec: LucidrainsSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ReversibleLayer(Attention(spec, i, dtype), _make_feed_forward(spec, i, dtype))
            for i in range(len(spec.layers))
        )
        self.layer_norm: nn.Module = NoNorm(dtype)
        if not spec.takes_vectors:
            self.layer_norm = StreamNorm(spec.hidden_size, spec.layer_norm_eps, dtype)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        beside: Turn | list[Caches] | None,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float32 [B, L, hidden_size], int32 [B, L], the turn, or the caches of every layer of a call that
        decodes, and int64 [B], each sequence's position to keep, or None for all -> T
        [B, L or 1, hidden_size]."""
        each = beside if isinstance(beside, list) else [beside] * len(self.layers)
        rows = run_layers(self.layers, hidden_states, attention_mask, each)
        attention_stream, hidden_states, update = (take_rows(row, last) for row in rows)
        mean = (attention_stream + (hidden_states + cast(update, torch.float32))) * 0.5
        normalised: torch.Tensor
        _, normalised = self.layer_norm(mean)
        return normalised


class LoneAttention(nn.Module):
    """One layer's attention, under the names that it has in an encoder."""

    def __init__(self, spec: LucidrainsSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"attention": Attention(spec, 0, dtype)})])

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, turn: Turn | None
    ) -> torch.Tensor:
        """float32 [B, L, hidden_size], int32 [B, L], the turn -> T [B, L, hidden_size]."""
        attention = self.layers.get_submodule("0.attention")
        projected: torch.Tensor
        _, projected = attention(hidden_states, None, attention_mask, turn)
        return projected


class LMHead(nn.Module):
    """Scores over the vocabulary; without a bias where the weights are those of the word embeddings."""

    def __init__(self, spec: LucidrainsSpec) -> None:
        super().__init__()
        self.projection = None
        if spec.embedding_size != spec.hidden_size:
            self.projection = nn.Linear(spec.hidden_size, spec.embedding_size)
        self.decoder = nn.Linear(spec.embedding_size, spec.vocab_size, bias=not spec.ties_embedding)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """T [B, L, hidden_size] -> T [B, L, vocab_size]."""
        if self.projection is not None:
            hidden_states = self.projection(hidden_states)
        logits: torch.Tensor = self.decoder(hidden_states)
        return logits


class LucidrainsReformer(nn.Module):
    """A Reformer of reformer-pytorch with the head of its task."""

    def __init__(self, spec: LucidrainsSpec, dtype: torch.dtype = torch.float32) -> None:
        """`dtype` is T, the type of the norms' results and so of the weights that read them."""
        super().__init__()
        self.spec = spec
        self.embeddings = Embeddings(spec)
        is_rotary = isinstance(spec.positions, RotaryPositionsSpec)
        self.rotary_positions = RotaryPositions(spec) if is_rotary else None
        self.encoder = Encoder(spec, dtype)
        self.lm_head = None if spec.task == "feature-extraction" else LMHead(spec)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """int64 [B, L], int64 [B, L] -> last_hidden_state T [B, L, hidden_size], or logits T
        [B, L or 1, vocab_size]."""
        ids, mask = input_ids, attention_mask
        if self.spec.is_padded:
            positions = torch.arange(padded_length(self.spec, ids), device=ids.device)
            ids, mask = pad_rows(ids, positions), pad_rows(mask, positions)
        turn = None if self.rotary_positions is None else self.rotary_positions(ids)
        last = last_attended(attention_mask) if self.spec.logits == "last" else None
        hidden_states = self.encoder(self.embeddings(ids), mask.to(torch.int32), turn, last)
        if self.spec.is_padded and last is None:
            hidden_states = hidden_states[:, : input_ids.shape[1]]
        if self.lm_head is None:
            return (hidden_states,)
        return (self.lm_head(hidden_states),)


class LucidrainsVectors(nn.Module):
    """A Reformer or an LSHSelfAttention of reformer-pytorch, which takes vectors."""

    def __init__(self, spec: LucidrainsSpec, dtype: torch.dtype = torch.float32) -> None:
        """`dtype` is T, as LucidrainsReformer's."""
        super().__init__()
        self.spec = spec
        is_alone = spec.architecture == "LSHSelfAttention"
        self.encoder = LoneAttention(spec, dtype) if is_alone else Encoder(spec, dtype)

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        """T [B, L, hidden_size], int64 [B, L] -> last_hidden_state T [B, L, hidden_size]."""
        vectors, mask = cast(inputs_embeds, torch.float32), attention_mask
        if self.spec.is_padded:
            positions = torch.arange(padded_length(self.spec, mask), device=mask.device)
            vectors, mask = pad_rows(vectors, positions), pad_rows(mask, positions)
        hidden_states: torch.Tensor = self.encoder(vectors, mask.to(torch.int32), None)
        return (hidden_states[:, : inputs_embeds.shape[1]] if self.spec.is_padded else hidden_states,)


def build_lucidrains(
    spec: LucidrainsSpec,
    weights: Mapping[str, torch.Tensor],
    dtype: DType = "float32",
    low_precision: LowPrecision | None = None,
) -> LucidrainsReformer | LucidrainsVectors:
    """A model in evaluation mode; `weights` under the names of this module's parameters.

    Rotations, norms, frequencies and product keys stay float32 whatever the dtype. CheckpointError when names
    or shapes do not fit.
    """
    with torch.device("meta"):
        kind = LucidrainsVectors if spec.takes_vectors else LucidrainsReformer
        model = kind(spec, TORCH_DTYPES[dtype])
    model = load_weights(model, weights)
    store_weights(model, low_precision, TORCH_DTYPES[dtype])
    return model
