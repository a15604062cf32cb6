"""Modules that are called as transformers' ReformerModel, ReformerEncoder and attention layers are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from reformer_export.errors import ExportError
from reformer_export.modeling.called import CalledModule, mask_of
from reformer_export.modeling.layers import LocalSelfAttention, LSHSelfAttention
from reformer_export.modeling.reformer import (
    TORCH_DTYPES,
    build_encoder,
    build_reformer,
    load_weights,
)
from reformer_export.spec import DType, LSHAttentionSpec, ModelSpec

Weights = Mapping[str, torch.Tensor]


def attention_of(encoder: nn.Module) -> list[nn.Module]:
    """The canonical attention of each layer, in their order."""
    layers = encoder.get_submodule("layers")
    return [
        layers.get_submodule(f"{i}.attention.self_attention") for i in range(len(list(layers.children())))
    ]


class CalledReformerModel(CalledModule):
    """In place of a ReformerModel."""

    def __init__(
        self, where: str, original: nn.Module, spec: ModelSpec, weights: Weights, dtype: DType
    ) -> None:
        super().__init__(where, original, spec)
        self.canonical = build_reformer(spec, weights, dtype)

    def attention(self) -> list[nn.Module]:
        return attention_of(self.canonical.encoder)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        num_hashes: int | None = None,
        past_buckets_states: Any = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the original's, without caches and without what is inside."""
        config = self.config
        shown = {
            "output_hidden_states": output_hidden_states,
            "output_attentions": output_attentions,
        }
        shown = {name: getattr(config, name, None) if x is None else x for name, x in shown.items()}
        self.refuse(position_ids=position_ids, past_buckets_states=past_buckets_states, **shown, **kwargs)
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ExportError(self.where, "not one of input_ids and inputs_embeds", "one", "give it")
        mask = mask_of(attention_mask, given, self.where)
        torch._check(given.shape[1] <= self.spec.max_length)  # type: ignore[no-untyped-call]
        embeddings = self.canonical.embeddings
        embedded = embeddings(given) if inputs_embeds is None else embeddings.embed_vectors(given)
        hidden_states = self.canonical.encoder(embedded, mask)
        if not (getattr(config, "return_dict", True) if return_dict is None else return_dict):
            return (hidden_states,)
        return self.library().ReformerModelOutput(last_hidden_state=hidden_states)


class CalledReformerEncoder(CalledModule):
    """In place of a ReformerEncoder."""

    def __init__(
        self, where: str, original: nn.Module, spec: ModelSpec, weights: Weights, dtype: DType
    ) -> None:
        super().__init__(where, original, spec)
        self.canonical = build_encoder(spec, weights, dtype)

    def attention(self) -> list[nn.Module]:
        return attention_of(self.canonical)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_hashes: int | None = None,
        past_buckets_states: Any = None,
        use_cache: bool = False,
        orig_sequence_length: int | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Any:
        """As the original's, without caches and without what is inside."""
        self.refuse(
            past_buckets_states=past_buckets_states,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        mask = mask_of(attention_mask, hidden_states, self.where)
        return self.library().ReformerEncoderOutput(
            hidden_states=self.canonical(hidden_states.float(), mask),
            all_hidden_states=[],
            all_attentions=[],
            past_buckets_states=None,
        )


class CalledAttention(CalledModule):
    """In place of an LSHSelfAttention or a LocalSelfAttention of transformers."""

    def __init__(
        self, where: str, original: nn.Module, spec: ModelSpec, weights: Weights, dtype: DType
    ) -> None:
        super().__init__(where, original, spec)
        (attention,) = spec.layers
        canonical: nn.Module
        with torch.device("meta"):
            if isinstance(attention, LSHAttentionSpec):
                canonical = LSHSelfAttention(spec, attention)
            else:
                canonical = LocalSelfAttention(spec, attention)
        self.canonical = load_weights(
            canonical, {name: weight.to(TORCH_DTYPES[dtype]) for name, weight in weights.items()}
        )
        self.hashes = isinstance(attention, LSHAttentionSpec)

    def attention(self) -> list[nn.Module]:
        return [self.canonical]

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *arguments: Any,
        **keywords: Any,
    ) -> Any:
        """As the original's, without caches and without what is inside."""
        names = ("num_hashes", "buckets") if self.hashes else ()
        names = (*names, "past_buckets_states", "use_cache", "output_attentions")
        given = {**dict(zip(names, arguments, strict=False)), **keywords}
        self.refuse(**{n: x for n, x in given.items() if n not in ("num_hashes", "use_cache")})
        attended = self.canonical(hidden_states, mask_of(attention_mask, hidden_states, self.where))
        if not self.hashes:
            return self.library().LocalSelfAttentionOutput(hidden_states=attended, attention_probs=())
        return self.library().LSHSelfAttentionOutput(
            hidden_states=attended, attention_probs=(), buckets=self.unavailable("buckets")
        )
