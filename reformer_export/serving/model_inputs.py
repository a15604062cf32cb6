"""Token ids and masks of a request against the model, before it waits: whole arrays at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError
from reformer_export.serving.tensors_v2 import GUIDE
from reformer_export.spec import ModelSpec


def check_takes_ids(spec: ModelSpec) -> None:
    """InputError for a model that takes vectors, which no server of this package does yet."""
    if spec.takes_vectors:
        fix = "call it in the server's own program (`reformer_export.load`), or in ONNX Runtime"
        raise InputError("artifact", "a model that takes vectors", "one that takes token ids", fix)


def check_inputs(
    spec: ModelSpec, max_length: int, arrays: Mapping[str, NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int8] | None]:
    """input_ids int64 [rows, length] and attention_mask int8 of that shape, None where it is all ones.

    Args:
        spec: the model.
        max_length: tokens of its longest sequence, or of its engine's.
        arrays: int64 [rows, length] by input name.

    Raises:
        InputError: what the model does not take.
    """
    if "input_ids" not in arrays:
        raise InputError("inputs", "no input_ids", "them", GUIDE)
    ids = np.ascontiguousarray(arrays["input_ids"])
    length = ids.shape[1]
    if length > max_length or not spec.takes_length(length):
        expected = spec.describe_lengths() if max_length == spec.max_length else f"at most {max_length}"
        raise InputError("input_ids", f"{length} tokens", expected, "shorten the text, or split it")
    outside = np.argwhere((ids < 0) | (ids >= spec.vocab_size))
    if len(outside):
        row, position = outside[0]
        got = f"id {ids[row, position]} at position {position}"
        fix = "use the tokenizer this model was trained with"
        raise InputError(f"input_ids, row {row}", got, f"ids from 0 to {spec.vocab_size - 1}", fix)
    if "attention_mask" not in arrays:
        return ids, None
    return ids, _check_mask(ids, arrays["attention_mask"])


def _check_mask(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.int8] | None:
    if mask.shape != ids.shape:
        got, expected = f"shape {list(mask.shape)}", f"{list(ids.shape)} as input_ids"
        raise InputError("attention_mask", got, expected, "give one value a token, or no mask")
    if ((mask != 0) & (mask != 1)).any():
        fix = "give no mask if nothing is padded"
        got, expected = "a value other than 0 and 1", "1 for a token and 0 for padding"
        raise InputError("attention_mask", got, expected, fix)
    if mask.all():
        return None
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        what = f"attention_mask, row {empty[0]}"
        raise InputError(what, "only zeros", "at least one 1", "leave the row out")
    return np.ascontiguousarray(mask, np.int8)
