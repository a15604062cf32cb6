"""Models of reformer-pytorch for tests: keyword arguments at random, and a checkpoint of them on disk."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.required import skip_unless_required

SMALL: dict[str, Any] = {
    "num_tokens": 50,
    "dim": 32,
    "depth": 2,
    "max_seq_len": 64,
    "heads": 4,
    "dim_head": 8,
    "bucket_size": 4,
    "n_hashes": 3,
    "causal": True,
}

SMALL_ATTENTION: dict[str, Any] = {
    "class": "LSHSelfAttention",
    "dim": 32,
    "heads": 4,
    "bucket_size": 4,
    "n_hashes": 4,
    "max_seq_len": 64,
}
"""As time-series libraries make their layers."""

SMALL_REFORMER: dict[str, Any] = SMALL_ATTENTION | {"class": "Reformer", "depth": 2, "causal": True}


def require_package() -> None:
    """Skip the test where reformer-pytorch is not installed."""
    if importlib.util.find_spec("reformer_pytorch") is None:
        skip_unless_required("needs the package reformer-pytorch")


def save_model(
    folder: Path,
    keywords: dict[str, Any],
    wrapper: str | None = "TrainingWrapper",
    seed: int = 0,
    says_wrapper: bool = True,
) -> tuple[Path, Path]:
    """A model with random weights as a training script saves it: the file of tensors, the JSON of keywords.

    `keywords` may name its `class`; that of a model of vectors has `max_seq_len` for us alone. Weights that
    start as zeros or ones are moved, so that they count.
    """
    require_package()
    import reformer_pytorch
    from reformer_pytorch.autopadder import Autopadder
    from reformer_pytorch.generative_tools import TrainingWrapper

    called = {name: value for name, value in keywords.items() if name != "class"}
    model_class = keywords.get("class", "ReformerLM")
    if model_class != "ReformerLM":
        del called["max_seq_len"]
    if "pkm_layers" in called:
        called["pkm_layers"] = tuple(called["pkm_layers"])
    if called.get("ff_activation") is not None:
        called["ff_activation"] = getattr(torch.nn, called["ff_activation"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: torch.nn.Module = getattr(reformer_pytorch, model_class)(**called)
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter) + (parameter.numel() == 1)
    net = {None: lambda x: x, "Autopadder": Autopadder, "TrainingWrapper": TrainingWrapper}[wrapper](net)
    folder.mkdir(parents=True, exist_ok=True)
    file, config = folder / "model.pt", folder / "kwargs.json"
    torch.save(net.state_dict(), file)
    config.write_text(json.dumps(keywords | ({"wrapper": wrapper} if says_wrapper else {})))
    return file, config


@st.composite
def keyword_arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Keyword arguments of a small ReformerLM that reformer-pytorch can run."""
    bucket_size = draw(st.sampled_from([2, 4, 5]))
    heads = draw(st.integers(1, 4))
    local = draw(st.integers(0, heads - 1)) if draw(st.booleans()) else 0
    memory = draw(st.sampled_from([0, 0, 1, 3, 7]))
    keywords: dict[str, Any] = {
        "num_tokens": draw(st.integers(5, 60)),
        "dim": draw(st.sampled_from([12, 24])),
        "depth": draw(st.integers(1, 3)),
        "max_seq_len": draw(st.integers(2 * bucket_size, 60)),
        "heads": heads,
        "dim_head": draw(st.sampled_from([2, 4, 6, 8])),
        "bucket_size": bucket_size,
        "n_hashes": draw(st.integers(1, 5)),
        "causal": draw(st.booleans()),
        "n_local_attn_heads": local,
        "num_mem_kv": 2 * bucket_size * (memory > 0) if local else memory,
        "full_attn_thres": draw(st.sampled_from([0, 0, 2 * bucket_size, 13, 24])),
        "ff_mult": draw(st.integers(1, 4)),
        "ff_activation": draw(st.sampled_from([None, None, "GELU", "ReLU", "SiLU", "Tanh", "Sigmoid"])),
        "emb_dim": draw(st.sampled_from([None, 12, 8])),
        "attn_chunks": draw(st.integers(1, 3)),
        "ff_chunks": draw(st.integers(1, 100)),
        "reverse_thres": draw(st.sampled_from([0, 30])),
    }
    for name in (
        *("weight_tie", "ff_glu", "random_rotations_per_head", "use_scale_norm", "use_rezero"),
        *("use_full_attn", "one_value_head", "return_embeddings", "weight_tie_embedding"),
    ):
        keywords[name] = draw(st.integers(0, 3)) == 0
    if draw(st.integers(0, 2)) == 0:
        keywords["pkm_layers"] = draw(st.lists(st.integers(1, 4), max_size=3, unique=True))
        keywords["pkm_num_keys"] = draw(st.integers(32, 40))
    position = draw(st.sampled_from(["", "", "fixed", "absolute", "axial", "axial shape"]))
    if position:
        keywords[f"{position.split()[0]}_position_emb"] = True
    if position == "axial shape":
        keywords["axial_position_shape"] = draw(st.sampled_from([[8, 8], [3, 4, 5], [60]]))
    return keywords


@st.composite
def vector_keyword_arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Keyword arguments of a small Reformer or LSHSelfAttention that reformer-pytorch can run."""
    words = draw(keyword_arguments())
    taken = {*SMALL_ATTENTION, "dim_head", "causal", "attn_chunks", "full_attn_thres", "num_mem_kv"}
    taken |= {"n_local_attn_heads", "random_rotations_per_head", "use_full_attn", "one_value_head"}
    if draw(st.booleans()):
        taken |= {"depth", "weight_tie", "ff_mult", "ff_activation", "ff_glu", "ff_chunks", "reverse_thres"}
        taken |= {"use_scale_norm", "use_rezero", "pkm_layers", "pkm_num_keys"}
        own: dict[str, Any] = {"class": "Reformer"}
    else:
        own = {"class": "LSHSelfAttention", "return_attn": draw(st.booleans())}
        if draw(st.booleans()):
            words["full_attn_thres"] = draw(st.sampled_from([None, 1, words["bucket_size"]]))
    if words["dim"] % words["heads"] == 0 and draw(st.booleans()):
        words["dim_head"] = None
    return own | {name: value for name, value in words.items() if name in taken}


def draw_vectors(rng: np.random.Generator, batch: int, length: int, size: int) -> NDArray[np.float32]:
    """Normal numbers float32 [batch, length, size], of another scale in each row; zeros behind some token of
    the last row, as padding that nobody masks, and one vector twice."""
    scales = rng.choice([0.1, 1.0, 4.0], (batch, 1, 1))
    vectors = (rng.standard_normal((batch, length, size)) * scales).astype(np.float32)
    vectors[-1, rng.integers(1, length + 1) :] = 0
    vectors[:, rng.integers(0, length)] = vectors[:, rng.integers(0, length)]
    return vectors
