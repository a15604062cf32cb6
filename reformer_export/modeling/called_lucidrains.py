"""Modules that are called as reformer-pytorch's Reformer, its attention layers and its Autopadder are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import statically_known_true

from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling.called import CalledModule, mask_of
from reformer_export.modeling.lucidrains import build_lucidrains
from reformer_export.modeling.lucidrains_attention import SelfAttention, Turn
from reformer_export.modeling.lucidrains_padding import pad_rows, round_up_length
from reformer_export.spec import DType

Weights = Mapping[str, torch.Tensor]


class CalledLayers(CalledModule):
    """In place of a Reformer or an LSHSelfAttention; all of a Reformer's call but the sequence is by name."""

    spec: LucidrainsSpec

    def __init__(
        self, where: str, original: nn.Module, spec: LucidrainsSpec, weights: Weights, dtype: DType
    ) -> None:
        super().__init__(where, original, spec)
        self.canonical = build_lucidrains(spec, weights, dtype).encoder

    def attention(self) -> list[nn.Module]:
        names = [f"layers.{i}.attention.self_attention" for i in range(len(self.spec.layers))]
        return [self.canonical.get_submodule(name) for name in names]

    def forward(
        self,
        x: torch.Tensor,
        keys: torch.Tensor | None = None,
        input_mask: torch.Tensor | None = None,
        input_attn_mask: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        pos_emb: torch.Tensor | None = None,
        arg_route: Any = (True, False),
        **kwargs: Any,
    ) -> torch.Tensor:
        """T [B, L, dim], bool [B, L] or None, float [1, L, dim_head] or None -> T [B, L, dim]."""
        route = None if tuple(arg_route) == (True, False) else arg_route
        refused = {"keys": keys, "input_attn_mask": input_attn_mask, "context_mask": context_mask}
        self.refuse(**refused, arg_route=route, **kwargs)
        for each in self.attention():
            each.may_be_masked = input_mask is not None  # type: ignore[assignment]
        mask = mask_of(input_mask, x, self.where)
        turn = None if pos_emb is None else turn_from_positions(self.spec, pos_emb, mask)
        attended: torch.Tensor = self.canonical(x.float(), mask, turn)
        return attended


class CalledLSHAttention(CalledModule):
    """In place of an LSHAttention, which has no weights and takes one head's queries and values."""

    spec: LucidrainsSpec

    def __init__(
        self, where: str, original: nn.Module, spec: LucidrainsSpec, weights: Weights, dtype: DType
    ) -> None:
        super().__init__(where, original, spec)
        with torch.device("meta"):
            self.canonical = SelfAttention(spec, 0).eval()
        self.canonical.query_key = self.canonical.value = nn.Identity()  # type: ignore[assignment]

    def attention(self) -> list[nn.Module]:
        return [self.canonical]

    def forward(
        self,
        qk: torch.Tensor,
        v: torch.Tensor,
        query_len: int | None = None,
        input_mask: torch.Tensor | None = None,
        input_attn_mask: torch.Tensor | None = None,
        pos_emb: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any, Any]:
        """T [N, L, D], T [N, L, D], None or L, bool [N, L] or None -> T [N, L, D]."""
        kwargs = {name: value for name, value in kwargs.items() if name not in ("_reverse", "_depth")}
        is_whole = query_len is None or statically_known_true(query_len == qk.shape[1])
        self.refuse(query_len=None if is_whole else query_len, input_attn_mask=input_attn_mask, **kwargs)
        self.canonical.may_be_masked = input_mask is not None
        mask = mask_of(input_mask, qk, self.where)
        turn = None if pos_emb is None else turn_from_positions(self.spec, pos_emb, mask)
        attended = self.canonical.attend(qk, v, mask, turn, 0)
        return attended, self.unavailable("attention"), self.unavailable("buckets")


class CalledAutopadder(nn.Module):
    """In place of an Autopadder: zeros, masked, behind every sequence up to a multiple of 2 bucket_size."""

    def __init__(self, net: nn.Module, original: Any) -> None:
        super().__init__()
        self.net = net
        self.num_memory_keys: int = original.num_mem_kv
        self.padding_multiple: int = 2 * original.bucket_size
        self.dense_threshold: int = original.full_attn_thres

    def forward(self, x: torch.Tensor, input_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """int64 [B, L] or T [B, L, N], bool [B, L] or None -> what the module gives for these L tokens."""
        mask = mask_of(input_mask, x, "Autopadder")
        length = round_up_length(self, x.shape[1])
        if self.dense_threshold % self.padding_multiple:
            dense = is_at_most(x.shape[1], max(self.dense_threshold - self.num_memory_keys, 0))
            length = x.shape[1] + (length - x.shape[1]) * (1 - dense)
            torch._check(length >= x.shape[1])  # type: ignore[no-untyped-call]
            torch._check(length >= 1)  # type: ignore[no-untyped-call]
        positions = torch.arange(length, device=x.device)
        padded_mask = pad_rows(mask, positions) != 0
        padded: torch.Tensor = self.net(pad_rows(x, positions), input_mask=padded_mask, **kwargs)
        return padded[:, : x.shape[1]]


def is_at_most(length: int, threshold: int) -> int:
    """1 where 0 < `length` <= `threshold`, else 0, in integers alone: a comparison would be a branch."""
    return ((threshold + 1) // (length + 1) + threshold + 1) // (threshold + 2)


def turn_from_positions(spec: LucidrainsSpec, pos_emb: torch.Tensor, mask: torch.Tensor) -> Turn:
    """Sines and cosines as the package's layers take them, float [1, L, D], and int32 [B, L] -> cosines and
    sines float32 [K, D / 2] of the memory's keys, which are not turned, and the L tokens; none where
    attention is dense."""
    torch._check(pos_emb.shape[1] == mask.shape[1])  # type: ignore[no-untyped-call]
    sines, cosines = pos_emb[0].float().chunk(2, dim=-1)
    if spec.num_memory_keys:
        zeros = torch.zeros(spec.num_memory_keys, sines.shape[1], device=sines.device)
        sines, cosines = torch.cat([zeros, sines]), torch.cat([zeros + 1.0, cosines])
    if spec.dense_threshold:
        keys = torch.ones_like(mask[0]).sum() + spec.num_memory_keys
        is_hashed = (keys > spec.dense_threshold).float()
        sines, cosines = sines * is_hashed, cosines * is_hashed + (1.0 - is_hashed)
    return cosines, sines
