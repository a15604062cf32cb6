# SPDX-License-Identifier: Apache-2.0
"""What the training runs of the byte-level models share: windows, schedule, checkpoints and the loop.

A script derives its ``Trainer``, which says what the model is, what its loss is and how it is saved.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from byte_evaluation import SEQUENCE_LENGTH, Predict, bits_per_character, causality_check, sample
from kjv_text import SAMPLE_PROMPT, compressor_baselines, dump_bible, encode, normalise
from torch import Tensor

# --- training -----------------------------------------------------------------------------------


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint and, at the end, in ``training.json``."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def share_done(progress: Progress, options: argparse.Namespace) -> float:
    """Return how much of the run is over, 0 to 1: of its steps or of its minutes, whichever is more."""
    minutes = math.inf if options.minutes is None else options.minutes
    steps = (progress.step - options.warm_up) / max(1, options.steps - options.warm_up)
    return min(1.0, max(0.0, steps, progress.seconds / 60 / minutes))


def learning_rate(progress: Progress, options: argparse.Namespace) -> float:
    """Return the rate of the next step: linear warm-up, then a cosine down to a fiftieth."""
    if progress.step < options.warm_up:
        return options.learning_rate * (progress.step + 1) / options.warm_up
    done = share_done(progress, options)
    return options.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def build_optimizer(model: torch.nn.Module, options: argparse.Namespace) -> torch.optim.AdamW:
    """Return AdamW that decays the matrices and leaves biases, norms and embeddings alone."""

    def is_decayed(name: str, parameter: Tensor) -> bool:
        return parameter.ndim == 2 and "embedding" not in name and "token_emb" not in name

    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if is_decayed(name, p)], "weight_decay": options.weight_decay},
        {"params": [p for name, p in named if not is_decayed(name, p)], "weight_decay": 0.0},
    ]
    betas = (0.9, options.beta2)
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=betas, fused=True)


def draw_windows(ids: Tensor, step: int, count: int, length: int, seed: int) -> Tensor:
    """Return the windows [count, length] of ``step``: the same whether or not the run was interrupted."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(ids) - length + 1, (count,), generator=generator)
    return torch.stack([ids[start : start + length] for start in starts.tolist()])


def save_atomically(write: Callable[[Path], Any], target: Path) -> None:
    """Let ``write`` fill a file beside ``target``, then rename it into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    write(beside)
    beside.replace(target)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file."""
    save_atomically(lambda beside: beside.write_text(json.dumps(content, indent=2) + "\n"), path)


