"""Attention of reformer-pytorch's models, on this project's operators.

Some heads hash, the others attend locally, and both compare queries with keys of unit length that are the
queries' own. A learned memory stands before the sequence, where every token sees it; in reformer-pytorch it
stands behind, which its buckets make up for (docs/operators.md).

A masked token is no key, but it hashes and so moves the chunks of others: what it attends to is computed as
reformer-pytorch does.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch
from torch import nn

from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling.casts import cast
from reformer_export.modeling.lucidrains_masked import (
    SELF_LOGIT,
    attend_to_nothing,
    weigh_alone,
    weights_alone,
)
from reformer_export.ops import draw_rotations, local_attention, lsh_attention, lsh_buckets
from reformer_export.spec import LSHAttentionSpec

KEY_NORM_EPSILON: Final = 1e-24
"""Added to the mean square of a key, whose length reformer-pytorch bounds by 1e-12 from below."""

Turn = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of the positions' angles, float32 [K, D / 2] or [B, K, D / 2] each, for the K keys of a
layer."""


class Caches(Protocol):
    """What earlier tokens left in a layer, and what a call of new ones attends to."""

    def attend(
        self, attention: SelfAttention, query_key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """T [B, L, H*D], T [B, L, H*D], int32 [B, L] -> T [B, L, H*D]."""


class SelfAttention(nn.Module):
    """Attention to a layer's memory and tokens, from one projection for queries and keys.

    Attributes:
        may_be_masked: whether any token is; without it nothing is computed for those that are.
    """

    rotations: torch.Tensor
    may_be_masked = True
    alone: torch.Tensor

    def __init__(self, spec: LucidrainsSpec, layer: int) -> None:
        super().__init__()
        self.spec = spec
        attention = spec.layers[layer]
        width = spec.num_heads * spec.head_size
        self.query_key = nn.Linear(spec.hidden_size, width, bias=False)
        self.value = nn.Linear(
            spec.hidden_size, spec.head_size if spec.has_one_value_head else width, bias=False
        )
        if spec.num_memory_keys:
            self.memory = nn.Parameter(torch.zeros(1, spec.num_memory_keys, spec.hidden_size))
        self.hashes = isinstance(attention, LSHAttentionSpec)
        if isinstance(attention, LSHAttentionSpec):
            rotations = draw_rotations(attention.hash_seed, spec.rotations_shape(layer))
            self.register_buffer("rotations", rotations, persistent=False)
            self.register_buffer("alone", weights_alone(attention.num_hashes), persistent=False)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, beside: Turn | Caches | None
    ) -> torch.Tensor:
        """T [B, L, hidden_size], int32 [B, L], the turn of the memory and the tokens, or in a call that
        decodes the caches -> T [B, L, H*D]."""
        spec, keys, keys_mask = self.spec, hidden_states, attention_mask
        if spec.num_memory_keys:
            keys = torch.cat([self.memory.expand(keys.shape[0], -1, -1), keys], dim=1)
            always = torch.ones_like(keys[:, : spec.num_memory_keys, 0], dtype=torch.int32)
            keys_mask = torch.cat([always, attention_mask], dim=1)
        query_key, value = self.query_key(keys), self.value(keys)
        if spec.has_one_value_head:
            value = value.repeat(1, 1, spec.num_heads)
        if beside is not None and not isinstance(beside, tuple):
            return beside.attend(self, query_key, value, keys_mask)
        shortest = spec.padding_multiple if spec.is_padded and spec.pads_dense_lengths else 0
        return self.attend(query_key, value, keys_mask, beside, shortest)

    def attend(
        self,
        query_key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        turn: Turn | None,
        shortest: int,
    ) -> torch.Tensor:
        """T [B, K, H*D], T [B, K, H*D], int32 [B, K] of the memory and the tokens, of which there are
        `shortest` at least -> T [B, L, H*D] of the tokens."""
        first, local = self.spec.num_memory_keys, self.spec.num_local_heads * self.spec.head_size
        hashed = query_key[..., local:], value[..., local:]
        if self.hashes:
            attended = self._attend_by_hash(*hashed, mask, turn, shortest)
        else:
            attended = self._attend_to_all(*hashed, mask)
        if first:
            query_key, value, mask, attended = (x[:, first:] for x in (query_key, value, mask, attended))
        if not local:
            return attended
        locally = self._attend_locally(query_key[..., :local], value[..., :local], mask)
        return torch.cat([locally, attended], dim=-1)

    def _attend_by_hash(
        self,
        query_key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        turn: Turn | None,
        shortest: int,
    ) -> torch.Tensor:
        """T [B, K, H*D] of the heads that hash, int32 [B, K] -> T [B, K, H*D]."""
        spec = self.spec
        length, heads = query_key.shape[1], spec.num_hash_heads
        halves = (length + spec.padding_multiple - 1) // spec.padding_multiple
        first = torch.arange(halves, device=self.rotations.device)
        rotations = self.rotations.index_select(3, first).expand(heads, -1, -1, -1)
        buckets = lsh_buckets(query_key, rotations, torch.ones_like(mask), heads, [])
        if spec.num_memory_keys:
            is_memory = torch.arange(length, device=mask.device) < spec.num_memory_keys
            buckets = 2 * buckets + is_memory.to(torch.int32)
        scale = spec.head_size**-0.5
        attended: torch.Tensor = lsh_attention(
            query_key * scale if turn is None else turn_pairs(query_key, turn, heads, scale),
            value,
            buckets,
            mask,
            heads,
            spec.bucket_size,
            1,
            0,
            spec.is_causal,
            spec.padding_multiple,
            spec.dense_threshold,
            KEY_NORM_EPSILON,
            SELF_LOGIT,
            spec.dense_threshold,
        )
        if not self.may_be_masked:
            return attended
        weight = weigh_alone(buckets, spec.bucket_size, shortest, self.alone).transpose(1, 2)
        alone = (cast(value, torch.float32).view(*weight.shape[:3], -1) * weight).view(value.shape)
        alone = cast(alone, value.dtype)
        return torch.where(mask[..., None] != 0, attended, alone)

    def _attend_to_all(
        self, query_key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """The same, of full attention: one chunk holds every key. It does not turn."""
        spec, longest = self.spec, self.spec.longest_attended
        attended: torch.Tensor = local_attention(
            query_key,
            unit_keys(query_key, spec.num_hash_heads),
            value,
            mask,
            spec.num_hash_heads,
            longest,
            0,
            0,
            spec.is_causal,
            longest,
            longest,
            SELF_LOGIT,
            False,
        )
        return attended

    def _attend_locally(
        self, query_key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """T [B, L, H*D] of the local heads, int32 [B, L] -> T [B, L, H*D]."""
        spec, window = self.spec, self.spec.padding_multiple
        attended: torch.Tensor = local_attention(
            query_key,
            unit_keys(query_key, spec.num_local_heads),
            value,
            mask,
            spec.num_local_heads,
            window,
            1,
            0 if spec.is_causal else 1,
            spec.is_causal,
            window,
            window,
            SELF_LOGIT,
            False,
        )
        if not self.hashes or not self.may_be_masked:
            return attended  # nobody is moved by what masked tokens attend to
        sees_any, average = attend_to_nothing(value, mask, window, spec.is_causal)
        sees_any = torch.logical_or((mask != 0)[..., None], sees_any)
        return torch.where(sees_any, attended, cast(average, value.dtype))


def unit_keys(query_key: torch.Tensor, num_heads: int) -> torch.Tensor:
    """T [B, L, H*D] -> T [B, L, H*D], each head's vectors with length 1; zeros stay so."""
    vectors = cast(query_key, torch.float32).view(*query_key.shape[:2], num_heads, -1)
    # No sum: the exporter takes one with so small a number for one with 0.
    mean_square = vectors.pow(2).mean(-1, keepdim=True).clamp(min=KEY_NORM_EPSILON)
    vectors = vectors * torch.rsqrt(mean_square * vectors.shape[-1])
    return cast(vectors.view(query_key.shape), query_key.dtype)


def turn_pairs(query_key: torch.Tensor, turn: Turn, num_heads: int, scale: float) -> torch.Tensor:
    """T [B, K, H*D] -> T [B, K, H*D]: neighbouring elements of each head, taken as points of a plane, turned
    by the angles of their position (Su et al. 2021), and multiplied by `scale`."""
    cosines, sines = (x[..., None, :] * scale for x in turn)
    pairs = cast(query_key, torch.float32).view(*query_key.shape[:2], num_heads, -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
    return cast(turned.view(query_key.shape), query_key.dtype)
