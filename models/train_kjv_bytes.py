#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the byte-level Reformer that is shipped in ``models/kjv-bytes``.

The text is the King James Bible as the ``bible`` command prints it (Debian package
``bible-kjv``); the last books, Colossians to Revelation, are held out for validation.
The model is a plain ``transformers`` ``ReformerModelWithLMHead``. Training runs the same
modules through ordinary autograd instead of the reversible backward pass (which would
compute every layer twice) and draws new hash rotations at every step. The exported
configuration has a fixed ``hash_seed``, so that evaluation is reproducible.

    python models/train_kjv_bytes.py --out models/kjv-bytes
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers import ReformerConfig, ReformerModelWithLMHead

SEQUENCE_LENGTH = 2048
BYTE_OFFSET = 2  # id 0 is padding, id 1 ends a text, a byte b is id b + 2
FIRST_HELD_OUT_BOOK = "Colossians"
SHIPPED_HASH_SEED = 0
SAMPLE_PROMPT = "And it came to pass"
POSITION_RMS = 0.06  # of the initial axial position embeddings
BOOK_NAMES = (
    "Genesis Exodus Leviticus Numbers Deuteronomy Joshua Judges Ruth 1_Samuel 2_Samuel 1_Kings "
    "2_Kings 1_Chronicles 2_Chronicles Ezra Nehemiah Esther Job Psalm Proverbs Ecclesiastes "
    "Song_of_Solomon Isaiah Jeremiah Lamentations Ezekiel Daniel Hosea Joel Amos Obadiah Jonah "
    "Micah Nahum Habakkuk Zephaniah Haggai Zechariah Malachi Matthew Mark Luke John Acts Romans "
    "1_Corinthians 2_Corinthians Galatians Ephesians Philippians Colossians 1_Thessalonians "
    "2_Thessalonians 1_Timothy 2_Timothy Titus Philemon Hebrews James 1_Peter 2_Peter 1_John "
    "2_John 3_John Jude Revelation"
)
VERSE = re.compile(r"(?P<book>\d?[A-Za-z]+)(?P<chapter>\d+):\d+ (?P<text>.+)")


# --- text ---------------------------------------------------------------------------------------


def dump_bible() -> list[str]:
    """Return the whole Bible, one verse with its reference a line, from the ``bible`` command."""
    command = shutil.which("bible")
    if command is None:
        raise SystemExit(
            "The `bible` command is missing; on Debian or Ubuntu it comes with:\n"
            "    apt-get install bible-kjv bible-kjv-text"
        )
    dump = subprocess.run([command, "-f", "Genesis1:1-Revelation22:21"], check=True, capture_output=True)
    return dump.stdout.decode("latin-1").splitlines()


def normalise(lines: list[str]) -> tuple[str, str]:
    """Turn the dump into clean prose and split it into training and held-out text.

    A chapter is a heading such as ``Genesis 1``, one verse a line without its number, and an
    empty line.
    """
    parts: tuple[list[str], list[str]] = ([], [])
    books = iter(BOOK_NAMES.split())
    held_out = False
    abbreviation, chapter, name = "", "", ""
    for line in lines:
        verse = VERSE.fullmatch(line.strip())
        if verse is None:
            raise SystemExit(f"The `bible` command printed a line without a reference: {line!r}")
        if verse["book"] != abbreviation:
            abbreviation, chapter, name = verse["book"], "", next(books).replace("_", " ")
            held_out = held_out or name == FIRST_HELD_OUT_BOOK
        target = parts[held_out]
        if verse["chapter"] != chapter:
            chapter = verse["chapter"]
            target.append(f"\n{name} {chapter}" if target else f"{name} {chapter}")
        target.append(" ".join(verse["text"].split()))
    return "\n".join(parts[False]) + "\n", "\n".join(parts[True]) + "\n"


def encode(text: str) -> Tensor:
    """Return the token ids of ``text``: its bytes, shifted past the special ids."""
    return torch.tensor(list(text.encode("latin-1")), dtype=torch.long) + BYTE_OFFSET


