"""One sequence to run: what it is, how text becomes it, and what may be wrong with it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.inputs import describe_left_padding, prepare_inputs
from reformer_export.runtimes.tokenizer import Tokenizer
from reformer_export.spec import ModelSpec

START_AGAIN: Final = "start again with `restart=True`"
VECTOR_FILES: Final = "a .npz file with inputs_embeds [batch, sequence, hidden_size] (and attention_mask)"
SEQUENCE_FIELDS: Final = ("input_ids", "attention_mask", "text")
"""Of a JSON object or a Parquet row, those that are the sequence."""

EXAMPLE: Final = 'write e.g. {"input_ids": [5, 6, 7]} or {"text": "some text"}'

Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class InputSequence:
    """One row to run: `ids` integers [length], or the vectors, floats [length, hidden_size], of a model that
    takes those; `mask` 0 or 1 [length], or None for all ones."""

    ids: NDArray[Any]
    mask: NDArray[np.integer] | None = None

    @property
    def has_vectors(self) -> bool:
        return self.ids.ndim == 2

    @property
    def mask_or_ones(self) -> NDArray[np.integer]:
        return np.ones(len(self.ids), np.int64) if self.mask is None else self.mask


@dataclass(frozen=True)
class InputLine:
    """One place of the input, good or bad: exactly one of `sequence` and `error` is there.

    `index` counts all lines from 0, the bad ones too; `where` names the place for people; `error` and
    `warning` say the rest of the sentence. `extra` is what else stood there and may be kept beside the
    results: the other fields of a JSON object, or the other columns of a Parquet row as a pyarrow.RecordBatch
    of that row.
    """

    index: int
    where: str
    sequence: InputSequence | None = None
    error: str | None = None
    warning: str | None = None
    extra: Any = None


@dataclass(frozen=True)
class RowRange:
    """The lines `first` to before `end` of a file, counted from 0; the first begins at the byte `offset`."""

    first: int
    end: int
    offset: int = 0


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
        format: "text", "jsonl", "parquet" or "array" for a file; None for sequences that were given.
        counts_lines: whether `progress` is in lines.
        resumable: whether another process can read the same input again.
        extra_schema: what `extra` of its lines is made of, as a pyarrow.Schema; None where it is JSON.
    """

    format: str | None = None
    counts_lines = True
    resumable = False
    extra_schema: Any = None

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
        """The reader of what `runtime` takes; InputError for a custom module, which takes no sequences."""
        if runtime.manifest.is_custom:
            names = ", ".join(each.name for each in runtime.manifest.inputs)
            got, fix = "sequences for a custom module", "run that alone, with `output` a .npz file"
            raise InputError("input", got, f"a .npz file with {names}", fix)
        return cls(runtime.spec, runtime.max_length, lambda: runtime.tokenizer)

    @property
    def vector_size(self) -> int | None:
        """Numbers of a token of a model that takes vectors; None for one that takes ids."""
        return self._spec.hidden_size if self._spec.takes_vectors else None

    @property
    def input_names(self) -> tuple[str, ...]:
        """What a sequence and its mask are called."""
        return self._spec.input_names

    def read_text(self, index: int, where: str, text: str) -> InputLine:
        """The line of a text; an error in it for an empty one, or where the model takes no text."""
        bad = functools.partial(InputLine, index, where, None)
        if self._spec.takes_vectors:
            return bad(f"got a text, expected vectors; give them in {VECTOR_FILES}")
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
        if self._spec.takes_vectors:
            return bad(f"got JSON, expected vectors; give them in {VECTOR_FILES}")
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
            texts = 'or give `line_format="text"` for texts'
            return bad(f"got no JSON ({error}), expected an object; {EXAMPLE}, {texts}")
        fields: dict[str, Any] = values if isinstance(values, dict) else {}
        read = self._read_fields(index, where, line, fields)
        extra = {name: value for name, value in fields.items() if name not in SEQUENCE_FIELDS}
        return dataclasses.replace(read, extra=extra) if extra else read

    def _read_fields(self, index: int, where: str, line: str, fields: dict[str, Any]) -> InputLine:
        bad = functools.partial(InputLine, index, where, None)
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
        error = _find_wrong_type(ids, mask, self.input_names[0], self.vector_size)
        if error is not None:
            return bad(error)
        sequence = InputSequence(ids, mask)
        if len(ids) > self.max_length:
            expected = f"at most {self.max_length}; shorten the text, or split it"
            return bad(f"got {len(ids)} tokens, expected {expected}")
        if mask is None and self.vector_size is None and ids.min() >= 0 and ids.max() < self._spec.vocab_size:
            return InputLine(index, where, sequence)  # most lines: without the cost of the sentences below
        try:
            _, checked = prepare_inputs(self._spec, [ids], None if mask is None else [mask], 0)
        except InputError as refusal:
            return bad(_of_one_row(refusal))
        warning = describe_left_padding(checked)
        return InputLine(index, where, sequence, warning=None if warning is None else _of_one_row(warning))


def _find_wrong_type(ids: NDArray[Any], mask: NDArray[Any] | None, name: str, size: int | None) -> str | None:
    """What is wrong with ids, or with vectors of `size` numbers, which are called `name`, and with a mask."""
    is_row_of_ids = ids.ndim == 1 and ids.dtype.kind in "iu"
    fits = is_row_of_ids if size is None else ids.shape[1:] == (size,) and ids.dtype.kind == "f"
    if not fits or ids.size == 0:
        expected = "a list of at least one integer" if size is None else f"rows of {size} real numbers"
        return f"got {name} of shape {list(ids.shape)} and type {ids.dtype}, expected {expected}; mend it"
    if mask is None:
        return None
    if mask.ndim != 1 or mask.size == 0 or mask.dtype.kind not in "iu":
        return (
            f"got attention_mask of shape {list(mask.shape)} and type {mask.dtype}, expected a list of "
            "at least one integer; mend it"
        )
    if len(mask) != len(ids):
        return f"got {len(ids)} {name} and {len(mask)} attention_mask values, expected equally many"
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
