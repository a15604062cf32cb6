"""Read the sequences that `run` shall process: text, token ids or files."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.cli.runtime_options import ids_from_text
from reformer_export.errors import InputError
from reformer_export.runtimes.tokenizer import Tokenizer

GetTokenizer = Callable[[], Tokenizer]


@dataclass(frozen=True)
class InputSequence:
    """One row to run: `ids` int64 [length], `mask` 0 or 1 [length], or None for all ones."""

    ids: NDArray[np.integer]
    mask: NDArray[np.integer] | None = None

    @property
    def mask_or_ones(self) -> NDArray[np.integer]:
        return np.ones(len(self.ids), np.int64) if self.mask is None else self.mask


def read_sequences(
    texts: Sequence[str], ids: Sequence[str], file: Path | None, get_tokenizer: GetTokenizer
) -> list[InputSequence]:
    """The sequences from exactly one of the three sources; text needs the tokenizer."""
    given = [name for name, value in (("TEXT", texts), ("--ids", ids), ("--file", file)) if value]
    if len(given) != 1:
        raise InputError(
            f"input: got {' and '.join(given) or 'none'}, expected one of TEXT, --ids, --file; give one"
        )
    if file is not None:
        return _read_file(file, get_tokenizer)
    if ids:
        return [InputSequence(np.array(ids_from_text("--ids", text))) for text in ids]
    tokenizer = get_tokenizer()
    return [_sequence_from_text(f"TEXT {index}", text, tokenizer) for index, text in enumerate(texts)]


def _sequence_from_text(what: str, text: str, tokenizer: Tokenizer) -> InputSequence:
    if not text:
        raise InputError(f"{what}: got an empty text, expected at least one character; leave it out")
    return InputSequence(np.array(tokenizer.encode(text), np.int64))


def _read_file(path: Path, get_tokenizer: GetTokenizer) -> list[InputSequence]:
    try:
        if path.suffix in (".npz", ".npy"):
            sequences = _read_arrays(path)
        elif path.suffix == ".jsonl":
            sequences = [_sequence_from_json(what, line, get_tokenizer) for what, line in _read_lines(path)]
        else:
            tokenizer = get_tokenizer()
            sequences = [_sequence_from_text(what, line, tokenizer) for what, line in _read_lines(path)]
    except OSError as error:
        raise InputError(
            f"--file: got {path}, which cannot be read ({error.strerror or error}), expected a file; "
            "check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"--file: got {path}, which is no UTF-8 text ({error.reason} at byte {error.start}), expected "
            "text, .jsonl, .npz or .npy; convert it, or name it after its format"
        ) from error
    if not sequences:
        raise InputError(f"--file: got {path} without a line, expected at least one sequence; fill it")
    return sequences


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            yield f"{path}, line {number}", line.rstrip("\n")


def _sequence_from_json(what: str, line: str, get_tokenizer: GetTokenizer) -> InputSequence:
    fix = 'write e.g. {"input_ids": [5, 6, 7]} or {"text": "some text"}'
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{what}: got no JSON ({error}), expected an object; {fix}") from error
    if isinstance(values, dict) and isinstance(values.get("text"), str):
        return _sequence_from_text(what, values["text"], get_tokenizer())
    if not isinstance(values, dict) or not isinstance(values.get("input_ids"), list):
        raise InputError(f"{what}: got {line[:60]!r}, expected an object with input_ids or text; {fix}")
    mask = values.get("attention_mask")
    return _checked(what, _array(what, values["input_ids"]), None if mask is None else _array(what, mask))


def _array(what: str, values: Any) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(
            f"{what}: got lists of unequal depth, expected a list of integers; mend it"
        ) from error


def _checked(what: str, ids: NDArray[Any], mask: NDArray[Any] | None) -> InputSequence:
    for name, row in (("input_ids", ids), ("attention_mask", mask)):
        if row is None:
            continue
        if row.ndim != 1 or row.size == 0 or not np.issubdtype(row.dtype, np.integer):
            raise InputError(
                f"{what}: got {name} of shape {list(row.shape)} and type {row.dtype}, expected a list of "
                "at least one integer; mend it"
            )
    if mask is not None and mask.shape != ids.shape:
        raise InputError(
            f"{what}: got {len(ids)} input_ids and {len(mask)} attention_mask values, expected equally many"
        )
    return InputSequence(ids, mask)


def _read_arrays(path: Path) -> list[InputSequence]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"input_ids": loaded}
        else:
            with loaded:
                arrays = dict(loaded)
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"--file: got {path}, which numpy cannot read ({error}); write it with numpy.savez"
        ) from error
    if "input_ids" not in arrays:
        raise InputError(f"--file: got arrays {sorted(arrays)} in {path}, expected input_ids; rename it")
    ids = np.atleast_2d(arrays["input_ids"])
    mask = np.atleast_2d(arrays["attention_mask"]) if "attention_mask" in arrays else None
    if ids.ndim != 2 or (mask is not None and mask.shape != ids.shape):
        got = f"input_ids {list(ids.shape)}" + (
            f" and attention_mask {list(mask.shape)}" if mask is not None else ""
        )
        raise InputError(f"--file: got {got}, expected [batch, sequence] for both; reshape them in {path}")
    masks = [None] * len(ids) if mask is None else list(mask)
    return [_checked(f"{path}, row {i}", row, masks[i]) for i, row in enumerate(ids)]
