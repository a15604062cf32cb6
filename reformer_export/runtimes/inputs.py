"""Check token ids and masks before a runtime sees them, and pad rows of unequal length."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError, one_line, one_line_repr
from reformer_export.spec import ModelSpec


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


def prepare_inputs(
    spec: ModelSpec, input_ids: IdsLike, attention_mask: IdsLike | None, pad_token_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Check ids and mask and make both int64 [batch, sequence]; InputError says what does not fit.

    Args:
        spec: the model, for its vocabulary and its greatest length.
        input_ids: token ids; rows of unequal length are padded on the right with `pad_token_id`.
        attention_mask: 1 for a token and 0 for padding, of the shape of `input_ids`; None for all ones.
        pad_token_id: any id of the vocabulary; padded positions are masked.
    """
    id_rows = _rows_from_input("input_ids", input_ids)
    for index, row in enumerate(id_rows):
        _check_ids(index, row, spec)
    if attention_mask is None:
        mask_rows: list[NDArray[np.integer]] = [np.ones(len(row), np.int64) for row in id_rows]
    else:
        mask_rows = _rows_from_input("attention_mask", attention_mask)
        _check_mask(id_rows, mask_rows)
    width = max(len(row) for row in id_rows)
    check_length(spec, width)
    ids = np.full((len(id_rows), width), pad_token_id, np.int64)
    mask = np.zeros((len(id_rows), width), np.int64)
    for index, (id_row, mask_row) in enumerate(zip(id_rows, mask_rows, strict=True)):
        ids[index, : len(id_row)] = id_row
        mask[index, : len(mask_row)] = mask_row
    return ids, mask


def check_length(spec: ModelSpec, length: int) -> None:
    """InputError unless the model takes sequences, or a batch padded to, `length` tokens."""
    if not spec.takes_length(length):
        fix = "give another length" if length <= spec.max_length else "shorten the text, or split it"
        raise InputError("input_ids", f"{length} tokens", spec.describe_lengths(), fix)


def _rows_from_input(name: str, values: IdsLike) -> list[NDArray[np.integer]]:
    fix = f"give {name} as a list of rows, e.g. [[5, 6, 7]]"
    if not isinstance(values, np.ndarray | Sequence):
        values = array_from_other(name, values, fix)
    if isinstance(values, np.ndarray) and values.ndim != 2:
        raise InputError(name, f"an array of shape {list(values.shape)}", "[batch, sequence]", fix)
    if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray):
        raise InputError(name, type(values).__name__, "rows of integers", fix)
    if len(values) == 0:
        raise InputError(name, "no row", "at least one", fix)
    return [row_from_input(f"{name}, row {index}", row, fix) for index, row in enumerate(values)]


def array_from_other(name: str, values: Any, fix: str) -> Any:
    """Another library's array as numpy's, without importing that library; what is no array as it is."""
    try:
        if hasattr(values, "__dlpack__"):
            return np.from_dlpack(values)
        return np.asarray(values) if hasattr(values, "__array__") else values
    except Exception as error:  # whatever that library raises
        raise InputError(name, f"'{one_line(error)}'", "an array of integers", fix) from error


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
        raise InputError(what, f"{row.dtype} values", "integers", fix)
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


def _check_mask(id_rows: list[NDArray[np.integer]], mask_rows: list[NDArray[np.integer]]) -> None:
    lengths, mask_lengths = [len(row) for row in id_rows], [len(row) for row in mask_rows]
    if lengths != mask_lengths:
        got, expected = f"rows of {mask_lengths[:8]} values", f"{lengths[:8]} as input_ids"
        raise InputError("attention_mask", got, expected, "give one value a token, or no mask")
    for index, row in enumerate(mask_rows):
        what = f"attention_mask, row {index}"
        if not np.isin(row, (0, 1)).all():
            expected = "1 for a token and 0 for padding"
            fix = "give no mask if nothing is padded"
            raise InputError(what, "a value other than 0 and 1", expected, fix)
        if not row.any():
            raise InputError(what, "only zeros", "at least one 1", "leave the row out")
    left_padded = [index for index, row in enumerate(mask_rows) if row[0] == 0]
    if left_padded:
        warnings.warn(
            f"attention_mask: rows {left_padded[:8]} are padded on the left. A Reformer's output depends on "
            "absolute positions and chunks: this is not the unpadded text's answer; pad on the right.",
            LeftPaddingWarning,
            stacklevel=5,
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
