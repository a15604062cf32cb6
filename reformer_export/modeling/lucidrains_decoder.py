"""reformer-pytorch's ReformerLM that decodes: a prompt, then one token a call, against what earlier tokens
left.

A prompt is the model's own pass over it, the tokens that an Autopadder adds included, which hash by what they
are. A step has none of these: it is the last row of the layer's operators over the cached tokens and the new
one, where padding is virtual (docs/operators.md). A call of several tokens has the padding of the longest
row, so that a prompt is as it is alone beside those that are padded to the same length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from reformer_export.artifact.decoding import cache_tensors
from reformer_export.contract import LOCAL_ATTENTION_STEP, LSH_ATTENTION_STEP, LSH_BUCKETS_STEP, Operator
from reformer_export.lucidrains_spec import LucidrainsSpec, RotaryPositionsSpec
from reformer_export.modeling.lucidrains import LucidrainsReformer
from reformer_export.modeling.lucidrains_attention import (
    KEY_NORM_EPSILON,
    Caches,
    SelfAttention,
    Turn,
    turn_pairs,
    unit_keys,
)
from reformer_export.modeling.lucidrains_masked import SELF_LOGIT
from reformer_export.modeling.lucidrains_padding import pad_above, pad_rows
from reformer_export.ops import local_attention_step, lsh_attention_step, lsh_buckets_step


class LucidrainsDecoder(nn.Module):
    """A causal ReformerLM's modules, under their names there, on caches."""

    def __init__(self, model: LucidrainsReformer) -> None:
        super().__init__()
        assert model.lm_head is not None  # as `check_decodable` sees to
        assert isinstance(model.spec, LucidrainsSpec)
        self.spec = model.spec
        self.embeddings = model.embeddings
        self.rotary_positions = model.rotary_positions
        self.encoder = model.encoder
        self.lm_head = model.lm_head

    def forward(
        self,
        input_ids: torch.Tensor,
        lengths: torch.Tensor,
        new_lengths: torch.Tensor,
        past: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        """int64 [B, Q], int32 [B], int32 [B], the caches in `cache_tensors`' order -> logits T [B, 1,
        vocab_size] of each row's last new token, and the caches with the new tokens in them.

        A row's ids behind its new ones may be any of the vocabulary. Where Q is 1 nothing is padded.
        """
        spec = self.spec
        threshold = 1 if spec.pads_dense_lengths else max(spec.padding_threshold, 1)
        order = torch.arange(pad_above(spec, input_ids, threshold), device=input_ids.device)
        mask = (order < new_lengths[:, None]).to(torch.int32)
        ids = pad_rows(input_ids, order) * mask
        positions = (order + lengths[:, None].to(torch.int64)).clamp(0, spec.position_limit - 1)
        whole, turn = self._turn(order, positions)
        caches = [StepCaches(spec, lengths, new_lengths, whole, turn) for _ in spec.layers]
        tensors = cache_tensors(spec, "float32")
        for tensor, value in zip(tensors, past, strict=True):
            caches[tensor.layer].past[tensor.name] = value
        last = (new_lengths.to(torch.int64) - 1).clamp(0)
        beside: list[Caches] = list(caches)
        hidden_states = self.encoder(self.embeddings(ids, positions), mask, beside, last)
        logits: torch.Tensor = self.lm_head(hidden_states)
        return (logits, *(caches[tensor.layer].present[tensor.name] for tensor in tensors))

    def _turn(self, order: torch.Tensor, positions: torch.Tensor) -> tuple[Turn | None, Turn | None]:
        """Of whole passes over int64 [L], and of steps at int64 [B, L]."""
        if self.rotary_positions is None:
            return None, None
        is_hashed = (order.amax(0, keepdim=True) >= self.spec.dense_threshold).float()
        return self.rotary_positions.turn(order.float() * is_hashed), self.rotary_positions.turn(
            positions.float()
        )


@dataclass
class StepCaches:
    """A layer's caches in a call.

    `past`: by the names that `cache_tensors` has; `present`: the same with the call's tokens in them, empty
    until the layer has run; `lengths` and `new_lengths` int32 [B]: tokens held, and new ones; `whole` and
    `turn`: the turns of a pass over the call's tokens, and of these tokens where they are in their rows.
    """

    spec: LucidrainsSpec
    lengths: torch.Tensor
    new_lengths: torch.Tensor
    whole: Turn | None
    turn: Turn | None
    past: dict[str, torch.Tensor] = field(default_factory=dict)
    present: dict[str, torch.Tensor] = field(default_factory=dict)

    def attend(
        self, attention: SelfAttention, query_key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """A pass over the call's tokens for rows that hold none, and the steps of the others."""
        local = self.spec.num_local_heads * self.spec.head_size
        first, *others = list_step_operators(self.spec, attention.hashes)
        hashed = query_key[..., local:], value[..., local:]
        if attention.hashes:
            stepped = self._step_by_hash(attention, *hashed)
        else:
            stepped = self._step_locally(first, *hashed, self.new_lengths)
        if self.spec.unturned_keys and attention.hashes:
            is_dense = self.lengths + self.new_lengths <= self.spec.dense_threshold
            new_lengths = torch.where(is_dense, self.new_lengths, 0)
            densely = self._step_locally(others[1], *hashed, new_lengths)
            stepped = torch.where(is_dense[:, None, None], densely, stepped)
        if local:
            own = query_key[..., :local], value[..., :local]
            stepped = torch.cat([self._step_locally(others[-1], *own, self.new_lengths), stepped], dim=-1)
        passed = attention.attend(query_key, value, mask, self.whole, 0)
        return torch.where((self.lengths == 0)[:, None, None], passed, stepped)

    def _step_by_hash(
        self, attention: SelfAttention, query_key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """T [B, Q, H*D] of the heads that hash -> T [B, Q, H*D]."""
        spec, past, turn = self.spec, self.past, self.turn
        heads, scale = spec.num_hash_heads, spec.head_size**-0.5
        rows = self.lengths, self.new_lengths
        hashing, attending, *_ = list_step_operators(spec, attention.hashes)
        new_buckets, buckets, self.present["records"] = lsh_buckets_step(
            query_key, attention.rotations, past["records"], *rows, *hashing.attributes
        )
        attended: torch.Tensor
        attended, self.present["query_key"], self.present["value"], _ = lsh_attention_step(
            query_key * scale if turn is None else turn_pairs(query_key, turn, heads, scale),
            *(value, new_buckets, past["query_key"], past["value"], buckets, *rows),
            *attending.attributes,
        )
        return attended

    def _step_locally(
        self, operator: StepOperator, query_key: torch.Tensor, value: torch.Tensor, new_lengths: torch.Tensor
    ) -> torch.Tensor:
        """T [B, Q, H*D] in chunks of tokens in their own order -> T [B, Q, H*D]."""
        key, held = operator.caches
        attended: torch.Tensor
        attended, self.present[key], self.present[held] = local_attention_step(
            query_key,
            unit_keys(query_key, operator.num_heads),
            *(value, self.past[key], self.past[held], self.lengths, new_lengths),
            *operator.attributes,
        )
        return attended


@dataclass(frozen=True)
class StepOperator:
    """A node of a layer that decodes: its operator, the `caches` that it reads and writes, its attributes in
    their order."""

    operator: Operator
    caches: tuple[str, ...]
    attributes: tuple[float, ...]

    @property
    def num_heads(self) -> int:
        return int(self.attributes[0])


def list_step_operators(spec: LucidrainsSpec, hashes: bool) -> list[StepOperator]:
    """Those of a layer, in the order of its nodes: of heads that hash or attend to all, of dense attention
    to keys that are not turned, of local heads."""
    heads, multiple = spec.num_hash_heads, spec.padding_multiple
    if hashes:
        # Turned keys are no use where attention is dense, which turns none.
        dense = 0 if isinstance(spec.positions, RotaryPositionsSpec) else spec.dense_threshold
        chunking = (spec.bucket_size, 1, 0, True, multiple, dense)
        attending = (heads, *chunking, KEY_NORM_EPSILON, SELF_LOGIT, dense)
        operators = [
            StepOperator(LSH_BUCKETS_STEP, ("records",), (heads, multiple)),
            StepOperator(LSH_ATTENTION_STEP, ("query_key", "value"), attending),
        ]
        if spec.unturned_keys:
            operators.append(_local_step("dense_", heads, spec.unturned_keys, 0))
    else:
        operators = [_local_step("", heads, spec.longest_attended, 0)]
    if spec.num_local_heads:
        operators.append(_local_step("local_", spec.num_local_heads, multiple, 1))
    return operators


def _local_step(prefix: str, num_heads: int, chunk_length: int, num_chunks_before: int) -> StepOperator:
    chunking = (chunk_length, num_chunks_before, 0, True, chunk_length, chunk_length)
    caches = (f"{prefix}key", f"{prefix}value")
    return StepOperator(LOCAL_ATTENTION_STEP, caches, (num_heads, *chunking, SELF_LOGIT, False))
