"""One sequence to run: what it is, how text becomes it, and what may be wrong with it."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError
from reformer_export.runtimes import LeftPaddingWarning, Runtime
from reformer_export.runtimes.inputs import prepare_inputs
from reformer_export.runtimes.tokenizer import Tokenizer
from reformer_export.spec import ModelSpec

START_AGAIN: Final = "start again with `restart=True`"
EXAMPLE: Final = 'write e.g. {"input_ids": [5, 6, 7]} or {"text": "some text"}'

Count = Annotated[int, msgspec.Meta(ge=0)]


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

    lines: Count
    size: Count
    sha256: str


class Source(ABC):
    """Lines in order, of which few are in memory at a time.

    Attributes:
        format: "text", "jsonl" or "array" for a file; None for sequences that were given.
        counts_lines: whether `progress` is in lines.
        resumable: whether another process can read the same input again.
    """

    format: str | None = None
    counts_lines = True
    resumable = False

    def __init__(self) -> None:
        self._lines = 0
        self._bytes = 0
        self._digest = hashlib.sha256()

    @property
    @abstractmethod
    def progress(self) -> tuple[int, int | None]:
        """How much has been read and how much there is, in one unit; None when nobody can know."""

    @property
    def consumed(self) -> Consumed:
        """What has been read so far."""
        return Consumed(self._lines, self._bytes, self._digest.hexdigest())

    def skip(self, consumed: Consumed) -> None:
        """Go on after what another process consumed of a resumable source; InputError when the input does not
        begin with it."""
        raise NotImplementedError

    @abstractmethod
    def __iter__(self) -> Iterator[InputLine]:
        """The lines that are left."""

    def _count(self, content: bytes) -> None:
        self._bytes += len(content)
        self._digest.update(content)


class GivenSequences(Source):
    """Lines that are there already, such as a command line's or a request's."""

    def __init__(self, lines: list[InputLine]) -> None:
        super().__init__()
        self._given = lines

    @property
    def progress(self) -> tuple[int, int | None]:
        return self._lines, len(self._given)

    def __iter__(self) -> Iterator[InputLine]:
        while self._lines < len(self._given):
            self._lines += 1
            yield self._given[self._lines - 1]


class SequenceReader:
    """Makes sequences from text, JSON and arrays, and says what a model would not take of them."""

    def __init__(self, spec: ModelSpec, max_length: int, get_tokenizer: Callable[[], Tokenizer]) -> None:
        """`get_tokenizer` is called for texts only: ids need none."""
        self._spec = spec
        self.max_length = max_length
        self._get_tokenizer = get_tokenizer

    @classmethod
    def of(cls, runtime: Runtime) -> SequenceReader:
        """The reader of what `runtime` takes."""
        return cls(runtime.spec, runtime.max_length, lambda: runtime.tokenizer)

    def read_text(self, index: int, where: str, text: str) -> InputLine:
        """The line of a text; an error in it for an empty one."""
        bad = functools.partial(InputLine, index, where, None)
        if not text:
            return bad("got an empty text, expected at least one character; leave it out")
        try:
            text.encode("utf-8", errors="surrogateescape")
        except UnicodeEncodeError as error:
            return bad(f"got half of a surrogate pair at character {error.start}, expected text; mend it")
        return self.check(index, where, np.array(self._get_tokenizer().encode(text), np.int64), None)

    def read_json(self, index: int, where: str, line: str) -> InputLine:
        """The line of an object with `text`, or with `input_ids` and, if it likes, `attention_mask`."""
        bad = functools.partial(InputLine, index, where, None)
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
            return bad(f"got no JSON ({error}), expected an object; {EXAMPLE}")
        fields: dict[str, Any] = values if isinstance(values, dict) else {}
        rows = {name: fields[name] for name in ("input_ids", "attention_mask") if name in fields}
        if rows and "text" in fields:
            return bad(f"got text and {' and '.join(rows)}, expected text alone; leave one of them out")
        if isinstance(fields.get("text"), str):
            return self.read_text(index, where, fields["text"])
        if not isinstance(fields.get("input_ids"), list):
            return bad(f"got {line[:60]!r}, expected an object with input_ids or text; {EXAMPLE}")
        for name, row in rows.items():
            if isinstance(row, list) and any(isinstance(value, bool) for value in row):
                return bad(f"got true or false among {name}, expected integers; mend it")
        mask = fields.get("attention_mask")
        try:
            ids = np.asarray(fields["input_ids"])
            mask = None if mask is None else np.asarray(mask)
        except ValueError:
            return bad("got lists of unequal depth, expected a list of integers; mend it")
        return self.check(index, where, ids, mask)

    def check(self, index: int, where: str, ids: NDArray[Any], mask: NDArray[Any] | None) -> InputLine:
        """The line of ids and a mask of any shape and type; an error in it where the model takes others."""
        bad = functools.partial(InputLine, index, where, None)
        error = _find_wrong_type(ids, mask)
        if error is not None:
            return bad(error)
        sequence = InputSequence(ids, mask)
        if len(ids) > self.max_length:
            expected = f"at most {self.max_length}; shorten the text, or split it"
            return bad(f"got {len(ids)} tokens, expected {expected}")
        if mask is None and ids.min() >= 0 and ids.max() < self._spec.vocab_size:
            return InputLine(index, where, sequence)  # most lines: without the cost of the sentences below
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LeftPaddingWarning)
            try:
                prepare_inputs(self._spec, [ids], None if mask is None else [mask], 0)
            except InputError as refusal:
                return bad(_of_one_row(refusal))
        warning = _of_one_row(caught[0].message) if caught else None
        return InputLine(index, where, sequence, warning=warning)


def _find_wrong_type(ids: NDArray[Any], mask: NDArray[Any] | None) -> str | None:
    for name, row in (("input_ids", ids), ("attention_mask", mask)):
        if row is not None and (row.ndim != 1 or row.size == 0 or row.dtype.kind not in "iu"):
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


def ids_from_text(what: str, text: str) -> list[int]:
    """Token ids from a comma-separated list such as "5,6,7"; `what` is named where it is none."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(what, repr(text), "integers with commas", 'write e.g. "5,6,7"') from error
