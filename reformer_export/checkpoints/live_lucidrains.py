"""Layers of reformer-pytorch, as they are in memory -> LucidrainsSpec + weights.

Their attributes say what a constructor was called with, which is then read as a file of keyword arguments is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.live import LiveLayer
from reformer_export.checkpoints.lucidrains_keywords import ACTIVATIONS, CLASSES, Keywords
from reformer_export.checkpoints.lucidrains_model import LAYER_NORM_EPSILON, spec_from_keywords
from reformer_export.checkpoints.lucidrains_names import parameter_names
from reformer_export.checkpoints.lucidrains_product_keys import (
    convert_memories,
    read_facts,
    refuse_norm,
    spec_of_memories,
)
from reformer_export.lucidrains_spec import Architecture, LucidrainsSpec
from reformer_export.spec import LSHAttentionSpec

_BLOCK: Final = "layers.blocks.{}.f.net"
"""What stands around the attention of a Reformer's layer: its norm, or its gate."""


@dataclass(frozen=True)
class LiveLucidrains:
    """A replaced layer of reformer-pytorch: its description and its weights, by this project's names;
    `attention` maps each layer's index to the path of its attention inside."""

    spec: LucidrainsSpec
    weights: dict[str, torch.Tensor]
    attention: dict[int, str]


def read_live_lucidrains(
    layer: LiveLayer, seeds: Iterator[int], longest: int, head_size: int = 0
) -> LiveLucidrains:
    """The description of a layer that is given at most `longest` tokens, and where it is an LSHAttention,
    heads of `head_size`; each that hashes takes the next of `seeds`.

    Raises:
        CheckpointError: it has what is not supported.
        SpecError: its attributes contradict each other.
    """
    module: Any = layer.module
    if layer.kind == "LSHAttention":
        return _read_bare(layer, module, seeds, longest, head_size)
    is_alone = layer.kind == "LSHSelfAttention"
    blocks = [] if is_alone else [_BLOCK.format(i) for i in range(len(module.layers.blocks))]
    attention = {0: ""} if is_alone else {i: f"{block}.fn" for i, block in enumerate(blocks)}
    values = _attention_values(layer, module.get_submodule(attention[0]))
    for path in attention.values():
        if _attention_values(layer, module.get_submodule(path)) != values:
            raise layer.error("layers of unequal attention", "equal ones", "make them equal", path)
    if not is_alone:
        values |= _layer_values(layer, module)
    keywords = _make_keywords(layer, "LSHSelfAttention" if is_alone else "Reformer", values, longest)
    return _complete(layer, keywords, attention, seeds)


