"""Which part of a language model's logits an output gets: a short line's are megabytes as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.batch.results import SequenceResult, likeliest_tokens, softmax
from reformer_export.errors import InputError, MissingDependencyError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.sampling import require_integer
from reformer_export.runtimes.tokenizer import Tokenizer
from reformer_export.spec import ModelSpec

PREDICTING_TASKS: Final = ("text-generation", "fill-mask")
"""Whose logits are of tokens."""


@dataclass(frozen=True)
class OutputSelection:
    """What is kept of logits [tokens, vocab_size].

    Attributes:
        top_k: in place of all logits, those of each row's so many likeliest tokens: `top_ids` int64,
            `top_logits` and `top_probabilities` float32 and, with a tokenizer, `top_texts`, all
            [tokens, top_k] and likeliest first; of equal logits the lower id comes first. None for all.
        last: only the row of the last attended token.
    """

    top_k: int | None = None
    last: bool = False

    def __post_init__(self) -> None:
        if self.top_k is not None:
            require_integer("top_k", self.top_k, 1)

    @property
    def keeps_all(self) -> bool:
        return self.top_k is None and not self.last

    @property
    def identity(self) -> dict[str, str | int | bool | None]:
        """What of it differs from keeping all, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    def check(self, spec: ModelSpec) -> None:
        """InputError where the model's outputs are no logits of tokens, or there are fewer tokens."""
        name = "top_k" if self.top_k is not None else "last"
        if not self.keeps_all and spec.task not in PREDICTING_TASKS:
            expected = f"one for {' or '.join(PREDICTING_TASKS)}"
            raise InputError(name, f"it for an artifact for {spec.task}", expected, "leave it out")
        if self.top_k is not None and self.top_k > spec.vocab_size:
            expected = f"at most {spec.vocab_size}, the model's tokens"
            raise InputError(name, self.top_k, expected, "choose another")

    def select(
        self, result: SequenceResult, spec: ModelSpec, texts: NDArray[Any] | None = None
    ) -> SequenceResult:
        """`result` with what is kept of its logits; `texts` [vocab_size] are the tokens' texts."""
        (name,) = spec.output_names
        logits = result.outputs[name]
        if self.last and spec.logits == "all":
            logits = logits[[find_last_row(result)]]
        outputs: dict[str, NDArray[Any]] = {name: logits}
        if self.top_k is not None:
            best = np.array([likeliest_tokens(row, self.top_k) for row in logits], np.int64)
            probabilities = np.array([softmax(row)[ids] for row, ids in zip(logits, best, strict=True)])
            outputs = {
                "top_ids": best,
                "top_logits": np.take_along_axis(logits, best, axis=-1),
                "top_probabilities": probabilities.astype(np.float32),
            }
            if texts is not None:
                outputs["top_texts"] = texts[best]
        return dataclasses.replace(result, outputs=outputs)


KEEP_ALL: Final = OutputSelection()


def find_last_row(result: SequenceResult) -> int:
    """The position of the last attended token."""
    return int(np.flatnonzero(result.sequence.mask_or_ones)[-1])


def list_token_texts(tokenizer: Tokenizer, vocab_size: int) -> NDArray[np.object_]:
    """Every token's text, objects [vocab_size]."""
    return np.array([tokenizer.decode([token]) for token in range(vocab_size)], dtype=object)


def find_tokenizer(runtime: Runtime) -> Tokenizer | None:
    """The artifact's tokenizer, or None where it has none or its package is missing."""
    try:
        return runtime.tokenizer
    except (InputError, MissingDependencyError):
        return None
