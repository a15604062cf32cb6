#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the models of the duplication task that are shipped in ``models/duplication``.

The task is that of section 2.1 of "Reformer: The Efficient Transformer" (Kitaev, Kaiser, Levskaya,
2020): a sequence ``0 w 0 w`` with a random word ``w`` of 511 symbols out of 127, where only the second
half can be predicted. One layer of LSH attention does it, if a position finds the one place in the first
half that holds the symbol after it. Each model is a plain ``transformers`` ``ReformerModelWithLMHead``,
trained from scratch with its own number of hashes, or with full attention.

    python models/train_duplication.py --out models/duplication            # all four
    python models/train_duplication.py --out models/duplication --attention lsh-4
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers import ReformerConfig, ReformerModelWithLMHead

NUM_SYMBOLS = 127  # 1 to 127; 0 separates the words
HALF_LENGTH = 512  # the separator and the word
SEQUENCE_LENGTH = 2 * HALF_LENGTH
CHUNK_LENGTH = 16  # short, so that one hash does miss
NUM_BUCKETS = 2 * SEQUENCE_LENGTH // CHUNK_LENGTH  # half a chunk a bucket, as transformers would choose
SHIPPED_HASH_SEED = 0
ATTENTIONS = ("full", "lsh-4", "lsh-2", "lsh-1")  # the rows of the paper's Table 2
FIRST_STAGE = 32  # pairs of positions in the first stage of training; doubled up to HALF_LENGTH
STAGE_ACCURACY = 0.9  # over STAGE_STEPS steps, to go on to the next stage
STAGE_STEPS = 15


def build_config(attention: str, hash_seed: int | None) -> ReformerConfig:
    """Return the architecture; ``attention`` is ``full`` or ``lsh-`` and the number of hashes.

    Full attention is a chunk as long as the sequence: then nothing is hashed.
    """
    full = attention == "full"
    return ReformerConfig(
        vocab_size=NUM_SYMBOLS + 1,
        pad_token_id=0,  # the separator, as no sequence needs padding
        bos_token_id=0,
        eos_token_id=0,
        is_decoder=True,
        hidden_size=128,
        num_attention_heads=4,
        attention_head_size=32,
        feed_forward_size=128,
        hidden_act="relu",
        attn_layers=["lsh"],
        axial_pos_embds=False,
        max_position_embeddings=SEQUENCE_LENGTH,
        initializer_range=0.02,
        lsh_attn_chunk_length=SEQUENCE_LENGTH if full else CHUNK_LENGTH,
        num_hashes=1 if full else int(attention.removeprefix("lsh-")),
        num_buckets=NUM_BUCKETS,
        hidden_dropout_prob=0.0,
        lsh_attention_probs_dropout_prob=0.0,
        hash_seed=hash_seed,
    )


