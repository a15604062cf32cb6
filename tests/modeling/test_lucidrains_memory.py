"""Product-key memories: which are chosen, and what they add, against the packages that trained them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reformer_export.checkpoints.lucidrains_product_keys import convert_memories, memory_names
from reformer_export.modeling.lucidrains_memory import HALVES, MemoryChoice, ProductKeyMemory, possible_ranks
from reformer_export.product_keys_spec import NUM_CHOSEN, NUM_QUERIES, ProductKeysSpec, QueryNorm
from tests.lucidrains import require_package

WIDTH = 24


@given(num_keys=st.integers(32, 50), levels=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_the_best_of_all_memories_are_chosen(num_keys: int, levels: int, seed: int) -> None:
    """Whole scores, so that many are equal: of those any may be chosen, but each once."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (3, 2 * NUM_QUERIES, num_keys)).astype(np.float32)
    memories = MemoryChoice(ProductKeysSpec((0,), num_keys))(torch.from_numpy(scores)).numpy()
    first, second = (scores[:, half] for half in HALVES)
    every = (first[..., :, None] + second[..., None, :]).reshape(3, NUM_QUERIES, -1)
    best = np.sort(every, -1)[..., ::-1][..., :NUM_CHOSEN]
    np.testing.assert_array_equal(np.take_along_axis(every, memories, -1), best)
    assert all(len(set(row)) == NUM_CHOSEN for row in memories.reshape(-1, NUM_CHOSEN).tolist())


def test_possible_ranks_are_few() -> None:
    assert possible_ranks(3) == ([0, 0, 0, 1, 2], [0, 1, 2, 0, 0])
    assert len(possible_ranks(NUM_CHOSEN)[0]) == 119


def build(state: Mapping[str, torch.Tensor], query_norm: QueryNorm, num_keys: int) -> ProductKeyMemory:
    """The canonical memory with the tensors of the package's."""
    spec = ProductKeysSpec((0,), num_keys, query_norm)
    weights = {
        ours: state[theirs.removeprefix("their.")]
        for ours, (theirs, shape) in memory_names("memory", "their", spec, WIDTH).items()
        if state[theirs.removeprefix("their.")].shape == shape
    }
    convert_memories(weights, ["memory"])
    memory = ProductKeyMemory(spec, WIDTH)
    memory.load_state_dict({name.removeprefix("memory."): x for name, x in weights.items()})
    return memory.eval()


def randomise(module: nn.Module) -> None:
    """Move what starts as zeros and ones, so that it counts."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.ndim == 1:
            tensor.data = torch.rand_like(tensor) + 0.5 if name.endswith("var") else tensor + torch.randn(1)


def test_it_is_the_package_s() -> None:
    require_package()
    from product_key_memory import PKM

    torch.manual_seed(0)
    theirs = PKM(WIDTH, num_keys=37).eval()
    randomise(theirs)
    x = torch.randn(3, 17, WIDTH)
    with torch.no_grad():
        expected = theirs(x)
        got = build(theirs.state_dict(), "layer", 37)(x.reshape(-1, WIDTH)).view_as(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


class BatchNormed(nn.Module):
    """PKM of product-key-memory 0.1.10 at inference, as that writes it; 0.1.1 is the same."""

    def __init__(self, dim: int, num_keys: int) -> None:
        super().__init__()
        self.to_queries = nn.Linear(dim, 1024, bias=False)
        self.norm = nn.ModuleDict({"fn": nn.BatchNorm1d(1024)})
        self.keys = nn.Parameter(torch.randn(4, num_keys, 2, 128) / 128**0.5)
        self.values = nn.EmbeddingBag(num_keys**2, dim, mode="sum")

    def forward(self, x: torch.Tensor) -> Any:
        b, t, e = x.shape
        queries = self.to_queries(x)
        queries = self.norm["fn"](queries.reshape(-1, queries.shape[-1])).reshape(b, t, -1)
        queries = torch.stack(queries.chunk(2, dim=-1)).reshape(2, b, t, 4, -1)
        dots = torch.einsum("pbthd,hnpd->bthpn", queries, self.keys)
        scores, indices = (part.chunk(2, dim=3) for part in dots.topk(k=32, dim=-1))
        shape = (b, t, 4, 32**2)
        all_scores = (scores[0][..., :, None] + scores[1][..., None, :]).reshape(*shape)
        count = self.keys.shape[1]
        all_indices = (indices[0][..., :, None] * count + indices[1][..., None, :]).reshape(*shape)
        final, final_indices = all_scores.topk(32, dim=-1)
        chosen, weights = all_indices.gather(-1, final_indices), final.softmax(dim=-1)
        chosen, weights = (part.reshape(-1, 32 * 4) for part in (chosen, weights))
        return self.values(chosen, per_sample_weights=weights).reshape(b, t, e)


def test_a_batch_norm_is_that_of_older_packages() -> None:
    torch.manual_seed(1)
    theirs = BatchNormed(WIDTH, 33).eval()
    randomise(theirs)
    x = torch.randn(2, 19, WIDTH)
    with torch.no_grad():
        got = build(theirs.state_dict(), "batch", 33)(x.reshape(-1, WIDTH)).view_as(x)
        torch.testing.assert_close(got, theirs(x), rtol=0, atol=1e-5)
        theirs.norm["fn"].running_mean += 1.0  # type: ignore[operator]
        assert (got - theirs(x)).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_chooses_is_float32(dtype: torch.dtype) -> None:
    """The queries' projection alone is rounded before the choice."""
    torch.manual_seed(2)
    memory = ProductKeyMemory(ProductKeysSpec((0,), 40), WIDTH)
    for parameter in memory.parameters():
        nn.init.normal_(parameter)
    memory.query.to(dtype)
    memory.values.data = memory.values.to(dtype)
    x = torch.randn(5, WIDTH).to(dtype)
    with torch.no_grad():
        got = memory(x)
        projected = memory.query(x).float()
        scores = memory.keys(memory.query_norm(projected))
        memories = memory.choice(scores)
        chosen = sum(
            torch.gather(scores[:, half], 2, key)
            for half, key in zip(HALVES, (memories // 40, memories % 40), strict=True)
        )
        assert isinstance(chosen, torch.Tensor)
        weights = chosen.softmax(-1)
        expected = (memory.values.float()[memories] * weights[..., None]).sum((1, 2))
        greatest = float((memory.values.float()[memories].abs() * weights[..., None]).sum((1, 2)).max())
    assert got.dtype == dtype
    spacing = 2.0**-10 if dtype is torch.float16 else 2.0**-7
    assert (got.float() - expected).abs().max() < 2 * spacing * greatest  # weights, partial sums, the result
