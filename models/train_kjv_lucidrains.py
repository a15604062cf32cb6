#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the byte-level reformer-pytorch model that is shipped in ``models/kjv-lucidrains``.

The text and the tokens are those of ``kjv-bytes``. The model is what most users of lucidrains'
reformer-pytorch train: a causal ``ReformerLM`` with rotary positions in a ``TrainingWrapper``. Its keyword
``reverse_thres`` keeps it from the reversible backward pass (which would compute every layer twice), and
every step draws new hash rotations, as the package always does.

    pip install reformer-pytorch==1.4.4
    python models/train_kjv_lucidrains.py --out models/kjv-lucidrains
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from byte_evaluation import SEQUENCE_LENGTH, Predict, bits_per_character
from byte_training import Trainer, draw_windows, parser_of_run, save_atomically, train, write_json
from kjv_text import VOCABULARY_SIZE
from reformer_pytorch import ReformerLM
from reformer_pytorch.generative_tools import TrainingWrapper
from safetensors.torch import load_model, save_model
from torch import Tensor

NAME = "kjv-lucidrains"
KEYWORDS: dict[str, Any] = {
    "num_tokens": VOCABULARY_SIZE,
    "dim": 160,
    "depth": 4,
    "max_seq_len": SEQUENCE_LENGTH,
    "heads": 4,
    "dim_head": 32,
    "bucket_size": 32,
    "n_hashes": 2,
    "ff_chunks": 1,
    "causal": True,
    "ff_mult": 2,
    "ff_glu": True,
    "reverse_thres": SEQUENCE_LENGTH,
    "n_local_attn_heads": 1,
}
SHORT_EVERY = 16  # steps; one of them has short windows, as prompts are short
SHORT_LENGTH = 64
SHORT_WINDOWS = 500  # of the held-out text, that are measured
QUERY_LENGTHS = (24.0, 8.0, 0.0)  # of the part that all tokens share, one of each LSH head, to begin with
FAST_PAIRS = 4  # rotary pairs that this part lies in, the fastest ones


def build_model() -> TrainingWrapper:
    """Return the model in the package's wrapper, which pads and computes the loss."""
    return TrainingWrapper(ReformerLM(**KEYWORDS))


@torch.no_grad()
def initialise_queries(model: TrainingWrapper) -> None:
    """Let queries begin with a part that is the same at every position, of another length in each head.

    Rotated by its position, such a part makes a position attend to those just before it, and it hashes
    them into one bucket; a head without it attends by content. So attention to near positions need not
    be found first. A layer norm's output has the mean 0, so that an equal bias everywhere is a direction
    of its own, and the weights along it are the constant part.
    """
    direction = torch.zeros(KEYWORDS["dim_head"])
    direction[: 2 * FAST_PAIRS] = (2 * FAST_PAIRS) ** -0.5
    for block in model.net.net.reformer.layers.irrev_blocks:
        attention = block.f.fn
        block.f.norm.bias.fill_(0.5)
        weight = attention.toqk.weight.view(attention.heads, -1, KEYWORDS["dim"])
        weight -= weight.mean(dim=-1, keepdim=True)
        for head, length in enumerate(QUERY_LENGTHS, start=attention.n_local_attn_heads):
            weight[head] += (direction * length / (0.5 * KEYWORDS["dim"]))[:, None]


def keep_float32(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Take ``forward`` of an LSH attention out of autocast: rounded queries would move to other buckets."""

    def run(query_key: Tensor, value: Tensor, **others: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return forward(query_key.float(), value.float(), **others)

    return run


class LucidrainsTrainer(Trainer):
    """A run of reformer-pytorch's model."""

    def __init__(self, options: argparse.Namespace, train_ids: Tensor, held_out_ids: Tensor) -> None:
        """Build or restore the run, and compile its loss over full windows."""
        super().__init__(options, train_ids, held_out_ids)
        self.full_loss = torch.compile(self.compute_loss) if options.compile else self.compute_loss

    def build_model(self) -> torch.nn.Module:
        """Return a new model, ready to be trained."""
        model = build_model().train()
        initialise_queries(model)
        for block in model.net.net.reformer.layers.irrev_blocks:
            attention = block.f.fn.lsh_attn
            attention.forward = keep_float32(attention.forward)
        return model

    def draw_batch(self) -> Tensor:
        """Return the windows of the next step, one byte longer than what the model sees of them."""
        options, step = self.options, self.progress.step
        count, length = options.batch_size, SEQUENCE_LENGTH
        if step % SHORT_EVERY == SHORT_EVERY - 1:
            count, length = count * SEQUENCE_LENGTH // SHORT_LENGTH, SHORT_LENGTH
        return draw_windows(self.train_ids, step, count, length + 1, options.seed)

    def compute_loss(self, ids: Tensor) -> Tensor:
        """Return the wrapper's own loss."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.options.bf16):
            return self.model(ids, return_loss=True)

    def loss(self, ids: Tensor) -> Tensor:
        """Return the mean next-byte loss (nats)."""
        return (self.full_loss if len(ids) == self.options.batch_size else self.compute_loss)(ids)

    def predict(self, ids: Tensor) -> Tensor:
        """Return the model's logits."""
        return self.model(ids)

    def export(self) -> None:
        """Save the wrapped model's state, with its shared tensors once, and its keyword arguments."""
        save_atomically(
            lambda beside: save_model(self.model, str(beside)), self.options.out / "model.safetensors"
        )
        (self.options.out / "model.safetensors").chmod(0o644)
        write_json(
            self.options.out / "kwargs.json", {"class": "ReformerLM", "wrapper": "TrainingWrapper"} | KEYWORDS
        )

    def load_export(self) -> Predict:
        """Load the saved model, as any user of reformer-pytorch would."""
        model = build_model().eval()
        load_model(model, self.options.out / "model.safetensors")
        return model

    def more_facts(self, shipped: Predict) -> dict[str, Any]:
        """Return the result on short windows, and the version of the package."""
        bpc = bits_per_character(shipped, self.held_out_ids, SHORT_WINDOWS, SHORT_LENGTH)
        return {"held_out_bpc_64_bytes": round(bpc, 4), "reformer_pytorch": version("reformer-pytorch")}


def main() -> None:
    """Train, export, evaluate the export and write its training facts."""
    parser = parser_of_run((__doc__ or "").partition("\n")[0], NAME)
    parser.set_defaults(steps=3000, learning_rate=2e-3, warm_up=100, report_every=200)
    train(LucidrainsTrainer, parser.parse_args())


if __name__ == "__main__":
    main()
