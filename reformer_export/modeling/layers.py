"""The layers of a Reformer: LSH or local self-attention, feed-forward, and the reversible pair of streams.

Module names follow transformers' modeling_reformer.py, so that its weights load by name.

T is the model's dtype. The streams and the norms are float32 whatever T is: every layer adds to a stream, and
in float16 or bfloat16 each addition would round all that is in it. Between a norm and the next addition
everything is T.

An addition to a stream belongs to the norm that reads the sum, so that both are one node: what a block
computes travels to the next norm of its stream as an `update`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from reformer_export.contract import KEY_NORM_EPSILON, NO_SELF_LOGIT, SELF_LOGIT
from reformer_export.modeling.casts import InFloat32, cast
from reformer_export.ops import (
    draw_rotations,
    final_norm,
    local_attention,
    local_attention_step,
    lsh_attention,
    lsh_attention_step,
    lsh_buckets,
    residual_norm,
)
from reformer_export.spec import Activation, AttentionSpec, LocalAttentionSpec, LSHAttentionSpec, ModelSpec


def _gelu_new(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.gelu(x, approximate="tanh")


ACTIVATIONS: Final[dict[Activation, Callable[[torch.Tensor], torch.Tensor]]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "gelu_new": _gelu_new,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


@dataclass
class LayerCache:
    """What earlier tokens left in a layer, for a call that decodes.

    `past`: the caches in the order of the step operator's inputs; `present`: the same with the call's tokens
    in them, empty until the layer has run; `lengths` and `new_lengths` int32 [B]: tokens held, and new ones.
    """

    past: tuple[torch.Tensor, ...]
    lengths: torch.Tensor
    new_lengths: torch.Tensor
    present: tuple[torch.Tensor, ...] = ()


class Norm(InFloat32):
    """A layer norm with float32 parameters; only the result is rounded to `dtype`.

    Float32 in the graph's own types, since ONNX's `stash_type` is an offer that not every runtime takes.
    """

    def __init__(self, size: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps
        self.output_dtype = dtype


class StreamNorm(Norm):
    """Of a float32 stream, after what is to be added to it."""

    def forward(
        self, stream: torch.Tensor, update: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stream float32 [B, L, size], and what to add to it, T or float32 of that shape, or None -> the sum
        float32 [B, L, size], its norm T [B, L, size]."""
        if update is None:
            normed = nn.functional.layer_norm(stream, self.weight.shape, self.weight, self.bias, self.eps)
        else:
            stream, normed = residual_norm(stream, update, self.weight, self.bias, self.eps)
        return stream, cast(normed, self.output_dtype)


