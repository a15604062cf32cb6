"""Accuracy against speed: next-token loss on a text, and tokens a second, for several numbers of hashes."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.files import read_text
from reformer_export.errors import InputError
from reformer_export.measure.timing import MIN_TURNS
from reformer_export.runtimes import Runtime
from reformer_export.spec import ModelSpec

BLOCK_ELEMENTS: Final = 2**22
"""Logits that are looked at together in float64: 32 MiB."""


@dataclass(frozen=True)
class TokenText:
    """A text of `characters` characters as token ids, int64 [tokens]; InputError for one in which no token
    follows another."""

    ids: NDArray[np.int64]
    characters: int

    def __post_init__(self) -> None:
        if len(self.ids) < 2:
            raise InputError("data", f"a text of {len(self.ids)} tokens", "at least 2", "give a longer one")


@dataclass(frozen=True)
class AccuracyRow:
    """One number of hashes, None for a model with its own (or none).

    `loss`: mean over `tokens` predicted tokens, in nats a token; `bits_per_character`: the same in bits,
    times the text's tokens a character; `tokens_per_second`: at the median pass of a whole sequence, batch 1.
    """

    num_hashes: int | None
    loss: float
    bits_per_character: float
    tokens_per_second: float
    tokens: int


@dataclass(frozen=True)
class AccuracyResult:
    """Rows in the order asked for, over sequences of `sequence_length` tokens (the last may be shorter)."""

    rows: tuple[AccuracyRow, ...]
    sequence_length: int
    sequences: int
    characters: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


def check_predicts_tokens(spec: ModelSpec) -> None:
    """InputError unless the model predicts every next token of a sequence."""
    if spec.task != "text-generation" or not spec.is_causal:
        got = f"an artifact for {spec.task}{'' if spec.is_causal else ', not causal'}"
        expected = "a causal language model, which predicts next tokens"
        raise InputError("data", got, expected, "leave `data` out")
    if spec.logits != "all":
        got, fix = "an artifact with the logits of the last token only", 'export with `logits="all"`'
        raise InputError("data", got, "those of every token", fix)


def check_data_length(length: int, most: int) -> None:
    """InputError for sequences of `length` tokens, of which `most` can be run."""
    if not 2 <= length <= most:
        raise InputError("data_length", length, f"from 2 to {most} tokens", "choose another")


def read_data(path: Path) -> str:
    """The text in the UTF-8 file `path`; InputError for an empty one."""
    text = read_text("data", path)
    if not text:
        raise InputError("data", f"{path}, which is empty", "some text", "give another file")
    return text


def measure_accuracy(
    runtime: Runtime,
    text: TokenText,
    length: int,
    counts: Sequence[int | None],
    on_pass: Callable[[int], object] = lambda _count: None,
) -> AccuracyResult:
    """Run the text in sequences of `length` tokens once with each of `counts` hashes, in turns.

    A sequence's first token is given and not predicted. `on_pass` is called with 1 after each of
    `count_passes` passes.

    Raises:
        InputError: the model does not predict tokens, or `length` is not the model's.
    """
    check_predicts_tokens(runtime.spec)
    check_data_length(length, runtime.max_length)
    sequences = cut_sequences(text.ids, length)
    losses = dict.fromkeys(counts, 0.0)
    seconds: dict[int | None, list[float]] = {count: [] for count in counts}
    for count in counts:  # untimed: the first pass at a shape also allocates
        _run_timed(runtime, sequences[0], count)
        on_pass(1)
    for turn in range(max(len(sequences), MIN_TURNS)):
        repeats = turn >= len(sequences)
        ids = sequences[0 if repeats else turn]
        first = turn % len(counts)
        for count in (*counts[first:], *counts[:first]):
            logits, elapsed = _run_timed(runtime, ids, count)
            if len(ids) == len(sequences[0]):
                seconds[count].append(elapsed)
            if not repeats:
                losses[count] += sum_next_token_loss(logits, ids)
            on_pass(1)
    tokens = sum(len(ids) - 1 for ids in sequences)
    bits_a_nat = len(text.ids) / text.characters / math.log(2)
    rows = []
    for count in counts:
        loss, speed = losses[count] / tokens, len(sequences[0]) / statistics.median(seconds[count])
        rows.append(AccuracyRow(count, loss, loss * bits_a_nat, speed, tokens))
    return AccuracyResult(tuple(rows), len(sequences[0]), len(sequences), text.characters)


def count_passes(tokens: int, length: int, counts: int) -> int:
    """Passes that `measure_accuracy` makes over so many tokens."""
    return counts * (1 + max(len(cut_sequences(np.zeros(tokens, np.int64), length)), MIN_TURNS))


def cut_sequences(ids: NDArray[np.int64], length: int) -> list[NDArray[np.int64]]:
    """Pieces of `length` tokens; the last one may be shorter, and is left out when it is one token."""
    pieces = [ids[begin : begin + length] for begin in range(0, len(ids), length)]
    return [piece for piece in pieces if len(piece) > 1]


def sum_next_token_loss(logits: NDArray[np.float32], ids: NDArray[np.int64]) -> float:
    """Sum of -log p(token | tokens before), in nats, over all tokens but the first.

    Args:
        logits: float32 [L, vocab_size].
        ids: int64 [L].
    """
    total = 0.0
    rows = max(1, BLOCK_ELEMENTS // logits.shape[1])
    for begin in range(0, len(ids) - 1, rows):
        end = min(begin + rows, len(ids) - 1)
        block = logits[begin:end].astype(np.float64)
        greatest = block.max(axis=1, keepdims=True)
        logsumexp = np.log(np.exp(block - greatest).sum(axis=1)) + greatest[:, 0]
        total += float((logsumexp - block[np.arange(end - begin), ids[begin + 1 : end + 1]]).sum())
    return total


def _run_timed(
    runtime: Runtime, ids: NDArray[np.int64], count: int | None
) -> tuple[NDArray[np.float32], float]:
    """Logits float32 [L, vocab_size] of one sequence, and the seconds they took."""
    start = time.perf_counter()
    logits = runtime.run(ids[None], num_hashes=count)["logits"]
    return logits[0], time.perf_counter() - start
