"""What `run` makes of a sequence's outputs: a file of them, or a summary."""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.cli.sequences import InputSequence
from reformer_export.errors import InputError, OutputError
from reformer_export.runtimes.source_config import SourceConfig
from reformer_export.runtimes.tokenizer import Tokenizer
from reformer_export.spec import ModelSpec

TOP_TOKENS: Final = 5
OUTPUT_SUFFIXES: Final = (".npz", ".jsonl")


@dataclass(frozen=True)
class SequenceResult:
    """One sequence and its outputs, float32, each without the batch axis and without padding."""

    index: int
    sequence: InputSequence
    outputs: dict[str, NDArray[np.float32]]


def check_output_path(path: Path) -> None:
    """Refuse, before any work, an output that cannot be written."""
    if path.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"--output: got {path.name}, expected a name ending in .npz or .jsonl; rename it")
    if not path.parent.is_dir():
        raise OutputError(f"--output: got {path}, whose folder does not exist, expected one; make it first")


def write_results(path: Path, results: Iterable[SequenceResult]) -> int:
    """Write the results to a .npz or .jsonl file, which appears when it is whole; returns their number.

    A .npz holds `input_ids` and `attention_mask` [sequences, length] and every output
    [sequences, ...], rows padded with zeros. A .jsonl has a line a sequence, without padding.
    """
    with _new_file(path) as stream:
        return _write_npz(stream, results) if path.suffix == ".npz" else _write_jsonl(stream, results)


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    partial = path.parent / f".{path.name}.partial-{secrets.token_hex(4)}"
    try:
        with partial.open("xb") as stream:
            yield stream
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(
            f"--output: got '{error.strerror or error}' for {path}, expected a writable file with room; "
            "free some space, or choose another place (nothing was changed)"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _write_jsonl(stream: BinaryIO, results: Iterable[SequenceResult]) -> int:
    count = 0
    with io.TextIOWrapper(stream, encoding="utf-8", write_through=True) as text:
        for result in results:
            values: dict[str, Any] = {"index": result.index, "input_ids": result.sequence.ids.tolist()}
            if result.sequence.mask is not None:
                values["attention_mask"] = result.sequence.mask.tolist()
            values.update({name: _json_from_array(value) for name, value in result.outputs.items()})
            text.write(json.dumps(values) + "\n")
            count += 1
    return count


def _json_from_array(values: NDArray[np.float32]) -> Any:
    """Nested lists; NaN and infinity, which JSON does not know, become null."""
    if np.isfinite(values).all():
        return values.tolist()
    nullable = values.astype(object)
    nullable[~np.isfinite(values)] = None
    return nullable.tolist()


def _write_npz(stream: BinaryIO, results: Iterable[SequenceResult]) -> int:
    rows: dict[str, list[NDArray[Any]]] = {}
    for result in results:
        arrays = {
            "input_ids": result.sequence.ids,
            "attention_mask": result.sequence.mask_or_ones,
            **result.outputs,
        }
        for name, value in arrays.items():
            rows.setdefault(name, []).append(value)
    padded: dict[str, Any] = {name: _stack_padded(values) for name, values in rows.items()}
    np.savez(stream, **padded)
    return len(rows["input_ids"])


def _stack_padded(rows: list[NDArray[Any]]) -> NDArray[Any]:
    """[rows, ...], the first axis of each row padded with zeros to the longest."""
    longest = max(len(row) for row in rows)
    stacked = np.zeros((len(rows), longest, *rows[0].shape[1:]), rows[0].dtype)
    for index, row in enumerate(rows):
        stacked[index, : len(row)] = row
    return stacked


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
