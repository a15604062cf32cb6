"""Check token ids or vectors, and masks, before a runtime sees them, and pad rows of unequal length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError, one_line, one_line_repr
from reformer_export.spec import DType, ModelSpec

FLOAT16_MAX: Final = 65504.0
"""The greatest number of IEEE 754's binary16."""


class SupportsDLPack(Protocol):
    """Another library's array, such as torch's."""

    def __dlpack__(self) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


IdsLike = Sequence[Sequence[int]] | Sequence[NDArray[np.integer]] | NDArray[np.integer] | SupportsDLPack
"""Rows of integers: an array [batch, sequence], numpy's or another library's, or one sequence a row, whose
lengths may differ."""


class LeftPaddingWarning(UserWarning):
    """A row is padded on its left: legal, but the answer differs from the unpadded row's.

    A Reformer's positions are absolute and its chunks start at position 0, so that padding on the left
    moves every token to another position and another chunk. Pad on the right.
    """


VectorsLike = (
    NDArray[np.floating]
    | Sequence[NDArray[np.floating]]
    | Sequence[Sequence[Sequence[float]]]
    | SupportsDLPack
)
"""Rows of vectors of real numbers: an array [batch, sequence, hidden_size], numpy's or another library's, or
one sequence [sequence, hidden_size] a row, whose lengths may differ."""

InputsLike = IdsLike | VectorsLike


