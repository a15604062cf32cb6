"""A sequence's outputs, and the summary of them that people read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.batch.sequences import InputSequence
from reformer_export.runtimes.source_config import SourceConfig
from reformer_export.runtimes.tokenizer import Tokenizer
from reformer_export.spec import ModelSpec

TOP_TOKENS: Final = 5


@dataclass(frozen=True)
class SequenceResult:
    """One sequence and its outputs, float32, each without the batch axis and without padding; `index` is
    its line's, and so is `extra`. Of outputs that were selected, ids are int64 and texts are text."""

    index: int
    sequence: InputSequence
    outputs: dict[str, NDArray[Any]]
    extra: Any = None


@dataclass(frozen=True)
class NextToken:
    """A token that may come next; `text` is None without a tokenizer."""

    id: int
    probability: float
    text: str | None


@dataclass(frozen=True)
class Label:
    """A class of the sequence."""

    label: str
    probability: float


@dataclass(frozen=True)
class Span:
    """An answer: tokens `start` to `end`; `text` is None without a tokenizer."""

    start: int
    end: int
    score: float
    text: str | None


@dataclass(frozen=True)
class Range:
    """The elements of an output."""

    min: float
    mean: float
    max: float


@dataclass(frozen=True)
class Summary:
    """What the model answered to the sequence of line `index`: `outputs` are their shapes; of the fields
    after it, the one of the model's task."""

    index: int
    tokens: int
    outputs: dict[str, list[int]]
    next_tokens: tuple[NextToken, ...] | None = None
    labels: tuple[Label, ...] | None = None
    span: Span | None = None
    likeliest_ids: tuple[int, ...] | None = None
    values: Range | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def summarize_result(
    result: SequenceResult,
    spec: ModelSpec,
    config: SourceConfig,
    tokenizer: Tokenizer | None,
    top_k: int = TOP_TOKENS,
) -> Summary:
    """What the model answered, by its task; of tokens that may come next, the `top_k` likeliest."""
    shapes = {name: list(value.shape) for name, value in result.outputs.items()}
    summary = Summary(result.index, len(result.sequence.ids), shapes)
    attended = np.flatnonzero(result.sequence.mask_or_ones)
    output = result.outputs[spec.output_names[0]]
    if spec.task == "text-generation":
        row = -1 if spec.logits == "last" else int(attended[-1])
        return dataclasses.replace(summary, next_tokens=_top_tokens(output[row], tokenizer, top_k))
    if spec.task == "text-classification":
        names = (config.id2label.get(i, f"LABEL_{i}") for i in range(len(output)))
        return dataclasses.replace(summary, labels=tuple(map(Label, names, softmax(output).tolist())))
    if spec.task == "question-answering":
        return dataclasses.replace(summary, span=_best_span(result, attended, tokenizer))
    if spec.task == "fill-mask":
        return dataclasses.replace(summary, likeliest_ids=tuple(output.argmax(axis=-1).tolist()))
    values = Range(float(output.min()), float(output.mean()), float(output.max()))
    return dataclasses.replace(summary, values=values)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exponents: NDArray[np.float64] = np.exp(logits.astype(np.float64) - float(logits.max()))
    probabilities: NDArray[np.float64] = exponents / exponents.sum()
    return probabilities


def likeliest_tokens(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The ids of the `count` greatest `logits` [vocab_size], greatest first; of equal ones the lower id."""
    candidates = np.arange(len(logits))
    if count < len(logits) and not np.isnan(logits).any():  # which have no order
        candidates = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
    order = np.argsort(-logits[candidates], kind="stable")[:count]
    return candidates[order]


def _top_tokens(
    logits: NDArray[np.float32], tokenizer: Tokenizer | None, count: int
) -> tuple[NextToken, ...]:
    probabilities = softmax(logits)
    best = likeliest_tokens(logits, count)
    texts = [None if tokenizer is None else tokenizer.decode([int(token)]) for token in best]
    return tuple(map(NextToken, best.tolist(), probabilities[best].tolist(), texts))


def _best_span(result: SequenceResult, attended: NDArray[np.integer], tokenizer: Tokenizer | None) -> Span:
    """The span start <= end of attended tokens with the greatest start logit + end logit."""
    start = result.outputs["start_logits"][attended]
    end = result.outputs["end_logits"][attended]
    best_end = int(np.argmax(np.maximum.accumulate(start) + end))
    best_start = int(np.argmax(start[: best_end + 1]))
    first, last = int(attended[best_start]), int(attended[best_end])
    text = None if tokenizer is None else tokenizer.decode(result.sequence.ids[first : last + 1].tolist())
    score = float(start[best_start] + end[best_end])
    return Span(first, last, score, text)
