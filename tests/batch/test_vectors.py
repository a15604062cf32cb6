"""Files of vectors through a runtime: read a row at a time, put into batches, written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export.batch import (
    Batching,
    GivenSequences,
    InputSequence,
    Output,
    SequenceReader,
    open_file,
    open_output,
    run_batches,
)
from reformer_export.batch.batching import windows_from_lines
from reformer_export.batch.sequences import InputLine
from reformer_export.errors import InputError
from reformer_export.runtimes import load
from reformer_export.runtimes.tokenizer import ByteTokenizer
from tests.runtimes.artifacts import make_vector_spec, write_vector_artifact

READER = SequenceReader(make_vector_spec(), 64, ByteTokenizer)
VECTORS = np.random.default_rng(0).standard_normal((5, 8, 4))
MASK = np.ones((5, 8), np.int64)
MASK[1, 3:] = 0


def read(path: Path) -> list[InputLine]:
    with open_file(path, READER) as source:
        return list(source)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_every_float_type(tmp_path: Path, dtype: str, save: Any) -> None:
    vectors = VECTORS.astype(dtype)
    save(tmp_path / "a.npz", inputs_embeds=vectors, attention_mask=MASK)
    np.save(tmp_path / "a.npy", vectors[0])
    lines = read(tmp_path / "a.npz")
    assert len(lines) == 5
    for line, row, mask in zip(lines, vectors, MASK, strict=True):
        assert line.sequence is not None
        np.testing.assert_array_equal(line.sequence.ids, row)
        assert line.sequence.mask is not None
        assert line.sequence.mask.tolist() == mask.tolist()
    (alone,) = read(tmp_path / "a.npy")
    assert alone.sequence is not None
    np.testing.assert_array_equal(alone.sequence.ids, vectors[0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input_ids": np.ones((2, 8), int)}, r"got arrays \['input_ids'\] in .*, expected inputs_embeds"),
        ({"inputs_embeds": VECTORS, "keys": VECTORS}, "expected inputs_embeds and attention_mask alone"),
        (
            {"inputs_embeds": np.ones((2, 8))},
            r"got inputs_embeds \[1, 2, 8\] in .*, expected \[batch, sequence, 4\]",
        ),
        ({"inputs_embeds": np.ones((2, 8, 5))}, r"expected \[batch, sequence, 4\]"),
        ({"inputs_embeds": np.ones((2, 8, 4), int)}, "expected rows of real numbers"),
        ({"inputs_embeds": np.ones((2, 72, 4))}, "expected rows of at most 64 tokens"),
        ({"inputs_embeds": np.asfortranarray(VECTORS)}, "in Fortran order"),
        (
            {"inputs_embeds": VECTORS, "attention_mask": MASK[:, :7]},
            r"attention_mask \[5, 7\], expected \[batch, sequence, 4\] and \[batch, sequence\]",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.npz")


def test_bad_rows_are_lines_with_an_error(tmp_path: Path) -> None:
    vectors = VECTORS.copy()
    vectors[2, 5, 1] = np.nan
    np.savez(tmp_path / "a.npz", inputs_embeds=vectors)
    errors = [line.error for line in read(tmp_path / "a.npz")]
    assert errors[:2] == [None, None]
    assert errors[2] == (
        "inputs_embeds: got a number that is not finite in float32 at position 5, expected finite numbers; "
        "mend the vectors, or mask and zero what is padding"
    )
    np.savez(tmp_path / "b.npz", inputs_embeds=VECTORS[:, :7])
    assert "got 7 tokens, expected up to 4, or multiples of" in str(read(tmp_path / "b.npz")[0].error)


def test_text_and_json_are_not_vectors(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc\n")
    (tmp_path / "a.jsonl").write_text('{"input_ids": [1, 2]}\n')
    for name in ("a.txt", "a.jsonl"):
        assert "give them in a .npz file with inputs_embeds" in str(read(tmp_path / name)[0].error)
    ids = READER.check(0, "here", np.array([1, 2]), None)
    assert (
        ids.error == "got inputs_embeds of shape [2] and type int64, expected rows of 4 real numbers; mend it"
    )


def test_a_file_of_vectors_becomes_a_file_of_outputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs_embeds=VECTORS, attention_mask=MASK)
    for name in ("b.npz", "b.jsonl"):
        with (
            load(write_vector_artifact(tmp_path / name[2:]), provider="cpu") as runtime,
            open_file(tmp_path / "a.npz", SequenceReader.of(runtime)) as source,
            open_output(Output(tmp_path / name), runtime, source, Batching(2)) as writer,
        ):
            assert run_batches(runtime, source, writer, Batching(2)).sequences == 5
    found = np.load(tmp_path / "b.npz")
    assert sorted(found) == ["attention_mask", "index", "last_hidden_state"]
    ones = MASK[..., None].astype(np.float32)
    expected = (VECTORS.astype(np.float32) + ones) * ones
    np.testing.assert_array_equal(found["last_hidden_state"], expected)
    assert '"input_ids"' not in (tmp_path / "b.jsonl").read_text()


def test_batches_are_of_one_length_and_windows_count_vectors(tmp_path: Path) -> None:
    """Only sequences that attend densely may be padded to one another; others have a length of their own."""
    lengths = [8, 16, 3, 8, 1, 16, 4]
    lines = [
        InputLine(i, "", InputSequence(np.full((length, 4), i, np.float32)))
        for i, length in enumerate(lengths)
    ]
    with (
        load(write_vector_artifact(tmp_path / "out"), provider="cpu") as runtime,
        open_output(
            Output(tmp_path / "b.npz"), runtime, source := GivenSequences(lines), Batching(4)
        ) as writer,
    ):
        totals = run_batches(runtime, source, writer, Batching(4))
    assert totals.cells - totals.tokens == 4  # of the lengths 1, 3 and 4 together
    rows = np.load(tmp_path / "b.npz")["last_hidden_state"]
    for index, length in enumerate(lengths):
        assert (rows[index, :length] == index + 1).all()
    large = [InputLine(i, "", InputSequence(np.zeros((2**20, 64), np.float32))) for i in range(2)]
    windows = windows_from_lines(large, Batching(8), make_vector_spec())
    assert [len(window) for window in windows] == [1, 1]