def prepare_inputs(
    spec: ModelSpec,
    inputs: InputsLike,
    attention_mask: IdsLike | None,
    pad_token_id: int = 0,
    dtype: DType = "float32",
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Check ids, or vectors, and mask, and make them int64 [batch, sequence], or float32
    [batch, sequence, hidden_size], and int64 [batch, sequence]; InputError says what does not fit.

    Args:
        spec: the model, for its vocabulary or the size of its vectors, and its greatest length.
        inputs: what the model takes; rows of unequal length are padded on the right, ids with `pad_token_id`
            and vectors with zeros.
        attention_mask: 1 for a token and 0 for padding, of the shape of the ids; None for all ones.
        pad_token_id: any id of the vocabulary; padded positions are masked.
        dtype: that the graph takes vectors in.
    """
    name, _ = spec.input_names
    if attention_mask is None and isinstance(inputs, np.ndarray) and _is_right(inputs, spec):
        return np.array(inputs, np.int64, order="C"), np.ones(inputs.shape, np.int64)
    if spec.takes_vectors:
        rows: list[NDArray[Any]] = _vector_rows(name, inputs, spec, dtype)
    else:
        rows = list(_rows_from_input(name, inputs))
        for index, row in enumerate(rows):
            _check_ids(index, row, spec)
    if attention_mask is None:
        mask_rows: list[NDArray[np.integer]] = [np.ones(len(row), np.int64) for row in rows]
    else:
        mask_rows = _rows_from_input("attention_mask", attention_mask)
        _check_mask(name, rows, mask_rows)
    width = max(len(row) for row in rows)
    check_length(spec, width)
    shape = len(rows), width
    if spec.takes_vectors:
        batch: NDArray[Any] = np.zeros((*shape, spec.hidden_size), np.float32)
    else:
        batch = np.full(shape, pad_token_id, np.int64)
    mask = np.zeros(shape, np.int64)
    for index, (row, mask_row) in enumerate(zip(rows, mask_rows, strict=True)):
        batch[index, : len(row)] = row
        mask[index, : len(mask_row)] = mask_row
    return batch, mask


def _is_right(ids: NDArray[Any], spec: ModelSpec) -> bool:
    """Whether nothing is to be said of these ids: most arrays need not be looked at row by row."""
    if spec.takes_vectors or ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
        return False
    is_known = bool(ids.min() >= 0 and ids.max() < spec.vocab_size)
    return is_known and spec.takes_length(ids.shape[1])


def check_length(spec: ModelSpec, length: int) -> None:
    """InputError unless the model takes sequences, or a batch padded to, `length` tokens."""
    if not spec.takes_length(length):
        shorten = f"shorten the {'sequence' if spec.takes_vectors else 'text'}, or split it"
        fix = "give another length" if length <= spec.max_length else shorten
        raise InputError(spec.input_names[0], f"{length} tokens", spec.describe_lengths(), fix)


def _vector_rows(name: str, values: Any, spec: ModelSpec, dtype: DType) -> list[NDArray[np.float32]]:
    size = spec.hidden_size
    expected, fix = f"[batch, sequence, {size}]", f"give {name} as an array of {size} numbers a token"
    if not isinstance(values, np.ndarray | Sequence):
        values = array_from_other(name, values, fix, "an array of numbers")
    if isinstance(values, np.ndarray) and values.ndim != 3:
        raise InputError(name, f"an array of shape {list(values.shape)}", expected, fix)
    if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray):
        raise InputError(name, type(values).__name__, f"an array {expected}", fix)
    if len(values) == 0:
        raise InputError(name, "no row", "at least one", fix)
    return [vectors_from_input(f"{name}, row {index}", row, size, dtype) for index, row in enumerate(values)]


def vectors_from_input(what: str, values: object, size: int, dtype: DType) -> NDArray[np.float32]:
    """`values` as float32 [length, size]; InputError when they are no vectors of `size` numbers that `dtype`
    has."""
    expected, fix = f"[sequence, {size}] real numbers", f"give {size} numbers a token"
    try:
        row = np.asarray(values)
    except Exception as error:  # lists of unequal depth, or whatever an object of another library raises
        raise InputError(what, f"'{one_line(error)}'", expected, fix) from error
    if row.ndim != 2 or row.shape[1] != size or row.dtype.kind != "f":
        raise InputError(what, f"{row.dtype} of shape {list(row.shape)}", expected, fix)
    if len(row) == 0:
        raise InputError(what, "no token", "at least one", "leave empty rows out")
    limit = FLOAT16_MAX if dtype == "float16" else float(np.finfo(np.float32).max)
    outside = np.flatnonzero(~(np.abs(row) <= limit).all(axis=1))
    if outside.size:
        got = f"a number that is not finite in {dtype} at position {outside[0]}"
        raise InputError(what, got, "finite numbers", "mend the vectors, or mask and zero what is padding")
    return row.astype(np.float32, copy=False)


def _rows_from_input(name: str, values: InputsLike) -> list[NDArray[np.integer]]:
    rows = "[[1, 1, 0]]" if name == "attention_mask" else "[[5, 6, 7]] or [model.encode(text)]"
    fix = f"give {name} as a list of rows, e.g. {rows}"
    if not isinstance(values, np.ndarray | Sequence):
        values = array_from_other(name, values, fix)
    if isinstance(values, np.ndarray) and values.ndim != 2:
        raise InputError(name, f"an array of shape {list(values.shape)}", "[batch, sequence]", fix)
    if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray):
        raise InputError(name, type(values).__name__, "rows of integers", fix)
    if len(values) == 0:
        raise InputError(name, "no row", "at least one", fix)
    return [row_from_input(f"{name}, row {index}", row, fix) for index, row in enumerate(values)]


def array_from_other(name: str, values: Any, fix: str, expected: str = "an array of integers") -> Any:
    """Another library's array as numpy's, without importing that library; what is no array as it is."""
    try:
        if hasattr(values, "__dlpack__"):
            return np.from_dlpack(values)
        return np.asarray(values) if hasattr(values, "__array__") else values
    except Exception as error:  # whatever that library raises
        raise InputError(name, f"'{one_line(error)}'", expected, fix) from error


def row_from_input(what: str, values: object, fix: str) -> NDArray[np.integer]:
    """`values` as integers or booleans [length]; InputError when they are no row of them."""
    if isinstance(values, str | bytes | bytearray | memoryview):  # the last two would be rows of bytes
        raise InputError(what, type(values).__name__, "integers", fix)
    if isinstance(values, list | tuple):
        kinds = {isinstance(value, bool | np.bool_) for value in values}
        if kinds == {True, False}:
            raise InputError(what, "booleans among the integers", "integers", fix)
    try:
        row = np.asarray(values)
    except ValueError as error:
        raise InputError(what, "values of unequal depth", "integers", fix) from error
    except Exception as error:  # an object of another library can raise anything
        raise InputError(what, f"'{one_line(error)}'", "one row of integers on the host", fix) from error
    if row.ndim != 1:
        got = f"shape {list(row.shape)}" if row.ndim else type(values).__name__
        raise InputError(what, got, "one row of integers", fix)
    if row.size == 0:
        raise InputError(what, "no token", "at least one", "leave empty rows out")
    if not np.issubdtype(row.dtype, np.integer) and row.dtype != np.bool_:
        got = "texts" if row.dtype.kind in "US" else f"{row.dtype} values"
        raise InputError(what, got, "integers", fix)
    return row


def _check_ids(index: int, row: NDArray[np.integer], spec: ModelSpec) -> None:
    what = f"input_ids, row {index}"
    if len(row) > spec.max_length:
        fix = "shorten the text, or split it"
        raise InputError(what, f"{len(row)} tokens", f"at most {spec.max_length}", fix)
    outside = np.flatnonzero((row < 0) | (row >= spec.vocab_size))
    if row.dtype == np.bool_ or outside.size:
        got = f"id {row[outside[0]]} at position {outside[0]}" if outside.size else "booleans"
        fix = "use the tokenizer this model was trained with"
        raise InputError(what, got, f"ids from 0 to {spec.vocab_size - 1}", fix)


def _check_mask(name: str, rows: list[NDArray[Any]], mask_rows: list[NDArray[np.integer]]) -> None:
    lengths, mask_lengths = [len(row) for row in rows], [len(row) for row in mask_rows]
    if lengths != mask_lengths:
        got, expected = f"rows of {mask_lengths[:8]} values", f"{lengths[:8]} as {name}"
        raise InputError("attention_mask", got, expected, "give one value a token, or no mask")
    for index, row in enumerate(mask_rows):
        what = f"attention_mask, row {index}"
        if not np.isin(row, (0, 1)).all():
            expected = "1 for a token and 0 for padding"
            fix = "give no mask if nothing is padded"
            raise InputError(what, "a value other than 0 and 1", expected, fix)
        if not row.any():
            raise InputError(what, "only zeros", "at least one 1", "leave the row out")


def describe_left_padding(mask: NDArray[np.int64]) -> str | None:
    """What is to be told of a checked mask [batch, sequence] whose rows begin with padding; else None."""
    rows = np.flatnonzero(mask[:, 0] == 0)[:8].tolist()
    if not rows:
        return None
    return (
        f"attention_mask: rows {rows} are padded on the left. A Reformer's output depends on absolute "
        "positions and chunks: this is not the unpadded text's answer; pad on the right."
    )


def check_token(what: str, token: Any, vocab_size: int) -> None:
    """InputError unless `token` is an id of a vocabulary of so many."""
    is_integer = isinstance(token, int | np.integer) and not isinstance(token, bool)
    if not (is_integer and 0 <= token < vocab_size):
        fix = "use the tokenizer this model was trained with"
        raise InputError(what, f"id {one_line_repr(token)}", f"an id from 0 to {vocab_size - 1}", fix)


def check_prompt(ids: Sequence[int], longest: int, vocab_size: int) -> None:
    """InputError unless `ids` are those of a prompt of at most `longest` tokens."""
    if not 0 < len(ids) <= longest:
        expected = f"1 to {longest}, the longest sequence"
        raise InputError("prompt", f"{len(ids)} tokens", expected, "shorten it, or give some text")
    row = np.array(ids, np.int64)
    outside = np.flatnonzero((row < 0) | (row >= vocab_size))
    if outside.size:
        position = int(outside[0])
        check_token(f"prompt, position {position}", ids[position], vocab_size)


def pairs_from_tokens(tokens: Mapping[int, int] | Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Key and token of each sequence that a step names; InputError for anything else."""
    try:
        return [(key, token) for key, token in (tokens.items() if isinstance(tokens, Mapping) else tokens)]
    except (TypeError, ValueError) as error:
        fix = "give e.g. {key: 5}"
        raise InputError("tokens", one_line_repr(tokens), "a token id for each key", fix) from error
