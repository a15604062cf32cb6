"""Modules of a user's own, composed at random: linear, convolution, norm, embedding and the layers that are
replaced, nested as people nest them, some of them called twice.

    python -m tests.export.random_modules 60

exports so many of them and compares each with the unpatched module.
"""

from __future__ import annotations

import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reformer_pytorch
import torch
from reformer_pytorch.autopadder import Autopadder
from reformer_pytorch.reformer_pytorch import LSHAttention
from torch import nn
from transformers import ReformerModel
from transformers.models.reformer import modeling_reformer

import reformer_export
from reformer_export.checkpoints.quiet import silence_transformers
from tests.export.eager_module import Sessions, run_eager, worst_difference
from tests.hf_models import config_t

SIZE = 16
LONGEST = 64


class Mixed(nn.Module):
    """A convolution along the sequence."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(SIZE, SIZE, kernel, padding=kernel // 2, padding_mode="zeros")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x.transpose(1, 2)).transpose(1, 2)[:, : x.shape[1]]


class Normed(nn.Module):
    """A batch norm of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(SIZE)
        self.norm.running_mean.uniform_(-0.1, 0.1)
        self.norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def unmasked(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Zeros at masked tokens, whose values a layer with attention is free to choose."""
    return x if mask is None else x * mask[..., None]


class Attended(nn.Module):
    """A layer that is replaced, its sequence filled with zeros to a multiple, and a residual."""

    takes_mask = True

    def __init__(self, layer: nn.Module, multiple: int, mask_name: str, part: str = "") -> None:
        super().__init__()
        self.layer, self.multiple, self.mask_name, self.part = layer, multiple, mask_name, part

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        length = x.shape[1]
        filled = nn.functional.pad(x, (0, 0, 0, -length % self.multiple))
        keywords = {}
        if mask is not None and self.mask_name:
            keywords[self.mask_name] = nn.functional.pad(mask, (0, -length % self.multiple))
        result = self.layer(filled, **keywords)
        result = getattr(result, self.part) if self.part else result
        return x + unmasked(result[:, :length, :SIZE], mask)


class OneHead(nn.Module):
    """An LSHAttention by itself, on projections."""

    takes_mask = True

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention, self.qk, self.v = attention, nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        length = x.shape[1]
        filled = nn.functional.pad(x, (0, 0, 0, -length % 8))
        attended, _, _ = self.attention(self.qk(filled), self.v(filled))
        return x + attended[:, :length]


class WholeModel(nn.Module):
    """A ReformerModel on vectors."""

    takes_mask = True

    def __init__(self, model: nn.Module, by_place: bool) -> None:
        super().__init__()
        self.model, self.by_place = model, by_place

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        result = self.model(inputs_embeds=x, attention_mask=mask, return_dict=not self.by_place)
        hidden = result[0] if self.by_place else result.last_hidden_state
        return x + unmasked(hidden[..., :SIZE] - hidden[..., SIZE:], mask)


class Branches(nn.Module):
    """Blocks in a ModuleDict, in a ModuleList, and one that is called twice."""

    def __init__(self, blocks: list[nn.Module], twice: nn.Module) -> None:
        super().__init__()
        self.named = nn.ModuleDict({f"part{i}": block for i, block in enumerate(blocks[::2])})
        self.listed = nn.ModuleList(blocks[1::2])
        self.twice = twice
        self.again = twice

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in (*self.named.values(), *self.listed, self.twice):
            x = call(block, x, mask)
        return call(self.again, 0.5 * x, mask)


def call(block: nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = block(x, mask) if getattr(block, "takes_mask", False) else block(x)
    return result


class Whole(nn.Module):
    """An embedding of ids or of series, blocks, and a head."""

    def __init__(self, first: nn.Module, blocks: nn.Module, head: nn.Module, result: str) -> None:
        super().__init__()
        self.first, self.blocks, self.head, self.result = first, blocks, head, result

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        x = self.first(inputs)
        x = self.blocks(x, mask) if isinstance(self.blocks, Branches) else self.blocks(x)
        scores = self.head(x)
        if self.result == "dict":
            return {"tokens": scores, "pooled": x.mean(1)}
        return (scores, x.amax(1)) if self.result == "tuple" else scores


def _config(rng: random.Random) -> Any:
    return config_t(
        is_decoder=rng.random() < 0.5,
        attn_layers=rng.choice([["lsh"], ["lsh", "local"], ["local"], ["local", "lsh"]]),
        lsh_attn_chunk_length=4,
        local_attn_chunk_length=rng.choice([4, 8]),
        num_buckets=rng.choice([4, 8, [2, 4], None]),
        num_hashes=rng.choice([1, 2, 3]),
        hash_seed=rng.choice([None, 3]),
    )


def _attention(rng: random.Random) -> nn.Module:
    """A block with a layer that is replaced."""
    config, causal = _config(rng), rng.random() < 0.5
    lucidrains = {"heads": 2, "bucket_size": 4, "n_hashes": rng.choice([1, 2, 4]), "causal": causal}
    kind = rng.choice(["lsh", "local", "encoder", "model", "self", "reformer", "bare", "padded"])
    if kind == "lsh":
        layer = modeling_reformer.LSHSelfAttention(config)
        return Attended(layer, 4, "attention_mask", "hidden_states")
    if kind == "local":
        layer = modeling_reformer.LocalSelfAttention(config)
        return Attended(layer, 8, "attention_mask", "hidden_states")
    if kind == "encoder":
        layer = modeling_reformer.ReformerEncoder(config)
        return Attended(layer, 8, "attention_mask", "hidden_states")
    if kind == "model":
        return WholeModel(ReformerModel(config), rng.random() < 0.5)
    if kind == "reformer":
        layer = reformer_pytorch.Reformer(SIZE, depth=rng.choice([1, 2]), ff_mult=2, **lucidrains)
        return Attended(layer, 8, "input_mask")
    if kind == "bare":
        return OneHead(LSHAttention(bucket_size=4, n_hashes=2, causal=causal))
    local = rng.choice([0, 1]) if kind == "self" else 0  # which need whole windows at any length
    layer = reformer_pytorch.LSHSelfAttention(SIZE, n_local_attn_heads=local, **lucidrains)
    if kind == "padded":
        return Attended(Autopadder(layer), 1, "input_mask")
    return Attended(layer, 8, "input_mask")


def _block(rng: random.Random) -> nn.Module:
    kind = rng.choice(["linear", "mixed", "normed", "layer norm", "nested"])
    if kind == "linear":
        return nn.Sequential(nn.Linear(SIZE, 2 * SIZE), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * SIZE, SIZE))
    if kind == "mixed":
        return Mixed(rng.choice([1, 3, 5]))
    if kind == "normed":
        return Normed()
    if kind == "layer norm":
        return nn.LayerNorm(SIZE)
    return nn.Sequential(
        nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh()), nn.ModuleList([nn.LayerNorm(SIZE)])[0]
    )


@dataclass(frozen=True)
class Composition:
    """A module, an example of its inputs, and further ones of other sizes."""

    module: nn.Module
    example: dict[str, torch.Tensor]
    cases: list[dict[str, torch.Tensor]]


def compose(seed: int) -> Composition:
    """The module of a seed, in evaluation mode; the global random state is left as it was."""
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        takes_ids, takes_mask = rng.random() < 0.5, rng.random() < 0.5
        blocks = [_block(rng) for _ in range(rng.choice([1, 2]))]
        blocks.insert(rng.randrange(len(blocks) + 1), _attention(rng))
        body: nn.Module
        if takes_mask or rng.random() < 0.5:
            body = Branches(blocks, rng.choice([_attention, _block])(rng))
        else:
            body = nn.Sequential(*blocks)
        first = nn.Embedding(30, SIZE) if takes_ids else nn.Linear(3, SIZE)
        result = rng.choice(["tensor", "tuple", "dict"])
        module = Whole(first, body, nn.Linear(SIZE, rng.choice([1, 5])), result).eval()

        def draw(batch: int, length: int) -> dict[str, torch.Tensor]:
            inputs = {"inputs": torch.randn(batch, length, 3)}
            if takes_ids:
                inputs = {"inputs": torch.randint(0, 30, (batch, length))}
            if takes_mask:
                lengths = torch.randint(1, length + 1, (batch, 1))
                inputs["mask"] = torch.arange(length) < lengths
            return inputs

        sizes = [(1, 1), (rng.choice([1, 3]), rng.choice([4, 8])), (2, rng.randint(9, 40)), (1, LONGEST)]
        return Composition(module, draw(2, rng.choice([6, 11, 16])), [draw(*size) for size in sizes])


def examine(seed: int, out: Path) -> float:
    """Export the module of a seed to `out`; the greatest difference of any output from the unpatched module,
    in any session and at any of its sizes."""
    each = compose(seed)
    state = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in each.module.state_dict().items()}
    options: dict[str, Any] = {"max_length": LONGEST, "verify": False}
    manifest = reformer_export.export_module(each.module, each.example, out, **options).manifest
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in each.module.state_dict().items())
    sessions, worst = Sessions(out), 0.0
    for feeds in each.cases:
        with silence_transformers():
            expected = run_eager(each.module, manifest, **feeds)
        worst = max(worst, *(worst_difference(got, expected) for got in sessions.run(feeds).values()))
    return worst


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        found = [examine(seed, Path(scratch) / str(seed)) for seed in range(int(sys.argv[1]))]
    print(f"{len(found)} modules, {sum(each < 1e-4 for each in found)} within 1e-4; worst {max(found):.1e}")
    sys.exit(max(found) >= 1e-4)