def _complete(
    layer: LiveLayer, keywords: Keywords, attention: dict[int, str], seeds: Iterator[int]
) -> LiveLucidrains:
    state = dict(layer.module.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name, shape in shapes.items():
        if (refusal := refuse_norm(layer.describe(), name, shape)) is not None:
            raise refusal
    facts = read_facts(shapes)
    own: dict[str, Any] = {"pkm_layers": sorted(index + 1 for index in facts.memories)}
    if facts.memories:
        own["pkm_num_keys"] = facts.keys[1]
    keywords = dataclasses.replace(keywords, values={**keywords.values, **own})
    spec, _ = spec_from_keywords(keywords, False, LoadOptions())
    memories = spec_of_memories(keywords, facts.query_norm)
    spec = dataclasses.replace(_with_seeds(spec, seeds), product_keys=memories)
    weights = {}
    for ours, (theirs, shape) in parameter_names(keywords, keywords["dim_head"], memories).items():
        if shapes.get(theirs) != shape:
            got = f"{theirs} of shape {list(shapes[theirs])}" if theirs in shapes else f"no {theirs}"
            raise layer.error(got, f"it with {list(shape)}", "leave the layer as its class makes it")
        weights[ours] = state[theirs]
    convert_memories(weights, [f"encoder.layers.{i}.feed_forward.memory" for i in spec.memory_layers])
    return LiveLucidrains(spec, weights, attention)


def _with_seeds(spec: LucidrainsSpec, seeds: Iterator[int]) -> LucidrainsSpec:
    layers = tuple(
        dataclasses.replace(each, hash_seed=next(seeds)) if isinstance(each, LSHAttentionSpec) else each
        for each in spec.layers
    )
    return dataclasses.replace(spec, layers=layers)


def _make_keywords(
    layer: LiveLayer, model_class: Architecture, values: dict[str, Any], longest: int
) -> Keywords:
    known = CLASSES[model_class]
    multiple, memory = 2 * values["bucket_size"], values["num_mem_kv"]
    longest += multiple - 1  # what pads it in front of the layer may add
    whole = max(-(-(longest + memory) // multiple) * multiple - memory, 1)
    own = {**values, "emb_dim": values["dim"], "max_seq_len": whole}
    path = Path(layer.path or layer.kind)
    return Keywords(path, {**known.neutral, **known.defaults, **own}, frozenset(own), model_class=model_class)


def _attention_values(layer: LiveLayer, module: Any) -> dict[str, Any]:
    """The keyword arguments that an LSHSelfAttention was made with."""
    if module.callback is not None:
        raise layer.error("a callback", "none, as the layer is replaced", "set it to None")
    return {
        **_hash_values(layer, module.lsh_attn),
        "dim": module.dim,
        "heads": module.heads,
        "dim_head": module.dim_head,
        "use_full_attn": bool(module.use_full_attn),
        "full_attn_thres": module.full_attn_thres,
        "num_mem_kv": module.num_mem_kv,
        "one_value_head": module.v_head_repeats > 1,
        "n_local_attn_heads": module.n_local_attn_heads,
    }


def _hash_values(layer: LiveLayer, module: Any) -> dict[str, Any]:
    """The keyword arguments that an LSHAttention was made with."""
    for name in ("attend_across_buckets", "allow_duplicate_attention", "rehash_each_round"):
        if not getattr(module, f"_{name}"):
            raise layer.error(f"{name} false", "true, as the other is not supported", "train without it")
    return {
        "bucket_size": module.bucket_size,
        "n_hashes": module.n_hashes,
        "causal": bool(module.causal),
        "random_rotations_per_head": bool(module._random_rotations_per_head),
    }


def _layer_values(layer: LiveLayer, module: Any) -> dict[str, Any]:
    """The keyword arguments of a Reformer that are not about its attention."""
    first: Any = module.get_submodule(_BLOCK.format(0))
    kinds = {type(module.get_submodule(_BLOCK.format(i))) for i in range(len(module.layers.blocks))}
    norm = getattr(first, "norm", None)
    for name, part in module.named_modules():
        if isinstance(part, nn.LayerNorm) and part.eps != LAYER_NORM_EPSILON:
            raise layer.error(f"epsilon {part.eps:g}", f"{LAYER_NORM_EPSILON:g}", "leave it", name)
    forwards = [part for part in module.modules() if hasattr(part, "w1") and hasattr(part, "w2")]
    values: dict[str, Any] = {
        "depth": len(module.layers.blocks),
        "use_rezero": norm is None,
        "use_scale_norm": norm is not None and not isinstance(norm, nn.LayerNorm),
    }
    if len(kinds) > 1:
        raise layer.error("norms of several kinds", "one kind", "leave the layers as the class makes them")
    if forwards:
        values |= _feed_forward_values(layer, forwards, values["depth"], module.dim)
    return values


def _feed_forward_values(layer: LiveLayer, forwards: list[Any], depth: int, dim: int) -> dict[str, Any]:
    first = forwards[0]
    name = type(first.act).__name__.lower()
    names = {type(each.act).__name__.lower() for each in forwards}
    exact = all(getattr(each.act, "approximate", "none") == "none" for each in forwards)
    if name not in ACTIVATIONS or len(names) > 1 or not exact:
        got, expected = (
            f"the activation {type(first.act).__name__}",
            f"one of torch.nn's {', '.join(ACTIVATIONS)}",
        )
        raise layer.error(got, expected, "open an issue for another activation")
    return {
        "ff_activation": name,
        "ff_glu": bool(first.glu),
        "ff_mult": first.w2.in_features // dim,
    }


def _read_bare(
    layer: LiveLayer, module: Any, seeds: Iterator[int], longest: int, head_size: int
) -> LiveLucidrains:
    """An LSHAttention, which is given one head's queries and keys: as one layer's attention of one head."""
    values = _hash_values(layer, module)
    for name, attribute in (("return_attn", "_return_attn"), ("random_rotations_per_head",) * 2):
        if getattr(module, attribute, values.get(name, False)):
            raise layer.error(f"{name} true", "false for an LSHAttention by itself", "export it without")
    size = {"dim": head_size, "heads": 1, "dim_head": head_size, "num_mem_kv": 0, "full_attn_thres": 0}
    keywords = _make_keywords(layer, "LSHSelfAttention", {**values, **size}, longest)
    spec, _ = spec_from_keywords(keywords, False, LoadOptions())
    return LiveLucidrains(_with_seeds(spec, seeds), {}, {0: ""})
