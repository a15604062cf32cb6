"""The classes of reformer-pytorch that are exported, and which keyword arguments each of them has.

ReformerLM's tables are those of lucidrains_keywords.py; the others differ from it in what stands here. They
take vectors, and have no greatest length: `max_seq_len` is then ours, as `class` and `wrapper` are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from reformer_export.lucidrains_spec import Architecture

Refusals = Mapping[str, tuple[tuple[Any, ...], str]]
"""Keyword -> (values that are fine, why any other is refused)."""

_OF_WORDS: Final = (
    *("num_tokens", "emb_dim", "return_embeddings", "weight_tie_embedding"),
    *("fixed_position_emb", "absolute_position_emb", "axial_position_emb", "axial_position_shape"),
)
"""Keywords of ReformerLM that are about what stands around the layers."""

_OF_LAYERS: Final = (
    *("depth", "weight_tie", "ff_mult", "ff_activation", "ff_glu", "use_scale_norm", "use_rezero"),
    *("pkm_layers", "pkm_num_keys"),
)
"""Keywords of the layers that are not about their attention."""

_OF_A_CALL: Final[Refusals] = dict.fromkeys(
    ("keys", "input_mask", "input_attn_mask", "context_mask", "pos_emb"),
    ((None,), "it is an argument of a call, and an artifact takes no other inputs than its own yet"),
)


@dataclass(frozen=True)
class ClassKeywords:
    """A class's keyword arguments.

    `defaults` has every one that is honoured and the constructor's default; `neutral` what the others of
    ReformerLM are, as far as the model has what they are about; `ignored` maps those without effect to why;
    `refused` is as its type says; `wrappers` may stand around the model; `nullable` keywords may be null
    where ReformerLM's may not.
    """

    name: Architecture
    defaults: Mapping[str, Any]
    neutral: Mapping[str, Any]
    ignored: Mapping[str, str]
    refused: Refusals
    wrappers: tuple[str, ...]
    nullable: tuple[str, ...] = ()


def reformer_keywords(language_model: ClassKeywords) -> ClassKeywords:
    """Of the class Reformer, by ReformerLM's."""
    defaults = {name: value for name, value in language_model.defaults.items() if name not in _OF_WORDS}
    return ClassKeywords(
        "Reformer",
        defaults | {"dim_head": None, "n_hashes": 8},
        dict(language_model.defaults) | {"return_embeddings": True},
        language_model.ignored,
        {**language_model.refused, **_OF_A_CALL},
        ("Autopadder",),
    )


def attention_keywords(language_model: ClassKeywords) -> ClassKeywords:
    """Of the class LSHSelfAttention, by ReformerLM's. Its further keywords are LSHAttention's."""
    outer = reformer_keywords(language_model)
    refused = {name: why for name, why in outer.refused.items() if name not in _OF_LAYERS}
    for name in ("attend_across_buckets", "allow_duplicate_attention"):
        refused[name] = refused.pop(f"lsh_{name}")
    refused["rehash_each_round"] = ((True,), "several buckets from one hash are not supported")
    training, chunks = language_model.ignored["lsh_dropout"], language_model.ignored["attn_chunks"]
    return ClassKeywords(
        "LSHSelfAttention",
        {name: value for name, value in outer.defaults.items() if name not in _OF_LAYERS}
        | {"full_attn_thres": None},
        {**outer.neutral, "depth": 1},
        {
            "attn_chunks": chunks,
            **dict.fromkeys(("dropout", "post_attn_dropout", "drop_for_hash_rate"), training),
            "return_attn": "is for a callback: the output is the same",
        },
        refused,
        outer.wrappers,
        ("full_attn_thres",),
    )
