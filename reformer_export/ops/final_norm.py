"""FinalNorm: the last residual addition and the layer norm over both streams, in one pass over memory.

Contract (one node, domain `reformer`): other_stream float32 [B, L, N], stream float32 [B, L, N], update T
[B, L, N], scale float32 [2N], bias float32 [2N] -> normed T [B, L, 2N]. As separate nodes these are a cast,
an addition, a concatenation, a norm and a cast.
"""

from __future__ import annotations

import torch

from reformer_export.ops.torch_operator import define_operator


def final_norm_reference(
    other_stream: torch.Tensor,
    stream: torch.Tensor,
    update: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """The contract in plain PyTorch.

    Args:
        other_stream: float32 [B, L, N], the first half of each row.
        stream: float32 [B, L, N], the sum over the layers so far.
        update: T [B, L, N], what the last layer adds to it.
        scale: float32 [2N], the norm's weight.
        bias: float32 [2N], the norm's bias.
        epsilon: added to the variance before its square root.

    Returns:
        normed T [B, L, 2N]: the layer norm of both streams, computed in float32 and rounded once.
    """
    streams = torch.cat([other_stream, stream + update.float()], dim=-1)
    normed = torch.nn.functional.layer_norm(streams, scale.shape, scale, bias, epsilon)
    return normed.to(update.dtype)


final_norm = define_operator(final_norm_reference)
"""The operator, one node to `torch.export`; arguments and results as of `final_norm_reference`."""
