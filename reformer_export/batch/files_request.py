"""A run over files into a folder, in one description: for the command line and for programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypedDict, get_args

from reformer_export.batch.batching import Batching
from reformer_export.batch.lines import LineFormat
from reformer_export.batch.selection import KEEP_ALL, OutputSelection
from reformer_export.batch.shard_manifest import Shard
from reformer_export.errors import InputError
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.runtimes.sampling import require_integer

PartFormat = Literal["jsonl", "parquet"]
OnError = Literal["stop", "skip"]

PART_FORMATS: Final[tuple[PartFormat, ...]] = get_args(PartFormat)
PART_ROWS: Final = 10_000


@dataclass(frozen=True)
class FilesRequest:
    """A run over files into a folder; InputError where its fields do not fit together.

    Attributes:
        files: paths and globs of .jsonl, .ndjson, .txt and .parquet files; each file once.
        output: the folder, which is made if it is not there. What a run of the same options, artifact and
            inputs has finished there is kept; one of others is refused.
        shard: "I/N": of N machines, this is number I, from 0, and makes every N-th part.
        part_rows: rows of an input that make one file of the output.
        part_format: "jsonl" or "parquet"; None for Parquet where all inputs are that.
        line_format: what the lines of the files are; None for what their names say.
        on_error: what a bad row does: "stop" ends the run, "skip" writes what is wrong in its place.
        batching: which rows run together, within a part.
        selection: what is kept of logits.
        runtime: how the artifact is opened.
    """

    files: tuple[str | Path, ...]
    output: Path
    shard: str = "0/1"
    part_rows: int = PART_ROWS
    part_format: PartFormat | None = None
    line_format: LineFormat | None = None
    on_error: OnError = "stop"
    batching: Batching = field(default_factory=Batching)
    selection: OutputSelection = KEEP_ALL
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)

    def __post_init__(self) -> None:
        if isinstance(self.files, str | Path):
            object.__setattr__(self, "files", (self.files,))
        check_field_types(self)
        if not self.files:
            raise InputError("file", "none", "at least one", "name a file, or a glob")
        Shard.parse(self.shard)
        require_integer("part_rows", self.part_rows, 1)


class FilesFields(TypedDict, total=False):
    """The fields of `FilesRequest` as keywords, for type checkers and editors."""

    files: Sequence[str | Path] | str
    output: str | os.PathLike[str]
    shard: str
    part_rows: int
    part_format: PartFormat | None
    line_format: LineFormat | None
    on_error: OnError
    batching: Batching
    selection: OutputSelection
    runtime: RuntimeOptions