class FinalNorm(Norm):
    """Of two float32 streams side by side, after what is to be added to the second."""

    def forward(self, other_stream: torch.Tensor, stream: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """Streams float32 [B, L, N], and T or float32 of that shape -> T [B, L, 2 N]."""
        normed = final_norm(other_stream, stream, update, self.weight, self.bias, self.eps)
        return cast(normed, self.output_dtype)


def operator_attributes(spec: ModelSpec, attention: AttentionSpec) -> tuple[float, ...]:
    """The attributes of a layer's attention operator, and of its step, in their order."""
    chunking = (
        spec.num_heads,
        attention.chunk_length,
        attention.num_chunks_before,
        attention.num_chunks_after,
        spec.is_causal,
        spec.padding_multiple,
        spec.padding_threshold,
    )
    if isinstance(attention, LSHAttentionSpec):
        return *chunking, KEY_NORM_EPSILON, SELF_LOGIT, attention.chunk_length
    return *chunking, NO_SELF_LOGIT, True


class LSHSelfAttention(nn.Module):
    """Shared query-key projection, hash, and attention among tokens of like hash."""

    rotations: torch.Tensor

    def __init__(self, spec: ModelSpec, attention: LSHAttentionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.attention = attention
        width = spec.num_heads * spec.head_size
        self.query_key = nn.Linear(spec.hidden_size, width, bias=False)
        self.value = nn.Linear(spec.hidden_size, width, bias=False)
        shape = (spec.num_heads, spec.head_size, attention.num_hashes, sum(attention.num_buckets) // 2)
        self.register_buffer("rotations", draw_rotations(attention.hash_seed, shape), persistent=False)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, cache: LayerCache | None = None
    ) -> torch.Tensor:
        """T [B, L, hidden_size], int32 [B, L] -> T [B, L, H*D]."""
        query_key = self.query_key(hidden_states)
        value = self.value(hidden_states)
        buckets = lsh_buckets(
            query_key, self.rotations, attention_mask, self.spec.num_heads, list(self.attention.num_buckets)
        )
        attributes = operator_attributes(self.spec, self.attention)
        attended: torch.Tensor
        if cache is None:
            attended = lsh_attention(query_key, value, buckets, attention_mask, *attributes)
        else:
            attended, *present = lsh_attention_step(
                *(query_key, value, buckets, *cache.past, cache.lengths, cache.new_lengths), *attributes
            )
            cache.present = tuple(present)
        return attended


class LocalSelfAttention(nn.Module):
    """Attention of each chunk to itself and its neighbours."""

    def __init__(self, spec: ModelSpec, attention: LocalAttentionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.attention = attention
        width = spec.num_heads * spec.head_size
        self.query = nn.Linear(spec.hidden_size, width, bias=False)
        self.key = nn.Linear(spec.hidden_size, width, bias=False)
        self.value = nn.Linear(spec.hidden_size, width, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, cache: LayerCache | None = None
    ) -> torch.Tensor:
        """T [B, L, hidden_size], int32 [B, L] -> T [B, L, H*D]."""
        tensors = self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)
        attributes = operator_attributes(self.spec, self.attention)
        attended: torch.Tensor
        if cache is None:
            attended = local_attention(*tensors, attention_mask, *attributes)
        else:
            attended, *present = local_attention_step(
                *(*tensors, *cache.past, cache.lengths, cache.new_lengths), *attributes
            )
            cache.present = tuple(present)
        return attended


class AttentionOutput(nn.Module):
    """Projection of the concatenated heads."""

    def __init__(self, spec: ModelSpec, bias: bool = False) -> None:
        super().__init__()
        self.dense = nn.Linear(spec.num_heads * spec.head_size, spec.hidden_size, bias=bias)


class Attention(nn.Module):
    """Layer norm, self-attention, projection."""

    def __init__(self, spec: ModelSpec, attention: AttentionSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer_norm = StreamNorm(spec.hidden_size, spec.layer_norm_eps, dtype)
        self.self_attention: nn.Module
        if isinstance(attention, LSHAttentionSpec):
            self.self_attention = LSHSelfAttention(spec, attention)
        else:
            self.self_attention = LocalSelfAttention(spec, attention)
        self.output = AttentionOutput(spec)

    def forward(
        self,
        hidden_states: torch.Tensor,
        update: torch.Tensor | None,
        attention_mask: torch.Tensor,
        cache: LayerCache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stream float32 [B, L, hidden_size], what to add to it first, or None, and int32 [B, L] -> that sum,
        and what this block adds to the other stream, T [B, L, hidden_size]."""
        hidden_states, normalised = self.layer_norm(hidden_states, update)
        attended = self.self_attention(normalised, attention_mask, cache)
        projected: torch.Tensor = self.output.dense(attended)
        return hidden_states, projected


class FeedForward(nn.Module):
    """Layer norm and a two-layer perceptron whose inner dimension is computed in slices.

    With n slices only 1/n of the inner activations [B, L, feed_forward_size] is alive at a time; the sum of
    the slices' outputs, float32 whatever T is, is the same up to the order of summation.
    """

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        inner = spec.feed_forward_size // spec.feed_forward_slices
        slices = range(spec.feed_forward_slices)
        self.layer_norm = StreamNorm(spec.hidden_size, spec.layer_norm_eps, dtype)
        self.activation = ACTIVATIONS[spec.hidden_act]
        self.inner = nn.ModuleList(nn.Linear(spec.hidden_size, inner) for _ in slices)
        self.outer = nn.ModuleList(nn.Linear(inner, spec.hidden_size, bias=i == 0) for i in slices)

    def forward(
        self, attention_stream: torch.Tensor, update: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stream float32 [B, L, hidden_size], what to add to it first -> that sum, and what this block adds
        to the other stream, T (float32 with more slices than one) [B, L, hidden_size]."""
        attention_stream, normalised = self.layer_norm(attention_stream, update)
        # Two dimensions: a Gemm with its bias and activation inside, where three kernels would pass memory.
        rows = normalised.view(-1, normalised.shape[-1])
        output: torch.Tensor = self.outer[0](self.activation(self.inner[0](rows)))
        for inner, outer in list(zip(self.inner, self.outer, strict=True))[1:]:
            output = cast(output, torch.float32) + cast(outer(self.activation(inner(rows))), torch.float32)
        return attention_stream, output.view(attention_stream.shape)


class ReversibleLayer(nn.Module):
    """One layer of the reversible residual network (Gomez et al. 2017), forwards only."""

    def __init__(self, attention: nn.Module, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward

    def forward(
        self,
        attention_stream: torch.Tensor,
        hidden_states: torch.Tensor,
        update: torch.Tensor | None,
        attention_mask: torch.Tensor,
        beside: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Two streams float32 [B, L, hidden_size], what to add to the second first, or None, int32 [B, L],
        and what the attention takes beside them -> the next two streams, the second without the last thing
        returned, which is to be added to it."""
        hidden_states, attended = self.attention(hidden_states, update, attention_mask, beside)
        attention_stream, update = self.feed_forward(attention_stream, attended)
        return attention_stream, hidden_states, update


def run_layers(
    layers: Sequence[nn.Module] | nn.ModuleList,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    beside: Sequence[Any],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """float32 [B, L, hidden_size], int32 [B, L], and what each layer's attention takes beside them -> both
    streams after the layers, float32 [B, L, hidden_size], the second without the last thing returned, T or
    float32, which is to be added to it."""
    attention_stream, update = hidden_states, None
    for layer, own in zip(layers, beside, strict=True):
        attention_stream, hidden_states, update = layer(
            attention_stream, hidden_states, update, attention_mask, own
        )
    assert update is not None  # there are layers
    return attention_stream, hidden_states, update
