"""A user's module as eager: handed the rotations of the recorded seeds, read by hooks, left as it was."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.models.reformer import modeling_reformer

from reformer_export.custom_spec import AttentionUse, CustomSpec, CustomTensor, Dimension, custom_spec
from reformer_export.errors import InputError
from reformer_export.ops import lsh_buckets_reference
from reformer_export.reference.eager import recorded_rotations
from reformer_export.reference.module import BUCKETS, QUERY_KEY, EagerModule, layer_name
from reformer_export.reference.module_layers import find_hashing_layers
from reformer_export.spec import LSHAttentionSpec
from tests import lucidrains
from tests.hf_models import config_t

SIZE = 16


class Chain(nn.Module):
    """Blocks with a residual each, in whatever order, some of them twice."""

    def __init__(self, parts: nn.Module, order: list[str]) -> None:
        super().__init__()
        self.parts, self.order = parts, order

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for path in self.order:
            layer = self.parts.get_submodule(path)
            found: Any = layer(x, x) if hasattr(layer, "n_hashes") else layer(x)
            found = found[0] if isinstance(found, tuple) else getattr(found, "hidden_states", found)
            x = x + found
        return {"last": x, "mean": x.mean(1)}


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """Chains of two to five runs of up to three blocks, at least one of which hashes."""
    lucidrains.require_package()
    from reformer_pytorch import LSHAttention, LSHSelfAttention

    heads = draw(st.sampled_from([1, 2, 4]))
    common: dict[str, Any] = {
        "bucket_size": 4,
        "n_hashes": draw(st.integers(1, 3)),
        "causal": draw(st.booleans()),
    }
    config = config_t(
        is_decoder=draw(st.booleans()),
        hash_seed=draw(st.sampled_from([None, 3])),
        num_buckets=draw(st.sampled_from([4, [2, 4], None])),
        num_hashes=draw(st.integers(1, 3)),
    )
    torch.manual_seed(draw(st.integers(0, 9)))
    made: dict[str, nn.Module] = {
        "linear": nn.Linear(SIZE, SIZE),
        "bare": LSHAttention(**common),
        "theirs": modeling_reformer.LSHSelfAttention(config),
        "ours": LSHSelfAttention(
            SIZE,
            heads=heads,
            n_local_attn_heads=draw(st.integers(0, heads - 1)),
            num_mem_kv=draw(st.sampled_from([0, 8])),
            full_attn_thres=draw(st.sampled_from([0, 16])),
            one_value_head=draw(st.booleans()),
            **common,
        ),
    }
    order = draw(st.lists(st.sampled_from(sorted(made)), min_size=1, max_size=4))
    order.append(draw(st.sampled_from(["bare", "theirs", "ours"])))
    parts = nn.ModuleDict({"norm": nn.LayerNorm(SIZE), "inner": nn.ModuleDict(made)})
    return Chain(parts, ["norm", *(f"inner.{name}" for name in order)]).eval()


def describe(module: Chain, length: int) -> CustomSpec:
    """What an export says of the module, with rotations of as many columns as `length` tokens take."""
    runs, uses, layers = Counter[str](), [], []
    for path in (f"parts.{each}" for each in module.order):
        layer: Any = module.get_submodule(path)
        if not hasattr(layer, "toqk") and not hasattr(layer, "n_hashes") and not hasattr(layer, "num_hashes"):
            continue
        is_theirs = hasattr(layer, "num_hashes")
        inner = getattr(layer, "lsh_attn", layer)
        heads = layer.num_attention_heads if is_theirs else getattr(layer, "heads", 1)
        heads -= getattr(layer, "n_local_attn_heads", 0)
        factors = ()
        if is_theirs:
            stored = layer.num_buckets or 8
            factors = tuple(stored) if isinstance(stored, list) else (stored,)
        columns = sum(factors) // 2 or (length + getattr(layer, "num_mem_kv", 0)) // (2 * inner.bucket_size)
        size = layer.attention_head_size if is_theirs else getattr(layer, "dim_head", SIZE)
        chunk = layer.chunk_length if is_theirs else inner.bucket_size
        rounds = layer.num_hashes if is_theirs else inner.n_hashes
        seed = getattr(layer, "hash_seed", None) or 20 + len(uses)
        dense = chunk if is_theirs else getattr(layer, "full_attn_thres", 0)
        layers.append(LSHAttentionSpec(chunk, 1, 0, rounds, factors, seed))
        uses.append(
            AttentionUse(
                *(path, runs[path], "transformers" if is_theirs else "lucidrains", heads, size, False),
                *(heads if is_theirs else 1, columns, dense),
            )
        )
        runs[path] += 1
    x = CustomTensor("x", "float32", ("batch", "sequence", SIZE))
    last, mean = CustomTensor("last", "float32", x.shape), CustomTensor("mean", "float32", ("batch", SIZE))
    dimensions = (Dimension("batch", 1, 9), Dimension("sequence", 1, 64))
    return custom_spec((x,), (last, mean), dimensions, tuple(layers), tuple(uses))


def run_plainly(module: Chain, spec: CustomSpec, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The module by itself, whose layers draw by the recorded seeds because these are set when they begin."""
    module, runs = copy.deepcopy(module), Counter[str]()
    for path in find_hashing_layers(module):
        layer: Any = module.get_submodule(path)

        def seed(part: Any, _inputs: Any, path: str = path) -> None:
            index = [(use.path, use.call) for use in spec.uses].index((path, runs[path]))
            runs[path] += 1
            attention = spec.layers[index]
            assert isinstance(attention, LSHAttentionSpec)
            if hasattr(part, "hash_seed"):
                part.hash_seed, part.num_buckets = attention.hash_seed, list(attention.num_buckets)
            torch.manual_seed(attention.hash_seed)

        layer.register_forward_pre_hook(seed)
    with torch.no_grad():
        found: dict[str, torch.Tensor] = module(x)
    return found


