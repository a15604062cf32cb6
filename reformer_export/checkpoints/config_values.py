"""Values of a config.json that transformers stores as they are, and fails on when the model is built or runs.

Its releases check more or less of them by themselves, 5.0 nothing. Fields without effect on the result are
among them: eager, with which an export is compared, reads them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

AXIAL_AXES: Final = 2
"""AxialPositionEmbeddings takes any number and unpacks two (transformers, modeling_reformer.py)."""

MAX_NUM_LABELS: Final = 2**20
"""transformers builds a dict of that many names; above any real classifier."""

STORED_DTYPES: Final = (None, "auto", "float64", "float32", "float16", "bfloat16")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_probability(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_spread(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_dtype(value: object) -> bool:
    return (value.removeprefix("torch.") if isinstance(value, str) else value) in STORED_DTYPES


def _is_label_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_NUM_LABELS


def _is_integer(value: object) -> bool:
    return type(value) is int


def _is_integer_or_none(value: object) -> bool:
    return value is None or type(value) is int


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_bucket_count(value: object) -> bool:
    return _is_integer_or_none(value) or (isinstance(value, list) and all(map(_is_integer, value)))


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == AXIAL_AXES


_INTEGER: Final = (_is_integer, "an integer")
_CHUNK_LENGTH: Final = (_is_integer_or_none, "an integer of at least 1 token")
_PROBABILITY: Final = (_is_probability, "a probability from 0 to 1")
_SPREAD: Final = (_is_spread, "a finite number from 0 up")
_DTYPE: Final = (_is_dtype, "float32, float16, bfloat16 or float64")
_AXES: Final = (_is_pair, "two axes, as transformers computes with no other number of them")

_RULES: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "vocab_size": _INTEGER,
    "pad_token_id": (_is_integer_or_none, "a token id"),
    "attn_layers": (_is_list, "a list of 'local' and 'lsh'"),
    "hidden_act": (_is_text, "the name of an activation"),
    "local_attn_chunk_length": _CHUNK_LENGTH,
    "lsh_attn_chunk_length": _CHUNK_LENGTH,
    "num_buckets": (_is_bucket_count, "an even integer, a list of them, or null"),
    "num_labels": (_is_label_count, f"an integer from 1 to {MAX_NUM_LABELS}"),
    "hidden_dropout_prob": _PROBABILITY,
    "local_attention_probs_dropout_prob": _PROBABILITY,
    "lsh_attention_probs_dropout_prob": _PROBABILITY,
    "initializer_range": _SPREAD,
    "axial_norm_std": _SPREAD,
    "dtype": _DTYPE,
    "torch_dtype": _DTYPE,
    "axial_pos_shape": _AXES,
    "axial_pos_embds_dim": _AXES,
}

_AXIAL: Final = ("axial_pos_shape", "axial_pos_embds_dim", "axial_norm_std")


def find_wrong_value(raw: dict[str, Any]) -> tuple[str, str] | None:
    """The first field whose value fails later, and what is expected of it; None when there is none.

    `raw`: a config.json as it was read.
    """
    for name, (holds, expected) in _RULES.items():
        is_read = name not in _AXIAL or raw.get("axial_pos_embds", True)
        if name in raw and is_read and not holds(raw[name]):
            return name, expected
    return None
