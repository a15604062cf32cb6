"""Layers of transformers' Reformer, as they are in memory -> ModelSpec + weights.

All is read of the modules themselves, which may have been changed since their config.json was read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.config import limit_length
from reformer_export.checkpoints.hashing import resolve_num_buckets
from reformer_export.checkpoints.live import LiveLayer
from reformer_export.spec import (
    Activation,
    AttentionSpec,
    AxialPositionsSpec,
    LearnedPositionsSpec,
    LocalAttentionSpec,
    LSHAttentionSpec,
    ModelSpec,
    PositionsSpec,
)

_ACTIVATIONS: Final[dict[str, Activation]] = {
    "ReLU": "relu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_new",
    "NewGELUActivation": "gelu_new",
    "FastGELUActivation": "gelu_new",
    "SiLUActivation": "silu",
    "SiLU": "silu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
}
"""Classes of transformers.activations and torch.nn -> the names in ModelSpec."""

_ANY_SIZE: Final = 1
"""Of what a layer by itself does not have, and nobody reads."""


@dataclass(frozen=True)
class LiveReformer:
    """A replaced layer of transformers: its description and its weights, by their own names; `attention` maps
    each layer's index to the path of its attention inside."""

    spec: ModelSpec
    weights: dict[str, torch.Tensor]
    attention: dict[int, str]


def read_live_transformers(
    layer: LiveLayer, seeds: Iterator[int], options: LoadOptions, num_hashes: int | None = None
) -> LiveReformer:
    """The description of a layer; each LSH layer without a seed takes the next of `seeds`, as each with one
    passes by one of them.

    `num_hashes`: the rounds that the layer's calls ask for, None for its own.

    Raises:
        CheckpointError: it has what is not supported.
        SpecError: its attributes contradict each other.
        InputError: `options` do not fit it.
    """
    module: Any = layer.module
    if layer.kind in ("LSHSelfAttention", "LocalSelfAttention"):
        attention = {0: ""}
        spec = _attention_spec(layer, module)
    else:
        encoder = module.encoder if layer.kind == "ReformerModel" else module
        prefix = "encoder." if layer.kind == "ReformerModel" else ""
        attention = {i: f"{prefix}layers.{i}.attention.self_attention" for i in range(len(encoder.layers))}
        spec = _encoder_spec(layer, encoder)
        if layer.kind == "ReformerModel":
            spec = _with_embeddings(spec, module)
    spec = _limit(layer, spec, options)
    padded = spec.max_length if layer.kind == "ReformerModel" else None
    found = []
    for path in attention.values():
        part = module.get_submodule(path)
        length = padded or _longest(part, options)
        found.append(_read_attention(part, length, seeds, num_hashes))
    spec = dataclasses.replace(spec, layers=tuple(found))
    return LiveReformer(spec, dict(module.state_dict()), attention)


