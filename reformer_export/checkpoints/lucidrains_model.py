"""Keyword arguments of reformer-pytorch's models -> LucidrainsSpec."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.hashing import choose_hash_seeds, choose_num_hashes
from reformer_export.checkpoints.lucidrains_keywords import ACTIVATIONS, Keywords
from reformer_export.errors import InputError
from reformer_export.lucidrains_spec import (
    LucidrainsPositions,
    LucidrainsSpec,
    NoPositionsSpec,
    NormKind,
    RotaryPositionsSpec,
    SinusoidalPositionsSpec,
    SummedAxialPositionsSpec,
)
from reformer_export.spec import (
    AttentionSpec,
    LearnedPositionsSpec,
    LocalAttentionSpec,
    LSHAttentionSpec,
    Task,
)

LAYER_NORM_EPSILON: Final = 1e-5
"""torch.nn.LayerNorm's own, which the package uses."""


def spec_from_keywords(
    keywords: Keywords, is_padded: bool, options: LoadOptions
) -> tuple[LucidrainsSpec, dict[str, Any]]:
    """The model, and how `num_hashes` and `hash_seed` came about."""
    depth, is_full = keywords["depth"], keywords["use_full_attn"]
    _check_heads(keywords)
    num_hashes = choose_num_hashes(keywords["n_hashes"], options)
    seeds = choose_hash_seeds(None, () if is_full else tuple(range(depth)), options)
    if is_full:
        _refuse_hashing(options)
    hashed = [
        LSHAttentionSpec(keywords["bucket_size"], 1, 0, num_hashes.used, (), seed) for seed in seeds.used
    ]
    layers: tuple[AttentionSpec, ...] = tuple(hashed)
    spec = _make_spec(keywords, is_padded, options, layers or (_full_attention(1),) * depth)
    if options.max_length is not None:
        spec = _limit_length(spec, options.max_length)
    if is_full:
        spec = dataclasses.replace(spec, layers=(_full_attention(spec.longest_attended),) * depth)
        return spec, {}
    return spec, {"num_hashes": num_hashes.to_dict(), "hash_seed": seeds.to_dict()}


def _full_attention(longest: int) -> LocalAttentionSpec:
    """One chunk of `longest` tokens, which is all of them."""
    return LocalAttentionSpec(longest, 0, 0)


def _refuse_hashing(options: LoadOptions) -> None:
    for name in ("num_hashes", "hash_seed"):
        if getattr(options, name) is not None:
            fix = f"leave `{name}`{' or `max_hashes`' if name == 'num_hashes' else ''} out"
            raise InputError(name, getattr(options, name), "none, as use_full_attn hashes nothing", fix)


def _check_heads(keywords: Keywords) -> None:
    heads, local = keywords["heads"], keywords["n_local_attn_heads"]
    if local >= heads:
        raise keywords.error("n_local_attn_heads", local, f"less than heads = {heads}")


def _make_spec(
    keywords: Keywords, is_padded: bool, options: LoadOptions, layers: tuple[AttentionSpec, ...]
) -> LucidrainsSpec:
    is_alone = keywords.model_class == "LSHSelfAttention"
    activation = (keywords["ff_activation"] or "GELU").rpartition(".")[2].lower()
    return LucidrainsSpec(
        task=_choose_task(keywords, options),
        vocab_size=0 if keywords.takes_vectors else keywords["num_tokens"],
        hidden_size=keywords["dim"],
        num_heads=keywords["heads"],
        head_size=keywords["dim_head"],
        feed_forward_size=0 if is_alone else keywords["ff_mult"] * keywords["dim"],
        hidden_act=ACTIVATIONS[activation],
        layer_norm_eps=LAYER_NORM_EPSILON,
        is_causal=keywords["causal"],
        positions=_positions(keywords),
        max_position_embeddings=keywords["max_seq_len"],
        layers=layers,
        logits=options.logits,
        embedding_size=keywords["emb_dim"],
        bucket_size=keywords["bucket_size"],
        is_padded=is_padded,
        dense_threshold=keywords["full_attn_thres"],
        num_local_heads=keywords["n_local_attn_heads"],
        num_memory_keys=keywords["num_mem_kv"],
        rotations_per_head=keywords["random_rotations_per_head"],
        has_one_value_head=keywords["one_value_head"],
        has_gated_feed_forward=keywords["ff_glu"],
        norm=_norm_kind(keywords),
        ties_layers=keywords["weight_tie"],
        ties_embedding=keywords["weight_tie_embedding"],
        architecture=keywords.model_class,
    )


def _norm_kind(keywords: Keywords) -> NormKind:
    if keywords.model_class == "LSHSelfAttention":
        return "none"
    return "rezero" if keywords["use_rezero"] else "scale" if keywords["use_scale_norm"] else "layer"


def _choose_task(keywords: Keywords, options: LoadOptions) -> Task:
    own: Task = "text-generation" if keywords["causal"] else "fill-mask"
    if keywords["return_embeddings"]:
        own = "feature-extraction"
    if options.task not in ("auto", own, "feature-extraction"):
        expected = " or ".join(dict.fromkeys((own, "feature-extraction")))
        raise InputError("task", f"{options.task} for these keywords", expected, "choose another `task`")
    return own if options.task == "auto" else options.task


def _positions(keywords: Keywords) -> LucidrainsPositions:
    length = keywords["max_seq_len"]
    if keywords.takes_vectors:
        return NoPositionsSpec(length)
    if keywords["axial_position_emb"]:
        return SummedAxialPositionsSpec(tuple(keywords["axial_position_shape"]))
    if keywords["absolute_position_emb"]:
        return LearnedPositionsSpec(length)
    return SinusoidalPositionsSpec(length) if keywords["fixed_position_emb"] else RotaryPositionsSpec(length)


def _limit_length(spec: LucidrainsSpec, max_length: int) -> LucidrainsSpec:
    """`spec` for at most `max_length` tokens, rounded up to a length that can be run."""
    if max_length > spec.max_length:
        expected = f"at most {spec.max_length}"
        raise InputError("max length", f"{max_length} tokens", expected, "give a smaller `max_length`")
    length = max_length
    while not spec.takes_length(length):
        length += 1
    return dataclasses.replace(spec, max_position_embeddings=length)
