"""Rows of a Parquet file, a few at a time: a column `text`, or `input_ids` (and `attention_mask`).

The other columns go along with their rows, as they are. pyarrow is imported when such a file is opened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.files import finite_values
from reformer_export.batch.sequences import (
    SEQUENCE_FIELDS,
    VECTOR_FILES,
    InputLine,
    RowRange,
    SequenceReader,
    Source,
)
from reformer_export.errors import InputError, MissingDependencyError, one_line

PARQUET_SUFFIXES: Final = (".parquet", ".pq")
BATCH_ROWS: Final = 256
"""Rows that are unpacked at once."""

BROKEN: Final = (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, NotImplementedError)
"""What pyarrow raises besides its own errors on files that were damaged, or made to do damage."""

BUFFER_BYTES: Final = 2**20
"""What is read of a column at once: a row group may be larger than the memory."""


def import_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet; MissingDependencyError names the extra that brings them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        fix = "pip install 'reformer-export[parquet]'"
        raise MissingDependencyError("pyarrow", f"'{error}'", "the package, for Parquet", fix) from error
    return pyarrow, pyarrow.parquet


def fields_from_extra(extra: Any) -> Any:
    """What else stood in an input's line, as JSON values; InputError for text that is no UTF-8."""
    try:
        return finite_values(extra if isinstance(extra, dict) else extra.to_pylist()[0])
    except UnicodeDecodeError as error:
        got = f"bytes that are no UTF-8 in one of the columns {', '.join(extra.schema.names[:8])}"
        raise InputError("file", got, "text", "convert it, or write Parquet") from error


def require_json_types(schema: Any) -> None:
    """InputError for a column of `schema`, a pyarrow.Schema or None, that JSON has no values for."""
    for field in schema or ():
        if not _is_json(field.type):
            fix = "write Parquet, or leave the column out"
            raise InputError(
                "file", f"the column {field.name} of type {field.type}", "one that JSON has", fix
            )


def _is_json(kind: Any) -> bool:
    pyarrow, _ = import_pyarrow()
    types = pyarrow.types
    if types.is_nested(kind) and not types.is_map(kind) and not types.is_union(kind):
        return all(_is_json(kind.field(number).type) for number in range(kind.num_fields))
    if types.is_dictionary(kind):
        return _is_json(kind.value_type)
    texts = types.is_string(kind) or types.is_large_string(kind)
    return texts or any(
        is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    )


@contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Turn what pyarrow and the system raise in the block over the file `path` into an InputError."""
    pyarrow, _ = import_pyarrow()
    try:
        yield
    except (pyarrow.ArrowException, OSError, *BROKEN) as error:
        got = f"{path}, which pyarrow cannot read ({one_line(error)})"
        raise InputError("file", got, "a Parquet file", "check it, or write it again") from error


class ParquetSource(Source):
    """The rows of a Parquet file, or a range of them."""

    format = "parquet"

    def __init__(
        self,
        path: Path,
        reader: SequenceReader,
        resources: ExitStack,
        rows: RowRange | None = None,
    ) -> None:
        """Open the file, until `resources` are closed; InputError for columns that do not fit."""
        super().__init__()
        self._path = path
        self._reader = reader
        pyarrow, parquet = import_pyarrow()
        with reading_parquet(path):
            self._file = resources.enter_context(
                parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
            )
            self._schema = self._file.schema_arrow
            count = self._file.metadata.num_rows
        self._rows = rows or RowRange(0, count)
        self._lines = self._rows.first
        self._check_columns()
        others = [field for field in self._schema if field.name not in SEQUENCE_FIELDS]
        self.extra_schema = pyarrow.schema(others)

    @property
    def progress(self) -> tuple[int, int | None]:
        return self._lines - self._rows.first, self._rows.end - self._rows.first

    def __iter__(self) -> Iterator[InputLine]:
        extras = self.extra_schema.names
        for batch in self._read_batches():
            columns = {name: batch.column(name) for name in SEQUENCE_FIELDS if name in self._schema.names}
            others = batch.select(extras)
            for row in range(batch.num_rows):
                where = f"{self._path}, row {self._lines}"
                line = self._read_row(where, {name: column[row] for name, column in columns.items()})
                self._lines += 1
                yield dataclasses.replace(line, extra=others.slice(row, 1)) if extras else line

    def _read_batches(self) -> Iterator[Any]:
        """The rows that are left, in pyarrow's RecordBatches."""
        groups, skipped, first = [], 0, 0
        for group in range(self._file.metadata.num_row_groups):
            end = first + self._file.metadata.row_group(group).num_rows
            if end <= self._lines:
                skipped = end
            elif first < self._rows.end:
                groups.append(group)
            first = end
        position = skipped
        with reading_parquet(self._path):
            batches = self._file.iter_batches(BATCH_ROWS, row_groups=groups, use_threads=False)
        while position < self._rows.end:
            with reading_parquet(self._path):
                batch = next(batches, None)
            if batch is None:
                return
            first, position = position, position + batch.num_rows
            start = max(self._lines - first, 0)
            kept = batch.slice(start, max(min(position, self._rows.end) - first - start, 0))
            if kept.num_rows:
                yield kept

    def _read_row(self, where: str, values: dict[str, Any]) -> InputLine:
        index = self._lines
        name = "text" if "text" in values else "input_ids"
        if not values[name].is_valid:
            return InputLine(
                index, where, error=f"got null for {name}, expected a value; fill it, or leave it out"
            )
        if name == "text":
            try:
                return self._reader.read_text(index, where, values[name].as_py())
            except UnicodeDecodeError as problem:
                error = (
                    f"got no UTF-8 text ({problem.reason} at byte {problem.start}), expected text; convert it"
                )
                return InputLine(index, where, error=error)
        rows: dict[str, NDArray[Any]] = {}
        for key, value in values.items():
            numbers = _numbers_from_scalar(value) if value.is_valid else None
            if numbers is not None:
                rows[key] = numbers
            elif value.is_valid:
                return InputLine(index, where, error=f"got null among {key}, expected integers; mend it")
        return self._reader.check(index, where, rows["input_ids"], rows.get("attention_mask"))

    def _check_columns(self) -> None:
        pyarrow, _ = import_pyarrow()
        types, names = pyarrow.types, self._schema.names
        if self._reader.vector_size is not None:
            raise self._refuse("Parquet", "vectors", f"give them in {VECTOR_FILES}")
        given = [name for name in SEQUENCE_FIELDS if name in names]
        if len(set(names)) != len(names):
            raise self._refuse("two columns of one name", "a name for each", "rename one")
        if ("text" in given and len(given) > 1) or not {"text", "input_ids"} & set(given):
            got = f"the columns {', '.join(given or names[:8])}"
            expected = "either text, or input_ids (and attention_mask)"
            raise self._refuse(got, expected, "rename the column, or leave the others out")
        for name in given:
            kind = self._schema.field(name).type
            if name == "text":
                kind = kind.value_type if types.is_dictionary(kind) else kind
                fits = types.is_string(kind) or types.is_large_string(kind)
            else:
                is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
                fits = is_list and types.is_integer(kind.value_type)
            if not fits:
                expected = "strings" if name == "text" else "lists of integers"
                raise self._refuse(f"{name} of type {kind}", expected, "convert the column")

    def _refuse(self, got: str, expected: str, fix: str) -> InputError:
        return InputError("file", f"{got} in {self._path}", expected, fix)


def _numbers_from_scalar(scalar: Any) -> NDArray[Any] | None:
    """The integers [length] of a list; None where one is null."""
    values = scalar.values
    if values.null_count:
        return None
    numbers: NDArray[Any] = np.asarray(values.to_numpy(zero_copy_only=False))
    return numbers