def _longest(module: Any, options: LoadOptions) -> int:
    """Tokens, a multiple of the chunk length: what a layer by itself is given at most."""
    limit: int = getattr(module, "max_position_embeddings", module.chunk_length)
    length: int = min(options.max_length or limit, limit)
    chunk: int = module.chunk_length
    return -(-length // chunk) * chunk


def _limit(layer: LiveLayer, spec: ModelSpec, options: LoadOptions) -> ModelSpec:
    wanted = options.max_length
    if layer.kind == "ReformerModel" and wanted is not None and wanted < spec.max_length:
        return limit_length(spec, wanted)
    return spec


def _attention_spec(layer: LiveLayer, module: Any) -> ModelSpec:
    return _make_spec(
        hidden_size=module.hidden_size,
        heads=module,
        feed_forward_size=_ANY_SIZE,
        activation="relu",
        eps=0.0,
        layers=(_placeholder(module),),
    )


def _encoder_spec(layer: LiveLayer, encoder: Any) -> ModelSpec:
    first = encoder.layers[0]
    dense = first.feed_forward.dense
    eps = encoder.layer_norm.eps
    for index, each in enumerate(encoder.layers):
        for part in (each.attention, each.feed_forward):
            if part.layer_norm.eps != eps:
                got = f"epsilon {part.layer_norm.eps:g} in a norm of layer {index}"
                raise layer.error(got, f"{eps:g} as in the last one", "give all norms one epsilon")
    return _make_spec(
        hidden_size=first.attention.layer_norm.normalized_shape[0],
        heads=first.attention.self_attention,
        feed_forward_size=dense.dense.out_features,
        activation=_activation(layer, dense.act_fn),
        eps=eps,
        layers=tuple(_placeholder(each.attention.self_attention) for each in encoder.layers),
    )


def _make_spec(
    hidden_size: int,
    heads: Any,
    feed_forward_size: int,
    activation: Activation,
    eps: float,
    layers: tuple[AttentionSpec, ...],
) -> ModelSpec:
    longest = max(layer.chunk_length for layer in layers)
    return ModelSpec(
        task="feature-extraction",
        vocab_size=_ANY_SIZE,
        hidden_size=hidden_size,
        num_heads=heads.num_attention_heads,
        head_size=heads.attention_head_size,
        feed_forward_size=feed_forward_size,
        hidden_act=activation,
        layer_norm_eps=eps,
        is_causal=bool(heads.is_decoder),
        positions=LearnedPositionsSpec(longest),
        max_position_embeddings=longest,
        layers=layers,
    )


def _activation(layer: LiveLayer, function: Any) -> Activation:
    name = type(function).__name__ if isinstance(function, nn.Module) else ""
    is_exact = name == "GELU" and function.approximate == "none"
    if name not in _ACTIVATIONS and not is_exact:
        got = f"the activation {name or function!r:.80}"
        expected = f"one of {', '.join(dict.fromkeys(_ACTIVATIONS.values()))}, as a module"
        raise layer.error(got, expected, "open an issue for another activation")
    return "gelu" if is_exact else _ACTIVATIONS[name]


def _with_embeddings(spec: ModelSpec, module: Any) -> ModelSpec:
    embeddings = module.embeddings
    return dataclasses.replace(
        spec,
        vocab_size=embeddings.word_embeddings.num_embeddings,
        positions=_positions(embeddings.position_embeddings),
        max_position_embeddings=embeddings.max_position_embeddings,
    )


def _positions(module: Any) -> PositionsSpec:
    if hasattr(module, "embedding"):
        return LearnedPositionsSpec(module.embedding.num_embeddings)
    return AxialPositionsSpec(tuple(module.axial_pos_shape), tuple(module.axial_pos_embds_dim))


def _placeholder(module: Any) -> LocalAttentionSpec:
    """A layer of the same geometry, for lengths."""
    return LocalAttentionSpec(module.chunk_length, module.num_chunks_before, module.num_chunks_after)


def _read_attention(module: Any, longest: int, seeds: Iterator[int], num_hashes: int | None) -> AttentionSpec:
    if not hasattr(module, "hash_seed"):
        return _placeholder(module)
    own, drawn = module.hash_seed, next(seeds)
    return LSHAttentionSpec(
        chunk_length=module.chunk_length,
        num_chunks_before=module.num_chunks_before,
        num_chunks_after=module.num_chunks_after,
        num_hashes=num_hashes or module.num_hashes,
        num_buckets=_num_buckets(module, longest),
        hash_seed=drawn if own is None else own,
    )


def _num_buckets(module: Any, longest: int) -> tuple[int, ...]:
    """The factors that the layer has, or those that it gives itself for `longest` tokens."""
    stored = module.num_buckets
    if stored is None:
        return resolve_num_buckets(longest, module.chunk_length, module.max_position_embeddings)
    return (stored,) if isinstance(stored, int) else tuple(stored)
