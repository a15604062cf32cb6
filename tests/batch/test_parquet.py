"""Parquet in and out: what a row says, what goes along with it, and files that do not fit."""

from __future__ import annotations

import datetime
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export import run_files
from reformer_export.batch import InputLine, SequenceReader, open_file
from reformer_export.batch.files_request import PART_FORMATS
from reformer_export.batch.selection import OutputSelection
from reformer_export.batch.sequences import RowRange
from reformer_export.errors import InputError, MissingDependencyError
from reformer_export.runtimes import RuntimeOptions
from reformer_export.spec import LogitsPositions, Task
from tests.batch.test_sources import ByteTokenizer
from tests.cli.test_hostile import measure
from tests.runtimes.artifacts import make_spec, next_token_table, write_artifact

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ONE_THREAD = RuntimeOptions(threads=1)


def read(path: Path, rows: RowRange | None = None) -> list[InputLine]:
    reader = SequenceReader(make_spec(), 64, ByteTokenizer)
    with open_file(path, reader, rows=rows) as source:
        return list(source)


@pytest.fixture(scope="module")
def table() -> Any:
    generator = random.Random(0)
    rows = [[generator.randrange(258) for _ in range(generator.randint(1, 20))] for _ in range(1000)]
    masks = [None if number % 3 else [1] * len(row) for number, row in enumerate(rows)]
    return pa.table(
        {
            "id": pa.array(range(1000), pa.uint16()),
            "input_ids": pa.array(rows, pa.large_list(pa.int32())),
            "at": pa.array(range(1000), pa.timestamp("ns")),
            "kind": pa.array(["ab"[number % 2] for number in range(1000)]).dictionary_encode(),
            "attention_mask": pa.array(masks, pa.list_(pa.int8())),
            "nested": [{"a": [number], "b": None} for number in range(1000)],
        }
    )


@settings(max_examples=40, deadline=None)
@given(group=st.integers(1, 1200), first=st.integers(0, 999), length=st.integers(1, 1000))
def test_any_range_of_rows_of_any_row_groups(
    table: Any, tmp_path_factory: pytest.TempPathFactory, group: int, first: int, length: int
) -> None:
    path = tmp_path_factory.mktemp("range") / "a.parquet"
    pq.write_table(table, path, row_group_size=group)
    end = min(first + length, 1000)
    lines = read(path, RowRange(first, end))
    assert [line.index for line in lines] == list(range(first, end))
    expected = table.slice(first, end - first)
    for number in {0, len(lines) // 2, len(lines) - 1}:
        line, row = lines[number], expected.slice(number, 1)
        assert line.sequence is not None
        assert line.sequence.ids.tolist() == row["input_ids"][0].as_py()
        mask = line.sequence.mask
        assert (None if mask is None else mask.tolist()) == row["attention_mask"][0].as_py()
    extra = pa.Table.from_batches([line.extra for line in lines]).unify_dictionaries()
    assert extra.equals(expected.drop_columns(["input_ids", "attention_mask"]))


def test_rows_that_say_nothing_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["ab", None, "", "c"]}), tmp_path / "a.parquet")
    lines = read(tmp_path / "a.parquet")
    assert [line.error is None for line in lines] == [True, False, False, True]
    assert "got null for text" in str(lines[1].error)
    assert lines[1].where == f"{tmp_path / 'a.parquet'}, row 1"
    ids = pa.array([[5, None], None, [], [5, 300], [7]], pa.list_(pa.int64()))
    pq.write_table(pa.table({"input_ids": ids}), tmp_path / "b.pq")
    errors = [line.error or "" for line in read(tmp_path / "b.pq")]
    for error, words in zip(
        errors, ("null among input_ids", "null for", "shape [0]", "ids from 0 to 257", ""), strict=True
    ):
        assert words in error


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1]}, "got the columns id in"),
        ({"text": ["a"], "input_ids": [[5]]}, "got the columns input_ids, text in"),
        ({"text": ["a"], "attention_mask": [[1]]}, "either text, or input_ids"),
        ({"text": [b"a"]}, "got text of type binary in .*, expected strings"),
        ({"input_ids": [[0.5]]}, "got input_ids of type list<.*: double> in"),
        ({"input_ids": [5]}, "expected lists of integers"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.parquet")


def test_damaged_files_are_refused(table: Any, tmp_path: Path) -> None:
    """Whatever bytes change: rows, or one of our errors."""
    path = tmp_path / "a.parquet"
    pq.write_table(table.slice(0, 50), path)
    content = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice([len(damaged), generator.randrange(len(damaged))])])
        try:
            read(path)
        except InputError:
            refused += 1
    assert refused > 50