def draw_sequences(count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` sequences 0w0w, int64 [count, SEQUENCE_LENGTH]."""
    words = torch.randint(1, NUM_SYMBOLS + 1, (count, HALF_LENGTH - 1), generator=generator)
    halves = functional.pad(words, (1, 0))
    return torch.cat([halves, halves], dim=1)


def draw_pairs(count: int, pairs: int, generator: torch.Generator) -> Tensor:
    """Return the positions that ``count`` sequences keep, int64 [count, 2 * pairs], ascending.

    A pair is a place in the first word and the position of the second half that has to predict its symbol:
    the one before the symbol's second occurrence.
    """
    order = torch.rand(count, HALF_LENGTH - 1, generator=generator).argsort(dim=1)
    places = order[:, :pairs].sort(dim=1).values + 1
    return torch.cat([places, places + HALF_LENGTH - 1], dim=1)


def predict(model: ReformerModelWithLMHead, ids: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the logits [batch, half of the length, symbols] of the second half, through ordinary autograd.

    Same modules and same result as ``model(ids, position_ids=positions).logits`` without dropout; only the
    reversible backward pass is left out, which would compute the layer twice.
    """
    encoder = model.reformer.encoder
    attention_stream = hidden_stream = model.reformer.embeddings(input_ids=ids, position_ids=positions)
    for layer in encoder.layers:
        attention_stream = attention_stream + layer.attention(hidden_stream).hidden_states
        hidden_stream = hidden_stream + layer.feed_forward(attention_stream)
    hidden = encoder.layer_norm(torch.cat([attention_stream, hidden_stream], dim=-1))
    return model.lm_head(hidden[:, ids.shape[1] // 2 :])


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Return the rate at ``step``: linear warm-up, then a cosine down to a fiftieth."""
    if step < options.warm_up:
        return options.learning_rate * (step + 1) / options.warm_up
    done = (step - options.warm_up) / max(1, options.steps - options.warm_up)
    return options.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """One training run.

    Pairs of positions that have to find each other among 1024 give a gradient too weak to start from. So
    the first sequences keep only some pairs, drawn anew for each sequence, at their own positions; the
    number doubles whenever nearly all is predicted, and most of the training sees whole sequences.
    """

    def __init__(self, attention: str, options: argparse.Namespace) -> None:
        """Build the model and the optimizer."""
        torch.manual_seed(options.seed)
        self.options = options
        self.model = ReformerModelWithLMHead(build_config(attention, hash_seed=None)).train()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.generator = torch.Generator().manual_seed(options.seed + 1)
        self.pairs = FIRST_STAGE
        self.stages: list[dict[str, int]] = [{"step": 0, "pairs": self.pairs}]
        self.curve: list[dict[str, float]] = []

    def draw_batch(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return ids, their positions (None: all), and what the second half of them has to predict."""
        count = self.options.batch_tokens // (2 * self.pairs)
        sequences = draw_sequences(count, self.generator)
        if self.pairs == HALF_LENGTH:
            following = functional.pad(sequences[:, HALF_LENGTH + 1 :], (0, 1), value=-100)
            return sequences, None, following
        positions = draw_pairs(count, self.pairs, self.generator)
        return sequences.gather(1, positions), positions, sequences.gather(1, positions[:, : self.pairs])

    def step(self, number: int) -> tuple[float, float]:
        """Take one optimizer step; return its loss (nats) and accuracy."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, self.options)
        ids, positions, following = self.draw_batch()
        logits = predict(self.model, ids, positions)
        loss = functional.cross_entropy(logits.flatten(0, 1), following.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        scored = following >= 0
        hits = (logits.detach().argmax(dim=-1) == following)[scored]
        return loss.item(), hits.float().mean().item()

    def run(self) -> None:
        """Train to the last step."""
        report_every = self.options.report_every
        losses: list[float] = []
        accuracies: list[float] = []
        stage_start = 0
        for number in range(self.options.steps):
            loss, accuracy = self.step(number)
            losses.append(loss)
            accuracies.append(accuracy)
            recent = accuracies[stage_start:][-STAGE_STEPS:]
            mastered = len(recent) == STAGE_STEPS and sum(recent) > STAGE_ACCURACY * STAGE_STEPS
            if mastered and self.pairs < HALF_LENGTH:
                self.pairs *= 2
                self.stages.append({"step": number + 1, "pairs": self.pairs})
                stage_start = number + 1
            if (number + 1) % report_every == 0 or number + 1 == self.options.steps:
                self.report(number + 1, losses[-report_every:], accuracies[-report_every:])

    def report(self, step: int, losses: list[float], accuracies: list[float]) -> None:
        """Print a progress line and remember it."""
        loss, accuracy = sum(losses) / len(losses), sum(accuracies) / len(accuracies)
        self.curve.append(
            {"step": step, "pairs": self.pairs, "loss": round(loss, 4), "accuracy": round(accuracy, 4)}
        )
        print(
            f"step {step}/{self.options.steps}  {self.pairs} pairs  loss {loss:.4f}  {accuracy:.2%}",
            flush=True,
        )


def save(model: ReformerModelWithLMHead, folder: Path, facts: dict[str, Any]) -> None:
    """Save the model as ``transformers`` does, with a fixed hash seed, and ``training.json``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-") as beside:
        model.config.hash_seed = SHIPPED_HASH_SEED
        model.save_pretrained(beside)
        text = json.dumps(facts, indent=2) + "\n"
        (Path(beside) / "training.json").write_text(text, encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for file in sorted(Path(beside).iterdir()):
            file.chmod(0o644)
            shutil.move(file, folder / file.name)


def train(attention: str, options: argparse.Namespace) -> None:
    """Train one model and save it in the folder named after its attention."""
    print(f"{attention}:", flush=True)
    started, used = time.monotonic(), time.process_time()
    trainer = Trainer(attention, options)
    trainer.run()
    facts = {
        "attention": attention,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "seconds": round(time.monotonic() - started),
        "cpu_seconds": round(time.process_time() - used),
        "settings": {k: v for k, v in vars(options).items() if k not in ("out", "attention")},
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "stages": trainer.stages,
        "curve": trainer.curve,
    }
    save(trainer.model, options.out / attention, facts)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("models/duplication"), help="folder of the models' folders")
    add("--attention", action="append", choices=ATTENTIONS, help="train only this one (may be repeated)")
    add("--steps", type=int, default=800)
    add("--batch-tokens", type=int, default=4096, help="tokens a step")
    add("--learning-rate", type=float, default=3e-3)
    add("--warm-up", type=int, default=100, help="steps of linear warm-up")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--report-every", type=int, default=50, help="steps between reports")
    return parser.parse_args()


def main() -> None:
    """Train the models that were asked for, one after the other."""
    options = parse_arguments()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    for attention in options.attention or ATTENTIONS:
        train(attention, options)


if __name__ == "__main__":
    main()