def decode(ids: Tensor) -> str:
    """Return the text of token ids, special ids left out."""
    values = [i - BYTE_OFFSET for i in ids.tolist() if i >= BYTE_OFFSET]
    return bytes(values).decode("latin-1")


def compressor_baselines(train_text: str, held_out_text: str) -> dict[str, float]:
    """Return bits per character of general compressors on the held-out text.

    ``xz_primed`` is what xz needs for the held-out text once it has seen the training text.
    """
    train, held_out = train_text.encode("latin-1"), held_out_text.encode("latin-1")

    def xz(data: bytes) -> int:
        return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))

    bits = 8 / len(held_out)
    return {
        "gzip_9": round(len(gzip.compress(held_out, 9)) * bits, 4),
        "xz_9e": round(xz(held_out) * bits, 4),
        "xz_9e_primed": round((xz(train + held_out) - xz(train)) * bits, 4),
    }


# --- model --------------------------------------------------------------------------------------


def build_config() -> ReformerConfig:
    """Return the architecture; ``hash_seed`` is None, as in training."""
    return ReformerConfig(
        vocab_size=256 + BYTE_OFFSET,
        pad_token_id=0,
        eos_token_id=1,
        is_decoder=True,
        hidden_size=192,
        num_attention_heads=3,
        attention_head_size=64,
        feed_forward_size=768,
        hidden_act="gelu",
        attn_layers=["local", "lsh"] * 3,
        max_position_embeddings=SEQUENCE_LENGTH,
        axial_pos_shape=[32, 64],
        axial_pos_embds_dim=[64, 128],
        axial_norm_std=0.02,
        initializer_range=0.02,
        local_attn_chunk_length=64,
        lsh_attn_chunk_length=64,
        num_hashes=2,
        num_buckets=64,
        hidden_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
        lsh_attention_probs_dropout_prob=0.0,
        hash_seed=None,
    )