@settings(max_examples=40, deadline=None)
@given(chain=chains(), length=st.sampled_from([8, 16, 24]), batch=st.integers(1, 3), seed=st.integers(0, 9))
def test_any_module_runs_with_the_recorded_rotations_and_stays_as_it_was(
    chain: Chain, length: int, batch: int, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, length, SIZE), np.float32)
    spec = describe(chain, length)
    before, counts = (
        torch.random.get_rng_state(),
        [getattr(part, "num_buckets", 0) for part in chain.modules()],
    )
    eager = EagerModule(chain, spec)
    run = eager.run({"x": x}, points=None)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert counts == [getattr(part, "num_buckets", 0) for part in chain.modules()]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in chain.modules())

    for name, expected in run_plainly(chain, spec, torch.from_numpy(x)).items():
        assert np.array_equal(run.outputs[name], expected.numpy())
    for index, use in enumerate(spec.uses):
        buckets, vectors = (run.values[layer_name(spec, index) + what] for what in (BUCKETS, QUERY_KEY))
        layer = spec.layers[index]
        assert isinstance(layer, LSHAttentionSpec)
        if not spec.is_hashed(index, buckets.shape[3]):
            assert not buckets.any()
            continue
        rotations = torch.from_numpy(recorded_rotations(spec, index))
        mask = torch.ones(vectors.shape[:2], dtype=torch.int32)
        hashed = lsh_buckets_reference(
            torch.from_numpy(vectors), rotations, mask, use.num_heads, list(layer.num_buckets)
        )
        assert (hashed.numpy() == buckets).mean() > 0.99  # sums in another order flip one now and then


@pytest.fixture
def chain() -> Chain:
    parts = nn.ModuleDict(
        {"theirs": modeling_reformer.LSHSelfAttention(config_t()), "linear": nn.Linear(16, 16)}
    )
    return Chain(parts, ["theirs", "linear", "theirs"]).eval()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda chain: chain.parts["linear"].train(), "parts.linear in training mode"),
        (lambda chain: chain.bfloat16(), "bfloat16 on cpu, expected float32 weights on the CPU"),
        (lambda chain: chain.to("meta"), "on meta"),
        (lambda chain: chain.order.append("theirs"), "parts.theirs run 3 times, expected 2 times"),
        (lambda chain: chain.order.pop(0), "parts.theirs run 1 times, expected 2 times"),
        (lambda chain: chain.parts.pop("theirs"), "no layer parts.theirs"),
        (lambda chain: chain.order.append("norm"), "got AttributeError: "),
    ],
)
def test_another_module_is_refused(chain: Chain, spoil: Any, words: str) -> None:
    spec = describe(chain, 16)
    spoil(chain)
    with pytest.raises(InputError, match=words.replace("(", r"\(")) as refused:
        EagerModule(chain, spec).run({"x": np.zeros((1, 16, SIZE), np.float32)})
    assert refused.value.what == "module"
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in chain.modules())


def test_what_is_no_module_is_refused(chain: Chain) -> None:
    with pytest.raises(InputError, match=r"module: got function, expected a torch\.nn\.Module"):
        EagerModule(describe, describe(chain, 16))  # type: ignore[arg-type]