class Trainer:
    """One training run: the model, its optimizer and its progress."""

    model: torch.nn.Module

    def __init__(self, options: argparse.Namespace, train_ids: Tensor, held_out_ids: Tensor) -> None:
        """Build the model and the optimizer, or restore them with ``--resume``."""
        torch.manual_seed(options.seed)
        self.options = options
        self.train_ids, self.held_out_ids = train_ids, held_out_ids
        self.model = self.build_model()
        self.optimizer = build_optimizer(self.model, options)
        self.progress = Progress()
        self.largest_norm = 0.0
        if options.resume:
            self.load_checkpoint()
            torch.manual_seed(options.seed + self.progress.step)
            print(f"resumed at step {self.progress.step}", flush=True)

    def build_model(self) -> torch.nn.Module:
        """Return a new model, ready to be trained."""
        raise NotImplementedError

    def loss(self, ids: Tensor) -> Tensor:
        """Return the mean next-byte loss (nats) over windows ``ids``."""
        raise NotImplementedError

    def predict(self, ids: Tensor) -> Tensor:
        """Return the model's logits; see ``Predict``."""
        raise NotImplementedError

    def export(self) -> None:
        """Save the model into the folder ``--out``."""
        raise NotImplementedError

    def load_export(self) -> Predict:
        """Load the saved model, as a user of its library would."""
        raise NotImplementedError

    def more_facts(self, shipped: Predict) -> dict[str, Any]:
        """Return what else ``training.json`` says of the saved model."""
        raise NotImplementedError

    def draw_batch(self) -> Tensor:
        """Return the windows of the next step."""
        options = self.options
        return draw_windows(
            self.train_ids, self.progress.step, options.batch_size, SEQUENCE_LENGTH, options.seed
        )

    def save_checkpoint(self) -> None:
        """Write what ``--resume`` needs."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        save_atomically(lambda beside: torch.save(state, beside), self.options.checkpoint)

    def load_checkpoint(self) -> None:
        """Restore a run from its checkpoint."""
        state = torch.load(self.options.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def step(self) -> Tensor:
        """Take one optimizer step and return its loss."""
        progress = self.progress
        ids = self.draw_batch()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(progress, self.options)
        loss = self.loss(ids)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.largest_norm = max(self.largest_norm, norm.item())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.tokens += ids.numel()
        return loss.detach()

    def report(self, losses: list[float]) -> None:
        """Print a progress line, with a quick look at the held-out text, and remember it."""
        progress = self.progress
        self.model.eval()
        held_out = bits_per_character(self.predict, self.held_out_ids, limit=16)
        self.model.train()
        train = sum(losses) / len(losses) / math.log(2)
        point = {"step": progress.step, "train_bpc": round(train, 4)}
        progress.curve.append(point | {"held_out_bpc_16_windows": round(held_out, 4)})
        print(
            f"step {progress.step}/{self.options.steps}  {progress.seconds:.0f} s"
            f"  {progress.tokens / max(progress.seconds, 1e-9):.0f} tokens/s"
            f"  train {train:.4f}  held out {held_out:.4f} bits per character"
            f"  largest gradient {self.largest_norm:.2f}",
            flush=True,
        )
        self.largest_norm = 0.0

    def run(self) -> None:
        """Train to the end, with reports, checkpoints and exports on the way.

        A run that is resumed after its end is only exported.
        """
        options, progress = self.options, self.progress
        losses: list[float] = []
        while share_done(progress, options) < 1:
            started = time.monotonic()
            losses.append(self.step().item())
            progress.seconds += time.monotonic() - started
            if share_done(progress, options) == 1 or progress.step % options.report_every == 0:
                self.report(losses)
                losses.clear()
                self.save_checkpoint()
                self.export()
        self.export()


# --- command line -------------------------------------------------------------------------------


def parser_of_run(description: str, name: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every run; ``name`` is that of the model's folder."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    checkpoint = Path(tempfile.gettempdir()) / name / "checkpoint.pt"
    add("--out", type=Path, default=Path("models") / name, help="folder of the exported model")
    add("--checkpoint", type=Path, default=checkpoint, help="file that --resume goes on from")
    add("--resume", action="store_true", help="go on from the checkpoint")
    add("--steps", type=int)
    add("--minutes", type=float, help="end after so many minutes of steps, however many they are")
    add("--batch-size", type=int, default=1, help=f"windows of {SEQUENCE_LENGTH} bytes a step")
    add("--learning-rate", type=float, default=1e-3)
    add("--warm-up", type=int, default=200, help="steps of linear warm-up")
    add("--weight-decay", type=float, default=0.05)
    add("--beta2", type=float, default=0.98)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--report-every", type=int, default=250, help="steps between reports and checkpoints")
    add("--check-positions", type=int, default=200, help="bytes of the causality check")
    switch = argparse.BooleanOptionalAction
    add("--bf16", action=switch, default=True, help="autocast to bfloat16, LSH attention excepted")
    add("--compile", action=switch, default=True, help="torch.compile (needs a C++ compiler)")
    return parser


def train(trainer_of_run: type[Trainer], options: argparse.Namespace) -> None:
    """Train, export, evaluate the export and write its training facts."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    train_text, held_out_text = normalise(dump_bible())
    train_ids, held_out_ids = encode(train_text), encode(held_out_text)
    print(f"{len(train_ids)} bytes to train on, {len(held_out_ids)} held out", flush=True)
    trainer = trainer_of_run(options, train_ids, held_out_ids)
    trainer.run()
    print("evaluating the exported model", flush=True)
    shipped = trainer.load_export()
    torch.manual_seed(options.seed)  # of the hash rotations, where a model draws them at every call
    held_out_bpc = bits_per_character(shipped, held_out_ids)
    facts = {
        "held_out_bpc": round(held_out_bpc, 4),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "train_bytes": len(train_ids),
        "held_out_bytes": len(held_out_ids),
        "causality_check": causality_check(shipped, held_out_ids, options.check_positions),
        "sample": sample(shipped, SAMPLE_PROMPT, 600, temperature=0.7, seed=0),
        "baselines_bpc": compressor_baselines(train_text, held_out_text),
        "settings": {k: v for k, v in vars(options).items() if not isinstance(v, Path)},
        "torch": torch.__version__,
    }
    facts |= trainer.more_facts(shipped) | asdict(trainer.progress)
    write_json(options.out / "training.json", facts)
    print(f"held out: {held_out_bpc:.4f} bits per character", flush=True)
