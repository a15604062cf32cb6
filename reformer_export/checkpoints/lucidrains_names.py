"""The names that tensors of reformer-pytorch's models have here, and there.

The package registers each layer twice, under `blocks` and `irrev_blocks`, and layers with `weight_tie` once
more each: one tensor has several names. A state dict has all of them; safetensors may have but one.
"""

from __future__ import annotations

from collections.abc import Collection

from reformer_export.checkpoints.lucidrains_facts import BLOCK, EMBEDDING, Shape
from reformer_export.checkpoints.lucidrains_keywords import Keywords
from reformer_export.checkpoints.lucidrains_product_keys import memory_names
from reformer_export.product_keys_spec import ProductKeysSpec


def parameter_names(
    keywords: Keywords, head_size: int, memories: ProductKeysSpec | None
) -> dict[str, tuple[str, Shape]]:
    """Every parameter of the canonical model (modeling/lucidrains.py) -> its name in a state dict, its
    shape; of product keys see `convert_memories`."""
    if keywords.model_class == "LSHSelfAttention":
        return _attention_names(keywords, head_size, "encoder.layers.0.attention", "")
    root = "layers." if keywords.takes_vectors else "reformer.layers."
    names: dict[str, tuple[str, Shape]] = {}
    for layer in range(keywords["depth"]):
        names |= _layer_names(keywords, head_size, layer, root)
        names |= _feed_forward_names(keywords, layer, root, memories)
    return names if keywords.takes_vectors else _outer_names(keywords, head_size) | names


def _outer_names(keywords: Keywords, head_size: int) -> dict[str, tuple[str, Shape]]:
    """What stands around a ReformerLM's layers."""
    dim, width = keywords["dim"], keywords["emb_dim"]
    names: dict[str, tuple[str, Shape]] = {
        "embeddings.word_embeddings.weight": (EMBEDDING, (keywords["num_tokens"], width)),
        **_position_names(keywords, head_size),
        **_both("encoder.layer_norm", "norm", (dim,)),
    }
    if width != dim:
        names |= _linear("embeddings.projection", "to_model_dim", dim, width)
    if keywords["return_embeddings"]:
        return names
    if width != dim:
        names |= _linear("lm_head.projection", "out.0", width, dim)
    if keywords["weight_tie_embedding"]:
        return names | {"lm_head.decoder.weight": ("out.1.tensor", (keywords["num_tokens"], width))}
    return names | _linear("lm_head.decoder", "out.1", keywords["num_tokens"], width)


def _position_names(keywords: Keywords, head_size: int) -> dict[str, tuple[str, Shape]]:
    width, prefix = keywords["emb_dim"], "embeddings.position_embeddings."
    if keywords["axial_position_emb"]:
        sizes = keywords["axial_position_shape"]
        return {
            f"{prefix}weights.{axis}": (
                f"pos_emb.weights.{axis}",
                (1, *(size if axis == i else 1 for i in range(len(sizes))), width),
            )
            for axis, size in enumerate(sizes)
        }
    if keywords["absolute_position_emb"]:
        return {f"{prefix}embedding.weight": ("pos_emb.emb.weight", (keywords["max_seq_len"], width))}
    if keywords["fixed_position_emb"]:
        return {f"{prefix}frequencies": ("pos_emb.inv_freq", (-(-width // 2),))}
    return {"rotary_positions.frequencies": ("layer_pos_emb.inv_freq", (-(-head_size // 2),))}


def _layer_names(keywords: Keywords, head_size: int, layer: int, root: str) -> dict[str, tuple[str, Shape]]:
    dim, ours, theirs = keywords["dim"], f"encoder.layers.{layer}", f"{root}blocks.{layer}"
    names: dict[str, tuple[str, Shape]] = {}
    for part, block in (("attention", "f"), ("feed_forward", "g")):
        here, there = f"{ours}.{part}", f"{theirs}.{block}.net"
        if keywords["use_rezero"]:
            names[f"{here}.gate"] = (f"{there}.g", (1,))
        elif keywords["use_scale_norm"]:
            names[f"{here}.layer_norm.weight"] = (f"{there}.norm.g", (1,))
        else:
            names |= _both(f"{here}.layer_norm", f"{there}.norm", (dim,))
    return names | _attention_names(keywords, head_size, f"{ours}.attention", f"{theirs}.f.net.fn.")


def _feed_forward_names(
    keywords: Keywords, layer: int, root: str, memories: ProductKeysSpec | None
) -> dict[str, tuple[str, Shape]]:
    dim, ours = keywords["dim"], f"encoder.layers.{layer}.feed_forward"
    theirs = f"{root}blocks.{layer}.g.net.fn"
    if memories is not None and layer in memories.layers:
        return memory_names(f"{ours}.memory", theirs, memories, dim)
    inner, doubled = keywords["ff_mult"] * dim, 2 if keywords["ff_glu"] else 1
    return _linear(f"{ours}.inner", f"{theirs}.fn.w1", inner * doubled, dim) | _linear(
        f"{ours}.outer", f"{theirs}.fn.w2", dim, inner
    )


def _attention_names(
    keywords: Keywords, head_size: int, ours: str, theirs: str
) -> dict[str, tuple[str, Shape]]:
    """A layer's attention, under the module `ours`, and there behind the prefix `theirs`."""
    dim, all_heads = keywords["dim"], keywords["heads"] * head_size
    values = head_size if keywords["one_value_head"] else all_heads
    names: dict[str, tuple[str, Shape]] = {
        f"{ours}.self_attention.query_key.weight": (f"{theirs}toqk.weight", (all_heads, dim)),
        f"{ours}.self_attention.value.weight": (f"{theirs}tov.weight", (values, dim)),
    }
    if keywords["num_mem_kv"]:
        names[f"{ours}.self_attention.memory"] = (f"{theirs}mem_kv", (1, keywords["num_mem_kv"], dim))
    return names | _linear(f"{ours}.output.dense", f"{theirs}to_out", dim, all_heads)


def _both(ours: str, theirs: str, shape: Shape) -> dict[str, tuple[str, Shape]]:
    return {f"{ours}.{part}": (f"{theirs}.{part}", shape) for part in ("weight", "bias")}


def _linear(ours: str, theirs: str, rows: int, columns: int) -> dict[str, tuple[str, Shape]]:
    return {
        f"{ours}.weight": (f"{theirs}.weight", (rows, columns)),
        f"{ours}.bias": (f"{theirs}.bias", (rows,)),
    }


def other_names(name: str, depth: int, is_tied: bool, memories: Collection[int] = ()) -> list[str]:
    """Names of a state dict under which the tensor `name` stands as well, itself first; `memories`: the
    layers that have a product-key memory, which they share among themselves."""
    match = BLOCK.match(name)
    if match is None:
        return [name]
    rest, root, own = name[match.end() :], match[1], int(match[2])
    siblings = [
        layer
        for layer in range(depth)
        if rest.startswith("f.net.fn.")
        or (rest.startswith("g.net.fn.") and (layer in memories) == (own in memories))
    ]
    layers = [own, *(layer for layer in siblings if is_tied and layer != own)]
    irreversible = rest.replace(".net.", ".", 1)
    return [
        found
        for layer in layers
        for found in (f"{root}blocks.{layer}.{rest}", f"{root}irrev_blocks.{layer}.{irreversible}")
    ]
