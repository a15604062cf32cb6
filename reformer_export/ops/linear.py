"""Linear: a matrix product with constant weights, its bias and the activation that follows.

Contract (one node, domain `reformer`): x T [..., K], weight int8 [N, K], scales float32 [N], bias T [N] ->
y T [..., N]. The weights of output n are weight[n] * scales[n]. Each row of x is rounded to int8 as well, in
units of its own, so that its result never depends on other rows.

With weight bfloat16 [N, K] there are no scales and nothing is rounded to int8: x is rounded to bfloat16 where
it is float32, and the products of bfloat16 numbers are summed in float32. With weight float32, and T float32,
nothing is rounded. Only a runtime makes such nodes; no file has them.
"""

from __future__ import annotations

import torch

from reformer_export.contract import GELU, INT8_LIMIT, RELU
from reformer_export.ops.torch_operator import define_operator


def quantise_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight of a linear module, [N, K] -> int8 [N, K] and scales float32 [N]: the nearest multiples of a
    127th of each output's largest weight."""
    exact = weight.float()
    scales = _int8_units(exact)
    return _round_to_int8(exact, scales).to(torch.int8), scales[:, 0].contiguous()


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What Linear makes of its input: [..., K] -> whole numbers from -127 to 127, float32 [..., K], and their
    units float32 [..., 1]."""
    rows = x.float()
    units = _int8_units(rows)
    return _round_to_int8(rows, units), units


def _int8_units(rows: torch.Tensor) -> torch.Tensor:
    """float32 [..., K] -> [..., 1]; 1 where a 127th of the largest is 0."""
    units = rows.abs().amax(-1, keepdim=True) / INT8_LIMIT
    return torch.where(units == 0, 1.0, units)


def _round_to_int8(rows: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """To the nearest whole number, of two equally near ones the even."""
    return torch.round(rows / units).clamp(-INT8_LIMIT, INT8_LIMIT)


def linear_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor | None,
    bias: torch.Tensor | None,
    activation: int,
) -> torch.Tensor:
    """The contract in plain PyTorch.

    Args:
        x: T [..., K].
        weight: int8 [N, K], or bfloat16 [N, K] where T is bfloat16 or float32, or float32 [N, K] where T is
            float32.
        scales: float32 [N] of an int8 weight, else None.
        bias: T [N], or None for zeros.
        activation: 0 for none, RELU, or GELU (the exact one).

    Returns:
        y T [..., N], rounded once from float32.
    """
    if scales is None:
        y = x.to(weight.dtype).float() @ weight.float().T
    else:
        rows, units = quantise_rows(x)
        # Exact in float64, as it is in int32; then rounded to float32 once.
        y = (rows.double() @ weight.double().T).float() * (units * scales)
    if bias is not None:
        y = y + bias.float()
    if activation == RELU:
        y = torch.relu(y)
    elif activation == GELU:
        y = torch.nn.functional.gelu(y)
    return y.to(x.dtype)


linear = define_operator(linear_reference, is_native=False)
"""The operator, one node to `torch.export`; arguments and results as of `linear_reference`, which computes
it: there are kernels for some processors only, and for no GPU."""
