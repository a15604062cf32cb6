"""What a masked token attends to in reformer-pytorch's models, where it is no key but hashes."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import statically_known_true

from reformer_export.modeling.casts import cast

SELF_LOGIT: Final = -5e4
"""Logit of a token's own key (reformer_pytorch.py and local_attention.py, TOKEN_SELF_ATTN_VALUE)."""

MISSING_VALUE: Final = -1.0
"""What local attention has for a value where a window has no neighbour (local_attention.py, look_around)."""


def weights_alone(num_hashes: int) -> torch.Tensor:
    """What the weights of a token sum to that sees itself alone: float32 [(num_hashes + 1)**2, 1], at the
    place (num_hashes + 1) * n2 + n1 for one that is in its window twice in n2 rounds and once in n1.

    Not quite 1, since each logsumexp is rounded.
    """
    count = torch.arange(num_hashes + 1, dtype=torch.float32, device="cpu")
    twice, once = count[:, None], count
    lse_once, lse_twice = torch.tensor([1.0, 2.0], device="cpu").log() + SELF_LOGIT
    greatest = torch.where(twice > 0, lse_twice, lse_once)
    terms = twice * torch.exp(lse_twice - greatest) + once * torch.exp(lse_once - greatest)
    all_rounds = torch.log(terms.clamp(min=1.0)) + greatest  # no round at all does not happen
    share = 2.0 * torch.exp(SELF_LOGIT - lse_twice)
    weights = twice * share * torch.exp(lse_twice - all_rounds) + once * torch.exp(lse_once - all_rounds)
    return weights.view(-1, 1)


def weigh_alone(
    buckets: torch.Tensor, chunk_length: int, shortest: int, weights: torch.Tensor
) -> torch.Tensor:
    """What the weights of a token sum to that sees itself alone, for every token: float32 [B, H, K, 1],
    from buckets int32 [B, H, R, K] of `shortest` tokens at least where any hash, and `weights_alone`.

    A token is in its window once a round, or twice: in a round's first chunk, which sees the last one of the
    round before, when that has it too.
    """
    length, num_hashes = buckets.shape[3], round(weights.shape[0] ** 0.5) - 1
    order = buckets.long() * length + torch.arange(length, device=buckets.device)
    least = most = order
    if shortest < chunk_length:  # a dense sequence can be shorter than what is looked for
        end = torch.ones_like(order[..., :1]).expand(-1, -1, -1, chunk_length)
        least = torch.cat([order, end * torch.iinfo(torch.int64).max], dim=-1)
        most = torch.cat([order, -end], dim=-1)
    first = order <= torch.topk(least, chunk_length, largest=False).values[..., -1:]
    last = order >= torch.topk(most, chunk_length).values[..., -1:]
    round_before = torch.cat([last[:, :, -1:], last[:, :, :-1]], dim=2)
    is_twice = torch.logical_and(first, round_before).long()
    return nn.functional.embedding((is_twice * num_hashes + 1).sum(2), weights)


def attend_to_nothing(
    value: torch.Tensor, mask: torch.Tensor, window: int, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a masked token gets in local attention when every key that it may see is masked as well: the
    average over its window and the neighbouring ones, later tokens and missing neighbours included.

    value T [B, L, N], mask int32 [B, L] -> whether each token may see a key that is not masked, bool
    [B, L, 1]; the average, float32 [B, L, N].
    """
    batch, length, size = value.shape
    windows = (length + window - 1) // window
    is_whole, masked = statically_known_true(windows * window == length), mask
    if not is_whole:
        inside = torch.clamp(torch.arange(windows * window, device=value.device), max=length - 1)
        value, masked = value.index_select(1, inside), mask.index_select(1, inside)
    sums = cast(value, torch.float32).view(batch, windows, window, size).sum(2)
    masks = masked.view(batch, windows, window)
    any_visible = masks.amax(2)
    total = _before(sums, window * MISSING_VALUE) + sums
    seen = _before(any_visible, 0)[..., None]
    if is_causal:
        seen = seen + masks.cumsum(2)
    else:
        total = total + _behind(sums, window * MISSING_VALUE)
        seen = seen + (any_visible + _behind(any_visible, 0))[..., None]
        seen = seen.expand(-1, -1, window)
    average = total / (window * (2 if is_causal else 3))
    positions = torch.arange(length, device=value.device)
    seen = seen.reshape(batch, windows * window)
    sees_any = (seen if is_whole else seen.index_select(1, positions)) > 0
    return sees_any[..., None], average.index_select(1, positions // window)


def _before(x: torch.Tensor, missing: float) -> torch.Tensor:
    """[B, n, ...] -> what stands before each of the n, `missing` before the first."""
    return torch.cat([x.new_full((x.shape[0], 1, *x.shape[2:]), missing), x[:, :-1]], dim=1)


def _behind(x: torch.Tensor, missing: float) -> torch.Tensor:
    """[B, n, ...] -> what stands behind each of the n, `missing` behind the last."""
    return torch.cat([x[:, 1:], x.new_full((x.shape[0], 1, *x.shape[2:]), missing)], dim=1)
