from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reformer_export.errors import InputError
from reformer_export.runtimes.inputs import describe_left_padding, prepare_inputs
from tests.runtimes.artifacts import MAX_LENGTH, make_spec

SPEC = make_spec(vocab_size=50)


def prepare(ids: Any, mask: Any = None, pad: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    got_ids, got_mask = prepare_inputs(SPEC, ids, mask, pad)
    assert got_ids.dtype == got_mask.dtype == np.int64
    return got_ids.tolist(), got_mask.tolist()


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        lambda rows: np.array(rows, np.uint8),
        torch.tensor,
        lambda rows: torch.tensor(rows, dtype=torch.int32),
        lambda rows: [torch.tensor(row) for row in rows],
    ],
)
def test_rectangular_rows_pass_unchanged(kind: Any) -> None:
    rows = [[1, 2, 49], [3, 0, 5]]
    assert prepare(kind(rows)) == (rows, [[1, 1, 1], [1, 1, 1]])


def test_ragged_rows_are_padded_on_the_right_and_masked() -> None:
    assert prepare([[1], [2, 3, 4]], pad=7) == ([[1, 7, 7], [2, 3, 4]], [[1, 0, 0], [1, 1, 1]])


def test_ragged_rows_keep_their_masks() -> None:
    assert prepare([[1, 2], [3, 4, 5]], [[1, 0], [1, 0, 1]])[1] == [[1, 0, 0], [1, 0, 1]]


@given(st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=MAX_LENGTH), min_size=1, max_size=5))
def test_the_mask_recovers_the_rows(rows: list[list[int]]) -> None:
    ids, mask = prepare_inputs(SPEC, rows, None, 3)
    assert [row[keep == 1].tolist() for row, keep in zip(ids, mask, strict=True)] == rows


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "no row"),
        ("text", r"got str, .*model\.encode\(text\)"),
        (["text"], r"row 0: got str, .*model\.encode\(text\)"),
        ([[]], "no token"),
        ([[1], []], "row 1: got no token"),
        ([[1, 50]], "id 50 at position 1, expected ids from 0 to 49"),
        ([[-1]], "id -1 at position 0"),
        ([[2**63]], "id 9223372036854775808"),
        ([[2**70]], "object values"),
        ([[1.0]], "float64 values"),
        ([[True]], "booleans"),
        ([["1"]], "expected integers"),
        ([1, 2], "row 0: got int, expected one row"),
        ([[[1]]], "expected one row"),
        ([[1, [2, 3]]], "unequal depth"),
        ("abc", "got str"),
        (5, "got int"),
        (np.zeros(3, np.int64), "shape \\[3\\], expected \\[batch, sequence\\]"),
        (np.zeros((2, 0), np.int64), "no token"),
        ([[1] * (MAX_LENGTH + 1)], "got 65 tokens, expected at most 64"),
    ],
)
def test_ids_that_do_not_fit_are_refused(ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(ids)


def test_the_greatest_length_is_allowed() -> None:
    assert len(prepare([[1] * MAX_LENGTH])[0][0]) == MAX_LENGTH


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1]], "rows of \\[2\\] values, expected \\[3\\]"),
        ([[1, 1, 1], [1, 1, 1]], "rows of"),
        ([[1, 2, 0]], "other than 0 and 1"),
        ([[0, 0, 0]], "only zeros"),
        ([[1.0, 1.0, 1.0]], "float64"),
        (np.ones(3, np.int64), "shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare([[1, 2, 3]], mask)


def test_left_padding_is_told_and_right_padding_is_not() -> None:
    _, mask = prepare([[1, 2, 3], [1, 2, 3]], [[1, 1, 0], [0, 1, 1]])
    assert "rows [1] are padded on the left" in str(describe_left_padding(np.array(mask)))
    _, mask = prepare([[1, 2, 3]], np.array([[True, False, True]]))
    assert describe_left_padding(np.array(mask)) is None


class Unreadable:
    """As a tensor on a GPU is to numpy."""

    def __array__(self, *_arguments: Any, **_options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __dlpack__(self, **_options: Any) -> Any:
        raise BufferError("gone")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def test_what_numpy_cannot_read_is_one_line() -> None:
    with pytest.raises(InputError, match="input_ids, row 0: got 'can't convert cuda:0 device type tensor"):
        prepare([Unreadable()])
    with pytest.raises(InputError, match="input_ids: got 'gone', expected an array of integers"):
        prepare(Unreadable())
    with pytest.raises(InputError, match="float32 values"):
        prepare(torch.ones(2, 3))
    with pytest.raises(InputError, match=r"an array of shape \[3\]"):
        prepare(torch.ones(3, dtype=torch.int64))