def results(folder: Path) -> Iterator[Any]:
    yield from (pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def test_ids_and_all_other_columns_go_through(table: Any, tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", "text-generation")
    given = table.slice(0, 30)
    pq.write_table(given, tmp_path / "a.parquet", row_group_size=7)
    run_files(out, files=[tmp_path / "a.parquet"], output=tmp_path / "r", part_rows=11, runtime=ONE_THREAD)
    made = pa.concat_tables(results(tmp_path / "r")).unify_dictionaries()
    assert made["index"].to_pylist() == list(range(30))
    for name in given.column_names:
        assert made[name].cast(given[name].type).equals(given[name]), name
    assert made["error"].null_count == 30
    answers = next_token_table(258)
    for ids, logits in zip(made["input_ids"].to_pylist(), made["logits"].to_pylist(), strict=True):
        np.testing.assert_array_equal(np.array(logits, np.float32), answers[ids])


def test_bad_rows_keep_their_place_and_their_columns(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", "text-generation")
    ids = pa.array([[5, 6], None, [7], [300]], pa.list_(pa.int64()))
    when = [datetime.date(2020, 1, day) for day in range(1, 5)]
    pq.write_table(pa.table({"input_ids": ids, "day": when}), tmp_path / "a.parquet")
    fields: dict[str, Any] = {"files": tmp_path / "a.parquet", "on_error": "skip", "runtime": ONE_THREAD}
    selection = OutputSelection(top_k=2, last=True)
    manifest = run_files(out, output=tmp_path / "r", part_rows=2, selection=selection, **fields)
    assert (manifest.totals.sequences, manifest.totals.skipped) == (2, 2)
    first, second = results(tmp_path / "r")
    assert first.schema == second.schema
    made = pa.concat_tables([first, second])
    assert made["day"].to_pylist() == when
    assert [ids and ids[0][0] for ids in made["top_ids"].to_pylist()] == [7, None, 8, None]
    assert [error is None for error in made["error"].to_pylist()] == [True, False, True, False]
    with pytest.raises(InputError, match=r"got the column day of type date32\[day\], expected one that JSON"):
        run_files(out, output=tmp_path / "j", part_format="jsonl", **fields)


def test_a_column_named_as_a_result_is_refused(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", "text-generation")
    pq.write_table(pa.table({"input_ids": [[5]], "logits": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="got the column logits, expected names that no column"):
        run_files(out, files=tmp_path / "a.parquet", output=tmp_path / "r", runtime=ONE_THREAD)
    assert not list((tmp_path / "r").glob("*.parquet"))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingDependencyError, match=r"pip install 'reformer-export\[parquet\]'"):
        read(tmp_path / "a.parquet")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    """Four times the rows, all of one row group, cost no more memory, once a few of its pages were seen."""
    out = write_artifact(tmp_path / "out", "text-classification")
    generator = np.random.default_rng(0)
    growth = []
    for count in (10_000, 40_000):
        rows = [generator.integers(0, 258, 12) for _ in range(count)]
        texts = [generator.bytes(100).hex() for _ in range(count)]
        path = tmp_path / f"{count}.parquet"
        pq.write_table(pa.table({"input_ids": rows, "text beside": texts}), path, row_group_size=count)
        target = tmp_path / str(count)
        measured = measure("run", out, "--file", path, "--output", target, "--batch-size", 32, "--threads", 1)
        assert measured.outcome.status == 0, measured.outcome
        growth.append(measured.growth)
    assert growth[1] < growth[0] + 12, growth


@pytest.mark.parametrize(
    ("task", "logits"),
    [
        ("text-generation", "last"),
        ("fill-mask", "all"),
        ("text-classification", "all"),
        ("question-answering", "all"),
        ("feature-extraction", "all"),
    ],
)
def test_every_task_has_its_columns(tmp_path: Path, task: Task, logits: LogitsPositions) -> None:
    """The values are those of JSON lines."""
    out = write_artifact(tmp_path / "out", task, logits=logits)
    (tmp_path / "a.jsonl").write_text(
        '{"input_ids": [5, 6, 7], "id": 3}\n{"input_ids": [300]}\n{"input_ids": [8]}\n'
    )
    for kind in PART_FORMATS:
        fields: dict[str, Any] = {"on_error": "skip", "runtime": ONE_THREAD, "part_format": kind}
        run_files(out, files=tmp_path / "a.jsonl", output=tmp_path / kind, **fields)
    (made,) = results(tmp_path / "parquet")
    (path,) = (tmp_path / "jsonl").glob("*.jsonl")
    assert made["fields"].to_pylist() == ['{"id": 3}', None, None]
    for row, line in zip(made.drop_columns("fields").to_pylist(), path.read_text().splitlines(), strict=True):
        values = {name: value for name, value in row.items() if value is not None}
        expected = json.loads(line)
        assert values.keys() == expected.keys() - {"fields"}
        for name, value in values.items():
            assert value == expected[name] or np.array_equal(value, np.array(expected[name], np.float32)), (
                name
            )


def test_texts_of_tokens_are_whole(tmp_path: Path) -> None:
    """Of every byte, those that no text can end in among them."""
    out = write_artifact(tmp_path / "out", "text-generation")
    (tmp_path / "a.txt").write_text("ab\n")
    for kind in PART_FORMATS:
        selection = OutputSelection(top_k=258)
        fields: dict[str, Any] = {"selection": selection, "runtime": ONE_THREAD, "part_format": kind}
        run_files(out, files=tmp_path / "a.txt", output=tmp_path / kind, **fields)
    (made,) = results(tmp_path / "parquet")
    (path,) = (tmp_path / "jsonl").glob("*.jsonl")
    assert made["top_texts"].to_pylist() == [json.loads(path.read_text())["top_texts"]]
