"""ResidualNorm: a residual addition and the layer norm of its result, in one pass over memory.

Contract (one node, domain `reformer`): stream float32 [B, L, N], update T [B, L, N], scale float32 [N], bias
float32 [N] -> stream_out float32 [B, L, N], normed T [B, L, N]. As separate nodes these are a cast, an
addition, a norm and a cast, each of which reads and writes memory.
"""

from __future__ import annotations

import torch

from reformer_export.ops.torch_operator import define_operator


def residual_norm_reference(
    stream: torch.Tensor,
    update: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The contract in plain PyTorch.

    Args:
        stream: float32 [B, L, N], the sum over the layers so far.
        update: T [B, L, N], what a layer adds.
        scale: float32 [N], the norm's weight.
        bias: float32 [N], the norm's bias.
        epsilon: added to the variance before its square root.

    Returns:
        stream_out float32 [B, L, N], the sum; normed T [B, L, N], its layer norm, computed in float32 and
        rounded once.
    """
    stream_out = stream + update.float()
    normed = torch.nn.functional.layer_norm(stream_out, scale.shape, scale, bias, epsilon)
    return stream_out, normed.to(update.dtype)


residual_norm = define_operator(residual_norm_reference)
"""The operator, one node to `torch.export`; arguments and results as of `residual_norm_reference`."""