@torch.no_grad()
def initialise_positions(model: ReformerModelWithLMHead) -> None:
    """Set the axial position embeddings to the harmonics of their axis, high ones weaker.

    A step to the previous position is then one linear map everywhere, and attention to near
    positions is found some hundred steps after the start; with random position embeddings
    training stays far longer at what pairs of letters can predict.
    """
    for axis, weight in enumerate(model.reformer.embeddings.position_embeddings.weights):
        length, width = weight.shape[axis], weight.shape[-1]
        harmonics = torch.arange(1, length // 2 + 1)
        angles = torch.arange(length)[:, None] * harmonics * 2 * math.pi / length
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        waves = waves * torch.cat([harmonics, harmonics]) ** -0.5
        waves = waves / waves.pow(2).mean().sqrt() * math.sqrt(width / waves.shape[1])
        values = torch.zeros(length, width)
        values[:, : waves.shape[1]] = waves[:, :width] * POSITION_RMS
        weight.copy_(values.view(weight.shape))


def training_loss(model: ReformerModelWithLMHead, ids: Tensor, bf16: bool) -> Tensor:
    """Return the mean next-byte loss (nats), through ordinary autograd.

    Same modules and same result as ``model(ids, labels=ids).loss`` without dropout; only the
    reversible backward pass is left out. With ``bf16`` all but the LSH attention is autocast:
    nothing bounds the length of its queries, and once they are long, rounded dot products
    drown the gradient and the run diverges.
    """
    encoder = model.reformer.encoder
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        attention_stream = hidden_stream = model.reformer.embeddings(input_ids=ids)
        for layer, kind in zip(encoder.layers, model.config.attn_layers, strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16 and kind == "local"):
                attended = layer.attention(hidden_stream).hidden_states
            attention_stream = attention_stream + attended
            hidden_stream = hidden_stream + layer.feed_forward(attention_stream)
        hidden = encoder.layer_norm(torch.cat([attention_stream, hidden_stream], dim=-1))
        logits = model.lm_head(hidden)[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def load_shipped(folder: Path) -> ReformerModelWithLMHead:
    """Load an exported model for evaluation, as any user of ``transformers`` would."""
    return ReformerModelWithLMHead.from_pretrained(folder).eval()


@torch.no_grad()
def bits_per_character(model: ReformerModelWithLMHead, ids: Tensor, limit: int | None = None) -> float:
    """Evaluate with the library's own forward pass over full windows of ``ids``.

    Windows overlap by one byte, so each byte but the first is predicted exactly once, the first
    bytes of a window with little context. The rest that fills no window is left out. ``limit``
    takes only so many windows, spread evenly.
    """
    starts = list(range(0, len(ids) - SEQUENCE_LENGTH + 1, SEQUENCE_LENGTH - 1))
    if limit is not None:
        starts = starts[:: max(1, len(starts) // limit)][:limit]
    nats = 0.0
    for start in starts:
        window = ids[start : start + SEQUENCE_LENGTH].unsqueeze(0)
        logits = model(window, use_cache=False).logits[:, :-1].float()
        nats += functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()).item()
    return nats / len(starts) / math.log(2)


@torch.no_grad()
def causality_check(model: ReformerModelWithLMHead, ids: Tensor, positions: int) -> dict[str, float]:
    """Compare full windows with predictions that see nothing but their prefix.

    LSH attention sorts a whole window, so later bytes can change which earlier ones a position
    attends to. This measures what that does to the bits per character, on bytes taken evenly.
    """
    generator = torch.Generator().manual_seed(0)
    count = len(ids) // SEQUENCE_LENGTH
    full: list[float] = []
    prefix: list[float] = []
    for index in range(positions):
        start = index * count // positions * SEQUENCE_LENGTH
        window = ids[start : start + SEQUENCE_LENGTH].unsqueeze(0)
        position = int(torch.randint(1, SEQUENCE_LENGTH, (1,), generator=generator))
        for seen, bits in ((window, full), (window[:, :position], prefix)):
            logits = model(seen, use_cache=False).logits[0, position - 1].float()
            nats = functional.cross_entropy(logits, window[0, position]).item()
            bits.append(nats / math.log(2))
    return {
        "positions": positions,
        "full_window_bpc": round(sum(full) / positions, 4),
        "prefix_only_bpc": round(sum(prefix) / positions, 4),
    }


@torch.no_grad()
def sample(model: ReformerModelWithLMHead, prompt: str, length: int, temperature: float, seed: int) -> str:
    """Continue ``prompt`` by ``length`` bytes, recomputing the whole text at each byte."""
    generator = torch.Generator().manual_seed(seed)
    ids = encode(prompt)
    for _ in range(length):
        logits = model(ids.unsqueeze(0), use_cache=False).logits[0, -1].float()
        logits[:BYTE_OFFSET] = -math.inf
        probabilities = torch.softmax(logits / temperature, dim=-1)
        ids = torch.cat([ids, torch.multinomial(probabilities, 1, generator=generator)])
    return decode(ids)


# --- training -----------------------------------------------------------------------------------


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint and, at the end, in ``training.json``."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Return the rate at ``step``: linear warm-up, then a cosine down to a fiftieth."""
    if step < options.warm_up:
        return options.learning_rate * (step + 1) / options.warm_up
    done = (step - options.warm_up) / max(1, options.steps - options.warm_up)
    return options.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def build_optimizer(model: torch.nn.Module, options: argparse.Namespace) -> torch.optim.AdamW:
    """Return AdamW that decays the matrices and leaves biases, norms and positions alone."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if p.ndim == 2 and "embedding" not in name]
    others = [p for name, p in named if not (p.ndim == 2 and "embedding" not in name)]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    betas = (0.9, options.beta2)
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=betas, fused=True)


def batch_at(ids: Tensor, step: int, options: argparse.Namespace) -> Tensor:
    """Return the windows of ``step``: the same ones whether or not the run was interrupted."""
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
    high = len(ids) - SEQUENCE_LENGTH + 1
    starts = torch.randint(high, (options.batch_size,), generator=generator)
    return torch.stack([ids[start : start + SEQUENCE_LENGTH] for start in starts.tolist()])


def save_atomically(write: Callable[[Path], Any], target: Path) -> None:
    """Let ``write`` fill a file beside ``target``, then rename it into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    write(beside)
    beside.replace(target)


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write what ``--resume`` needs."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
    }
    save_atomically(lambda beside: torch.save(state, beside), path)


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore a run from its checkpoint."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def export(model: ReformerModelWithLMHead, folder: Path) -> None:
    """Save the model as ``transformers`` does, with a fixed hash seed, file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as beside:
        model.config.hash_seed = SHIPPED_HASH_SEED
        model.save_pretrained(beside)
        model.config.hash_seed = None
        for file in sorted(Path(beside).iterdir()):
            file.chmod(0o644)
            file.replace(folder / file.name)


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``training.json``."""
    text = json.dumps(facts, indent=2) + "\n"
    save_atomically(lambda beside: beside.write_text(text), folder / "training.json")


class Trainer:
    """One training run: the model, its optimizer and its progress."""

    def __init__(self, options: argparse.Namespace, train_ids: Tensor, held_out_ids: Tensor) -> None:
        """Build the model and the optimizer, or restore them with ``--resume``."""
        torch.manual_seed(options.seed)
        self.options = options
        self.train_ids, self.held_out_ids = train_ids, held_out_ids
        self.model = ReformerModelWithLMHead(build_config()).train()
        initialise_positions(self.model)
        self.optimizer = build_optimizer(self.model, options)
        self.progress = Progress()
        self.largest_norm = 0.0
        if options.resume:
            self.progress = load_checkpoint(options.checkpoint, self.model, self.optimizer)
            torch.manual_seed(options.seed + self.progress.step)
            print(f"resumed at step {self.progress.step}", flush=True)
        self.loss = torch.compile(training_loss) if options.compile else training_loss

    def step(self) -> Tensor:
        """Take one optimizer step and return its loss."""
        options, progress = self.options, self.progress
        ids = batch_at(self.train_ids, progress.step, options)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(progress.step, options)
        loss = self.loss(self.model, ids, options.bf16)
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
        held_out = bits_per_character(self.model, self.held_out_ids, limit=16)
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
        """Train to the last step, with reports, checkpoints and exports on the way.

        A run that is resumed after its last step is only exported.
        """
        options, progress = self.options, self.progress
        losses: list[float] = []
        while progress.step < options.steps:
            started = time.monotonic()
            losses.append(self.step().item())
            progress.seconds += time.monotonic() - started
            last = progress.step == options.steps
            if last or progress.step % options.report_every == 0:
                self.report(losses)
                losses.clear()
                save_checkpoint(options.checkpoint, self.model, self.optimizer, progress)
                export(self.model, options.out)
        export(self.model, options.out)


# --- command line -------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    checkpoint = Path(tempfile.gettempdir()) / "kjv-bytes" / "checkpoint.pt"
    add("--out", type=Path, default=Path("models/kjv-bytes"), help="folder of the exported model")
    add("--checkpoint", type=Path, default=checkpoint, help="file that --resume goes on from")
    add("--resume", action="store_true", help="go on from the checkpoint")
    add("--steps", type=int, default=6500)
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
    return parser.parse_args()


def main() -> None:
    """Train, export, evaluate the export and write its training facts."""
    options = parse_arguments()
    transformers.logging.set_verbosity_error()  # not a line for every prompt that is padded
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    train_text, held_out_text = normalise(dump_bible())
    train_ids, held_out_ids = encode(train_text), encode(held_out_text)
    print(f"{len(train_ids)} bytes to train on, {len(held_out_ids)} held out", flush=True)
    trainer = Trainer(options, train_ids, held_out_ids)
    trainer.run()
    print("evaluating the exported model", flush=True)
    shipped = load_shipped(options.out)
    held_out_bpc = bits_per_character(shipped, held_out_ids)
    settings = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}
    facts = {
        "held_out_bpc": round(held_out_bpc, 4),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "train_bytes": len(train_ids),
        "held_out_bytes": len(held_out_ids),
        "causality_check": causality_check(shipped, held_out_ids, options.check_positions),
        "sample": sample(shipped, SAMPLE_PROMPT, 600, temperature=0.7, seed=0),
        "baselines_bpc": compressor_baselines(train_text, held_out_text),
        "settings": settings,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    write_facts(options.out, facts | asdict(trainer.progress))
    print(f"held out: {held_out_bpc:.4f} bits per character", flush=True)


if __name__ == "__main__":
    main()
