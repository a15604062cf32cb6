"""LSHBucketsStep: LSHBuckets over all tokens so far by as many columns as their number asks for, whatever
computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.errors import InputError
from reformer_export.ops import lsh_buckets_step
from reformer_export.ops.lsh_buckets_step import find_records
from reformer_export.ops.native_kernels import NativeKernels
from tests.ops.backends import BACKENDS, run_reference
from tests.ops.backends import require_native as require_native_library

OPERATOR = "LSHBucketsStep"
GARBAGE = 7


class Sequences:
    """Rows of small integers, whose products are exact and often tie, and a cache that the steps fill."""

    def __init__(self, seed: int, dtype: type = np.float32, columns: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        heads, size, rounds = (int(x) for x in rng.integers(1, (4, 6, 4)))
        columns = columns or int(rng.integers(1, 50))
        self.attributes = {"num_heads": heads, "padding_multiple": int(rng.integers(1, 6))}
        self.lengths = rng.integers(0, 40, int(rng.integers(1, 4)))
        self.longest = int(self.lengths.max()) + 4
        self.vectors = rng.integers(-2, 3, (len(self.lengths), self.longest, heads * size)).astype(dtype)
        planes = 1 if rng.random() < 0.3 else heads
        self.rotations = rng.integers(-2, 3, (planes, size, rounds, columns)).astype(np.float32)
        words = -(-columns // 15)
        shape = (len(self.lengths), heads, rounds * words, self.longest + int(rng.integers(0, 3)))
        self.records = np.full(shape, GARBAGE, np.int32)

    def inputs(self, held: Any, new: Any, tokens: int) -> dict[str, np.ndarray]:
        """A call in which each row gets so many of its tokens, in room for `tokens`."""
        fresh = np.full((len(held), tokens, self.vectors.shape[2]), GARBAGE, self.vectors.dtype)
        for row, (begin, count) in enumerate(zip(held, new, strict=True)):
            fresh[row, :count] = self.vectors[row, begin : begin + count]
        return {
            "query_key": fresh,
            "rotations": self.rotations,
            "past_records": self.records,
            "lengths": np.array(held, np.int32),
            "new_lengths": np.array(new, np.int32),
        }

    def check(self, held: Any, new: Any, results: list[np.ndarray]) -> None:
        """Every element of what a call gave; and takes its records."""
        new_buckets, buckets, records = results
        multiple, most = self.attributes["padding_multiple"], self.rotations.shape[3]
        expected_all, expected_new = np.zeros_like(buckets), np.zeros_like(new_buckets)
        expected_records = self.records.copy()
        for row, (begin, count) in enumerate(zip(held, new, strict=True)):
            if count == 0:
                continue
            end = begin + count
            columns = min(-(-end // multiple), most)
            expected = run_reference(
                "LSHBuckets",
                {
                    "query_key": self.vectors[row : row + 1, :end],
                    "rotations": np.repeat(
                        self.rotations[..., :columns],
                        self.attributes["num_heads"] // len(self.rotations),
                        axis=0,
                    ),
                    "attention_mask": np.ones((1, end), np.int32),
                },
                {"num_heads": self.attributes["num_heads"], "num_buckets": ()},
            )[0]
            expected_all[row, ..., :end] = expected
            expected_new[row, ..., :count] = expected[..., begin:]
            expected_records[row, ..., begin:end] = self._records_of(row, begin, end)
        np.testing.assert_array_equal(buckets, expected_all)
        np.testing.assert_array_equal(new_buckets, expected_new)
        np.testing.assert_array_equal(records, expected_records)
        assert new_buckets.dtype == buckets.dtype == records.dtype == np.int32
        self.records = records

    def _records_of(self, row: int, begin: int, end: int) -> np.ndarray:
        heads = self.attributes["num_heads"]
        x = torch.from_numpy(self.vectors[row, begin:end].astype(np.float32)).view(end - begin, heads, -1)
        rotations = torch.from_numpy(self.rotations).expand(heads, -1, -1, -1)
        scores = torch.einsum("lhd,hdrs->hrls", x, rotations)
        return find_records(scores).permute(0, 1, 3, 2).flatten(1, 2).numpy()


def decode(sequences: Sequences, run: Any) -> None:
    """Prompts of unlike lengths, then steps with rests, on the records that the calls leave."""
    held = [0] * len(sequences.lengths)
    tokens = max(int(sequences.lengths.max()), 1) + 1
    new = [int(x) for x in sequences.lengths]
    for call in range(5):
        inputs = sequences.inputs(held, new, tokens)
        sequences.check(held, new, run(OPERATOR, inputs, sequences.attributes))
        held = [begin + count for begin, count in zip(held, new, strict=True)]
        tokens, new = 1, [int((call + row) % 4 != 0) for row in range(len(held))]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_reference_is_the_whole_operator(seed: int) -> None:
    decode(Sequences(seed), run_reference)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([np.float32, np.float16]))
def test_backends_are_the_whole_operator(backend: str, seed: int, dtype: type) -> None:
    decode(Sequences(seed, dtype), BACKENDS[backend])


@pytest.mark.parametrize("columns", [1, 14, 15, 16, 30, 31, 64, 65, 80, 129])
def test_native_columns_at_the_borders_of_words_and_tiles(columns: int) -> None:
    for dtype in (np.float32, np.float16):
        sequences = Sequences(columns, dtype, columns)
        sequences.attributes["padding_multiple"] = 1
        decode(sequences, BACKENDS["native-torch"])


def test_native_takes_a_long_prompt_and_its_records_in_place() -> None:
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.integers(-3, 4, (1, 700, 2 * 9)).astype(np.float32))
    rotations = torch.from_numpy(rng.integers(-3, 4, (2, 9, 3, 70)).astype(np.float32))
    past = torch.zeros(1, 2, 15, 800, dtype=torch.int32)
    kernels = NativeKernels(require_native_library())
    lengths, new = (torch.tensor([x], dtype=torch.int32) for x in (0, 700))
    expected = run_reference(
        OPERATOR,
        {
            "query_key": vectors.numpy(),
            "rotations": rotations.numpy(),
            "past_records": past.numpy(),
            "lengths": lengths.numpy(),
            "new_lengths": new.numpy(),
        },
        {"num_heads": 2, "padding_multiple": 10},
    )
    got = kernels.lsh_buckets_step(vectors, rotations, past, lengths, new, 2, 10, in_place=True)
    assert got[2].data_ptr() == past.data_ptr()
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other)


@pytest.mark.parametrize("backend", ["onnxruntime-body", "native-onnxruntime", "native-torch"])
@pytest.mark.parametrize(
    ("held", "new", "message"),
    [(3, 2, "2 new tokens on 3 held ones"), (-1, 1, "-1 tokens held"), (0, 5, "5 new tokens"), (9, 1, "9")],
)
def test_lengths_that_do_not_fit_are_refused(backend: str, held: int, new: int, message: str) -> None:
    sequences = Sequences(3)
    sequences.records = sequences.records[..., :9]
    rows = len(sequences.lengths)
    inputs = sequences.inputs([0] * rows, [1] * rows, 4)
    inputs |= {"lengths": np.full(rows, held, np.int32), "new_lengths": np.full(rows, new, np.int32)}
    with pytest.raises(InputError, match=message):
        run_reference(OPERATOR, inputs, sequences.attributes)
    with pytest.raises(Exception, match=r"holds|out of|bounds"):
        BACKENDS[backend](OPERATOR, inputs, sequences.attributes)


def test_custom_op_passes_torch_checks() -> None:
    sequences = Sequences(5)
    rows = len(sequences.lengths)
    inputs = sequences.inputs([0] * rows, [1] * rows, 1)
    args = (*(torch.from_numpy(value) for value in inputs.values()), *sequences.attributes.values())
    torch.library.opcheck(lsh_buckets_step, args, test_utils=("test_schema", "test_faketensor"))
