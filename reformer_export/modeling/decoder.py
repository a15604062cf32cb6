"""A Reformer that decodes: a prompt, then one token a call, against what earlier tokens left."""

from __future__ import annotations

import torch
from torch import nn

from reformer_export.artifact.decoding import cache_tensors
from reformer_export.modeling.layers import LayerCache
from reformer_export.modeling.reformer import Reformer


class Decoder(nn.Module):
    """A text-generation Reformer's modules, under their names there, on caches."""

    def __init__(self, model: Reformer) -> None:
        super().__init__()
        self.spec = model.spec
        self.embeddings = model.embeddings
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

        A row's ids behind its new ones may be any of the vocabulary.
        """
        caches = [LayerCache((), lengths, new_lengths) for _ in self.spec.layers]
        for tensor, value in zip(cache_tensors(self.spec, "float32"), past, strict=True):
            caches[tensor.layer].past += (value,)
        mask = torch.ones_like(input_ids, dtype=torch.int32)
        last = (new_lengths.to(torch.int64) - 1).clamp(0)
        hidden_states = self.encoder(self.embeddings(input_ids, lengths), mask, caches, last)
        logits: torch.Tensor = self.lm_head.decoder(hidden_states)
        return (logits, *(value for cache in caches for value in cache.present))
