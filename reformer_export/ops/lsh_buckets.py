"""LSHBuckets: the angular locality-sensitive hash (Andoni et al. 2015; Kitaev et al. 2020, section 2.1).

Contract (one node, domain `reformer`): query_key T [B, L, H*D], rotations float32 [H, D, R, S],
attention_mask int32 [B, L] -> buckets int32 [B, H, R, L]. `num_buckets` holds even factors f_i with
S = sum(f_i) / 2; a token's bucket is sum_i a_i * prod_{j<i} f_j with a_i = argmax of (y_i, -y_i), the lowest
index on ties; a masked token gets bucket prod(f_i). Without factors there is one, 2 S, whatever S is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reformer_export.ops.torch_operator import define_operator


def draw_rotations(seed: int, shape: tuple[int, int, int, int]) -> torch.Tensor:
    """Random rotations float32 [H, D, R, S] as transformers draws them on the CPU for `hash_seed`.

    A generator of its own: the caller's global random state is left untouched.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def rotate_heads(query_key: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """T [B, L, H*D] and float32 [H, D, R, S] -> scores float32 [B, H, R, L, S]."""
    heads, size = rotations.shape[:2]
    vectors = query_key.float().view(*query_key.shape[:2], heads, size)
    return torch.einsum("blhd,hdrs->bhrls", vectors, rotations)


def lsh_buckets_reference(
    query_key: torch.Tensor,
    rotations: torch.Tensor,
    attention_mask: torch.Tensor,
    num_heads: int,
    num_buckets: Sequence[int],
) -> torch.Tensor:
    """The contract in plain PyTorch.

    Args:
        query_key: T [B, L, H*D].
        rotations: float32 [H, D, R, S].
        attention_mask: int32 [B, L].
        num_heads: H.
        num_buckets: even factors f_i, S = sum(f_i) / 2; none for the one factor 2 S.

    Returns:
        int32 [B, H, R, L].
    """
    scores = rotate_heads(query_key, rotations)
    buckets = torch.zeros(scores.shape[:-1], dtype=torch.int64, device=scores.device)
    product = 1
    first = 0
    for factor in num_buckets or (2 * rotations.shape[3],):
        part = scores[..., first : first + factor // 2]
        buckets += product * torch.cat([part, -part], dim=-1).argmax(dim=-1)
        product *= factor
        first += factor // 2
    return torch.where(attention_mask[:, None, None, :] != 0, buckets, product).to(torch.int32)


lsh_buckets = define_operator(lsh_buckets_reference)
"""The operator, one node to `torch.export`; arguments and result as of `lsh_buckets_reference`."""
