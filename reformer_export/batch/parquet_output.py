"""Results as Parquet: a row a line of the input, bad ones too, in the types that the artifact's task has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.batch.outputs import ResultWriter
from reformer_export.batch.parquet import fields_from_extra, import_pyarrow
from reformer_export.batch.results import SequenceResult
from reformer_export.batch.selection import OutputSelection
from reformer_export.batch.sequences import InputLine
from reformer_export.errors import InputError
from reformer_export.spec import ModelSpec

GROUP_ROWS: Final = 1024
GROUP_BYTES: Final = 2**26
"""A row group ends with the row that reaches one of them."""

COUNTED_ALONE: Final = ("text-classification", "question-answering")
"""Tasks whose outputs of a sequence have one axis; others have [tokens, numbers]."""


@dataclass(frozen=True)
class ParquetColumns:
    """What a file of results holds, whatever its rows are.

    Attributes:
        outputs: by name, numpy's kind of the values, or str for texts, and how many axes a sequence has.
        extra: a pyarrow.Schema of the input's other columns; None where the input is lines, whose other
            fields are written as JSON in the column `fields`.
    """

    outputs: dict[str, tuple[type, int]]
    extra: Any = None
    schema: Any = field(init=False)

    def __post_init__(self) -> None:
        pyarrow, _ = import_pyarrow()
        ids = pyarrow.list_(pyarrow.int64())
        extra = [pyarrow.field("fields", pyarrow.string())] if self.extra is None else list(self.extra)
        columns = {"index": pyarrow.int64(), "input_ids": ids, "attention_mask": ids}
        for name, (kind, axes) in self.outputs.items():
            value = pyarrow.string() if kind is str else pyarrow.from_numpy_dtype(kind)
            columns[name] = pyarrow.list_(value) if axes == 1 else pyarrow.list_(pyarrow.list_(value))
        columns["error"] = pyarrow.string()
        taken = [each.name for each in extra if each.name in columns]
        if taken:
            expected = "names that no column of the results has"
            raise InputError("file", f"the column {taken[0]}", expected, "rename it, or leave it out")
        own = [pyarrow.field(name, kind) for name, kind in columns.items()]
        object.__setattr__(self, "schema", pyarrow.schema([own[0], *extra, *own[1:]]))


def list_outputs(
    spec: ModelSpec, selection: OutputSelection, *, has_texts: bool
) -> dict[str, tuple[type, int]]:
    """The outputs of `spec`'s model of which `selection` is kept; `has_texts`: its tokens have texts."""
    if selection.top_k is not None:
        kinds: dict[str, type] = {
            "top_ids": np.int64,
            "top_logits": np.float32,
            "top_probabilities": np.float32,
        }
        if has_texts:
            kinds["top_texts"] = str
        return {name: (kind, 2) for name, kind in kinds.items()}
    axes = 1 if spec.task in COUNTED_ALONE else 2
    return dict.fromkeys(spec.output_names, (np.float32, axes))


@contextmanager
def open_parquet(stream: BinaryIO, columns: ParquetColumns) -> Iterator[ResultWriter]:
    """A writer of Parquet into `stream`, which is whole when the block ends well."""
    _, parquet = import_pyarrow()
    with parquet.ParquetWriter(stream, columns.schema) as file:
        writer = _ParquetWriter(file, columns)
        yield writer
        writer.flush()


class _ParquetWriter(ResultWriter):
    """Rows wait until they are a row group: where it ends depends on the rows alone."""

    def __init__(self, file: Any, columns: ParquetColumns) -> None:
        self._file = file
        self._columns = columns
        self._rows: list[SequenceResult | InputLine] = []
        self._bytes = 0

    def write(self, result: SequenceResult) -> None:
        self._add(result, sum(values.nbytes for values in result.outputs.values()))

    def write_error(self, line: InputLine) -> None:
        self._add(line, 0)

    def _add(self, row: SequenceResult | InputLine, size: int) -> None:
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait, if any do."""
        if not self._rows:
            return
        pyarrow, _ = import_pyarrow()
        rows, self._rows, self._bytes = self._rows, [], 0
        good = [row if isinstance(row, SequenceResult) else None for row in rows]
        masks = [None if row is None else row.sequence.mask for row in good]
        arrays = {
            "index": pyarrow.array([row.index for row in rows], pyarrow.int64()),
            **self._list_extra(rows),
            "input_ids": _lists_from_rows(
                [None if row is None else row.sequence.ids for row in good], np.int64
            ),
            "attention_mask": _lists_from_rows(masks, np.int64),
        }
        for name, (kind, axes) in self._columns.outputs.items():
            values = [None if row is None else row.outputs[name] for row in good]
            arrays[name] = _lists_from_rows(values, kind, axes)
        errors = [row.error if isinstance(row, InputLine) else None for row in rows]
        arrays["error"] = pyarrow.array(errors, pyarrow.string())
        schema = self._columns.schema
        columns = [arrays[name] for name in schema.names]
        self._file.write_table(pyarrow.Table.from_arrays(columns, schema=schema), row_group_size=len(rows))

    def _list_extra(self, rows: Sequence[SequenceResult | InputLine]) -> dict[str, Any]:
        """The input's other columns of `rows`."""
        pyarrow, _ = import_pyarrow()
        if self._columns.extra is None:
            texts = [None if row.extra is None else json.dumps(fields_from_extra(row.extra)) for row in rows]
            return {"fields": pyarrow.array(texts, pyarrow.string())}
        names = self._columns.extra.names
        if not names:
            return {}
        table = pyarrow.Table.from_batches([row.extra for row in rows]).unify_dictionaries()
        return {name: table.column(name) for name in names}


def _lists_from_rows(rows: Sequence[NDArray[Any] | None], kind: type, axes: int = 1) -> Any:
    """A pyarrow list array of rows [length], or, with two axes, [length, width], of which None is null."""
    pyarrow, _ = import_pyarrow()
    given = [row for row in rows if row is not None]
    values = np.concatenate([row.reshape(-1) for row in given]) if given else np.zeros(0, np.int64)
    flat = (
        pyarrow.array(values.tolist(), pyarrow.string())
        if kind is str
        else pyarrow.array(values.astype(kind))
    )
    if axes == 2:
        widths = [row.shape[1] for row in given for _ in range(len(row))]
        flat = pyarrow.ListArray.from_arrays(_offsets_from_lengths(widths), flat)
    offsets = _offsets_from_lengths([0 if row is None else len(row) for row in rows])
    return pyarrow.ListArray.from_arrays(offsets, flat, mask=pyarrow.array([row is None for row in rows]))


def _offsets_from_lengths(lengths: Sequence[int]) -> Any:
    pyarrow, _ = import_pyarrow()
    return pyarrow.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32))
