"""A sequence's outputs, and the summary of them that people read."""

from __future__ import annotations

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
    its line's."""

    index: int
    sequence: InputSequence
    outputs: dict[str, NDArray[np.float32]]


def summarize_result(
    result: SequenceResult, spec: ModelSpec, config: SourceConfig, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Plain values that say what the model answered, by task."""
    summary: dict[str, Any] = {
        "index": result.index,
        "tokens": len(result.sequence.ids),
        "outputs": {name: list(value.shape) for name, value in result.outputs.items()},
    }
    attended = np.flatnonzero(result.sequence.mask_or_ones)
    if spec.task == "text-generation":
        row = -1 if spec.logits == "last" else int(attended[-1])
        summary["next_tokens"] = _top_tokens(result.outputs["logits"][row], tokenizer)
    elif spec.task == "text-classification":
        probabilities = _softmax(result.outputs["logits"]).tolist()
        summary["labels"] = [
            {"label": config.id2label.get(i, f"LABEL_{i}"), "probability": p}
            for i, p in enumerate(probabilities)
        ]
    elif spec.task == "question-answering":
        summary["span"] = _best_span(result, attended, tokenizer)
    elif spec.task == "fill-mask":
        summary["likeliest_ids"] = result.outputs["logits"].argmax(axis=-1).tolist()
    else:
        values = result.outputs[spec.output_names[0]]
        summary["values"] = {
            "min": float(values.min()),
            "mean": float(values.mean()),
            "max": float(values.max()),
        }
    return summary


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exponents: NDArray[np.float64] = np.exp(logits.astype(np.float64) - float(logits.max()))
    probabilities: NDArray[np.float64] = exponents / exponents.sum()
    return probabilities


def _top_tokens(logits: NDArray[np.float32], tokenizer: Tokenizer | None) -> list[dict[str, Any]]:
    probabilities = _softmax(logits)
    best = np.argsort(-logits, kind="stable")[:TOP_TOKENS]
    return [
        {
            "id": int(token),
            "probability": float(probabilities[token]),
            "text": None if tokenizer is None else tokenizer.decode([int(token)]),
        }
        for token in best
    ]


def _best_span(
    result: SequenceResult, attended: NDArray[np.integer], tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """The span start <= end of attended tokens with the greatest start logit + end logit."""
    start = result.outputs["start_logits"][attended]
    end = result.outputs["end_logits"][attended]
    best_end = int(np.argmax(np.maximum.accumulate(start) + end))
    best_start = int(np.argmax(start[: best_end + 1]))
    first, last = int(attended[best_start]), int(attended[best_end])
    text = None if tokenizer is None else tokenizer.decode(result.sequence.ids[first : last + 1].tolist())
    score = float(start[best_start] + end[best_end])
    return {"start": first, "end": last, "score": score, "text": text}
