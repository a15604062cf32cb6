"""One sequence that `run` shall process: what it is, how text becomes it, and what may be wrong with it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError
from reformer_export.runtimes import LeftPaddingWarning
from reformer_export.runtimes.inputs import prepare_inputs
from reformer_export.runtimes.tokenizer import Tokenizer
from reformer_export.spec import ModelSpec

GetTokenizer = Callable[[], Tokenizer]

EXAMPLE = 'write e.g. {"input_ids": [5, 6, 7]} or {"text": "some text"}'


@dataclass(frozen=True)
class InputSequence:
    """One row to run: `ids` integers [length], `mask` 0 or 1 [length], or None for all ones."""

    ids: NDArray[np.integer]
    mask: NDArray[np.integer] | None = None

    @property
    def mask_or_ones(self) -> NDArray[np.integer]:
        return np.ones(len(self.ids), np.int64) if self.mask is None else self.mask


@dataclass(frozen=True)
class InputLine:
    """One place of the input, good or bad: exactly one of `sequence` and `error` is there.

    `index` counts all lines from 0, the bad ones too; `where` names the place for people; `error` and
    `warning` say the rest of the sentence.
    """

    index: int
    where: str
    sequence: InputSequence | None = None
    error: str | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Consumed:
    """How much of an input has been read: its first `lines` lines, which are `size` bytes, and their SHA-256
    (hex)."""

    lines: int
    size: int
    sha256: str


class Source(Protocol):
    """Lines in order, of which few are in memory at a time."""

    @property
    def progress(self) -> tuple[int, int | None]:
        """How much has been read and how much there is, in one unit; None when nobody can know."""

    @property
    def counts_lines(self) -> bool:
        """Whether `progress` is in lines."""

    @property
    def resumable(self) -> bool:
        """Whether another process can read the same input again."""

    @property
    def consumed(self) -> Consumed:
        """What has been read so far."""

    def skip(self, consumed: Consumed) -> None:
        """Go on after what another process consumed; InputError when the input does not begin with it."""

    def __iter__(self) -> Iterator[InputLine]:
        """The lines that are left."""


class SequenceReader:
    """Makes sequences from text, JSON and arrays, and says what a model would not take of them."""

    def __init__(self, spec: ModelSpec, max_length: int, get_tokenizer: GetTokenizer) -> None:
        self._spec = spec
        self.max_length = max_length
        self._get_tokenizer = get_tokenizer
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Loaded when the first text comes: ids need none."""
        if self._tokenizer is None:
            self._tokenizer = self._get_tokenizer()
        return self._tokenizer

    def read_text(self, index: int, where: str, text: str) -> InputLine:
        """The line of a text; an error in it for an empty one."""
        if not text:
            return InputLine(
                index, where, error="got an empty text, expected at least one character; leave it out"
            )
        try:
            text.encode("utf-8", errors="surrogateescape")
        except UnicodeEncodeError as error:
            return InputLine(
                index,
                where,
                error=f"got half of a surrogate pair at character {error.start}, expected text; mend it",
            )
        return self.check(index, where, np.array(self.tokenizer.encode(text), np.int64), None)

    def read_json(self, index: int, where: str, line: str) -> InputLine:
        """The line of an object with `text`, or with `input_ids` and, if it likes, `attention_mask`."""
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
            return InputLine(index, where, error=f"got no JSON ({error}), expected an object; {EXAMPLE}")
        if isinstance(values, dict) and isinstance(values.get("text"), str):
            return self.read_text(index, where, values["text"])
        if not isinstance(values, dict) or not isinstance(values.get("input_ids"), list):
            return InputLine(
                index,
                where,
                error=f"got {line[:60]!r}, expected an object with input_ids or text; {EXAMPLE}",
            )
        mask = values.get("attention_mask")
        try:
            ids = np.asarray(values["input_ids"])
            mask = None if mask is None else np.asarray(mask)
        except ValueError:
            return InputLine(
                index, where, error="got lists of unequal depth, expected a list of integers; mend it"
            )
        return self.check(index, where, ids, mask)

    def check(self, index: int, where: str, ids: NDArray[Any], mask: NDArray[Any] | None) -> InputLine:
        """The line of ids and a mask of any shape and type; an error in it where the model takes others."""
        error = _find_wrong_type(ids, mask)
        if error is not None:
            return InputLine(index, where, error=error)
        sequence = InputSequence(ids, mask)
        if len(ids) > self.max_length:
            error = (
                f"got {len(ids)} tokens, expected at most {self.max_length}; shorten the text, or split it"
            )
            return InputLine(index, where, error=error)
        if mask is None and ids.min() >= 0 and ids.max() < self._spec.vocab_size:
            return InputLine(index, where, sequence)  # most lines: without the cost of the sentences below
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LeftPaddingWarning)
            try:
                prepare_inputs(self._spec, [ids], None if mask is None else [mask], 0)
            except InputError as refusal:
                return InputLine(index, where, error=_of_one_row(refusal))
        warning = _of_one_row(caught[0].message) if caught else None
        return InputLine(index, where, sequence, warning=warning)


def _find_wrong_type(ids: NDArray[Any], mask: NDArray[Any] | None) -> str | None:
    for name, row in (("input_ids", ids), ("attention_mask", mask)):
        if row is None:
            continue
        if row.ndim != 1 or row.size == 0 or row.dtype.kind not in "iu":
            return (
                f"got {name} of shape {list(row.shape)} and type {row.dtype}, expected a list of "
                "at least one integer; mend it"
            )
    if mask is not None and mask.shape != ids.shape:
        return f"got {len(ids)} input_ids and {len(mask)} attention_mask values, expected equally many"
    return None


def _of_one_row(message: object) -> str:
    """What `prepare_inputs` says of the only row it was given, without naming that row."""
    return str(message).replace(", row 0:", ":").replace("rows [0] are", "the row is")


class GivenSequences:
    """The sequences of a command line; implements `Source`."""

    counts_lines = True
    resumable = False

    def __init__(self, lines: list[InputLine]) -> None:
        self._lines = lines
        self._done = 0

    @property
    def progress(self) -> tuple[int, int | None]:
        return self._done, len(self._lines)

    @property
    def consumed(self) -> Consumed:
        return Consumed(self._done, 0, "")

    def skip(self, consumed: Consumed) -> None:
        raise InputError("--resume: got sequences on the command line, expected --file; leave --resume out")

    def __iter__(self) -> Iterator[InputLine]:
        while self._done < len(self._lines):
            self._done += 1
            yield self._lines[self._done - 1]


def ids_from_text(option: str, text: str) -> list[int]:
    """Token ids from a comma-separated list such as "5,6,7"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f'{option}: got {text!r}, expected integers with commas; write e.g. "5,6,7"'
        ) from error
