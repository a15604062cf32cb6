"""What a Reformer replaces: the same model with full attention in place of every LSH and local attention."""

from __future__ import annotations

import torch
from torch import nn

from reformer_export.modeling.layers import Norm
from reformer_export.modeling.reformer import TORCH_DTYPES, Reformer
from reformer_export.spec import AttentionSpec, DType, LSHAttentionSpec, ModelSpec

WEIGHT_SCALE = 0.02
"""Standard deviation of the random weights, transformers' `initializer_range`."""


class FullSelfAttention(nn.Module):
    """Every token attends to every token, or to those before it; the projections are those of the layer it
    stands for, one for query and key in an LSH layer."""

    def __init__(self, spec: ModelSpec, attention: AttentionSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.is_causal = spec.is_causal
        width = spec.num_heads * spec.head_size
        count = 2 if isinstance(attention, LSHAttentionSpec) else 3
        self.projections = nn.ModuleList(nn.Linear(spec.hidden_size, width, bias=False) for _ in range(count))

    def forward(
        self, hidden_states: torch.Tensor, _attention_mask: torch.Tensor, _cache: None = None
    ) -> torch.Tensor:
        """T [B, L, hidden_size], mask unused (nothing is padded here), no cache -> T [B, L, H*D]."""
        batch, length, _ = hidden_states.shape
        projected = [
            projection(hidden_states).view(batch, length, self.num_heads, -1).transpose(1, 2)
            for projection in self.projections
        ]
        attended: torch.Tensor = nn.functional.scaled_dot_product_attention(
            projected[0], projected[-2], projected[-1], is_causal=self.is_causal
        )
        return attended.transpose(1, 2).reshape(batch, length, -1)


def build_full_attention(spec: ModelSpec, dtype: DType) -> Reformer:
    """A model of `spec`'s shapes in evaluation mode; its weights are random, since only time is asked for.

    The caller's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Reformer(spec, TORCH_DTYPES[dtype])
        for layer, attention in zip(model.encoder.layers, spec.layers, strict=True):
            layer.get_submodule("attention").self_attention = FullSelfAttention(spec, attention)
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                parameter.normal_(std=WEIGHT_SCALE)
                if not isinstance(module, Norm):
                    parameter.data = parameter.to(TORCH_DTYPES[dtype])
    return model.requires_grad_(False).eval()
