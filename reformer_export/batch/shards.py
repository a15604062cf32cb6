"""Many files into a folder, a part at a time, alone or as one of several shards on as many machines.

A part is so many rows of one input: its name and bytes depend on these and the options alone, so that it
does not matter who makes it, when, and how often. It is written beside its place and renamed when it is
whole; what is finished is in the shard's manifest, and is not made again.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from reformer_export.artifact.files import output_error, remove_torn, replace_file, sha256_of_file
from reformer_export.batch import resume
from reformer_export.batch.files_request import FilesFields, FilesRequest, PartFormat
from reformer_export.batch.outputs import JsonLinesWriter, ResultWriter
from reformer_export.batch.parquet import import_pyarrow, require_json_types
from reformer_export.batch.parquet_output import ParquetColumns, list_outputs, open_parquet
from reformer_export.batch.parts import InputFile, Part, find_files, plan_parts, scan_file
from reformer_export.batch.resume import Say, lock_stream
from reformer_export.batch.run import end_at_bad_line, identify_run, run_batches, select_results
from reformer_export.batch.selection import find_tokenizer
from reformer_export.batch.sequences import InputLine, SequenceReader, Source
from reformer_export.batch.shard_manifest import (
    PartRecord,
    Shard,
    ShardManifest,
    describe_inputs,
    read_finished,
    refuse_link,
)
from reformer_export.batch.sources import open_file
from reformer_export.errors import InputError, OutputError
from reformer_export.runtimes import Runtime, load
from reformer_export.runtimes.options import options_from_fields

if TYPE_CHECKING:
    from typing_extensions import Unpack


def run_files(
    out: str | os.PathLike[str], request: FilesRequest | None = None, **fields: Unpack[FilesFields]
) -> ShardManifest:
    """Run the artifact `out` over files into a folder: all of them, or one shard's parts.

    Args:
        out: the artifact's folder, or its hub id.
        request: what to do; or its `fields` as keywords.

    Returns:
        What the shard's manifest says.

    Raises:
        InputError: a field or a row is at fault, or the folder holds another run's parts.
        OutputError: the folder cannot be written, or another process writes this shard.
    """
    request = options_from_fields(FilesRequest, request, fields)
    with load(out, request.runtime) as runtime:
        return run_shard(runtime, request)


def run_shard(
    runtime: Runtime,
    request: FilesRequest,
    on_line: Callable[[InputLine], None] | None = None,
    say: Say = lambda sentence: None,
) -> ShardManifest:
    """`run_files` with an open `runtime`; `on_line` is shown every line, in place of what `on_error` asks,
    and `say` gets a sentence a part."""
    request.selection.check(runtime.spec)
    shard, folder = Shard.parse(request.shard), request.output
    files = [scan_file(path, request.line_format, request.part_rows) for path in find_files(request.files)]
    if not any(file.rows for file in files):
        raise InputError("file", "files without a row", "at least one sequence", "fill one")
    maker = _PartMaker(runtime, request, files, on_line)
    parts = shard.select(plan_parts(files, request.part_rows, f".{maker.part_format}"))
    manifest = ShardManifest(str(shard), maker.options, describe_inputs(files))
    with _hold_shard(folder, shard):
        manifest = read_finished(folder, manifest, parts)
        remove_torn(folder, (shard.manifest_name, *(part.name for part in parts)))
        manifest.write(folder / shard.manifest_name)
        read_finished(folder, manifest, parts)  # a shard that began in the same moment may be of another run
        if manifest.parts:
            say(f"{len(manifest.parts)} of {len(parts)} parts are finished: they are kept.")
        return _make_parts(maker, manifest, parts, folder, say)


def _make_parts(
    maker: _PartMaker, manifest: ShardManifest, parts: Sequence[Part], folder: Path, say: Say
) -> ShardManifest:
    """Make those `parts` that `manifest` does not have; on disk it may be a second behind until the end."""
    path = folder / Shard.parse(manifest.shard).manifest_name
    records = {record.name: record for record in manifest.parts}
    saved = time.monotonic()
    try:
        for number, part in enumerate(parts, 1):
            if part.name in records:
                continue
            begun = time.perf_counter()
            record = records[part.name] = maker.make(part, folder)
            rate = record.totals.sequences / max(time.perf_counter() - begun, 1e-9)
            say(f"Part {number} of {len(parts)}: {part.name} ({rate:.4g} sequences/s)")
            if time.monotonic() - saved >= resume.STATE_SECONDS:
                _with_parts(manifest, records, parts).write(path)
                saved = time.monotonic()
    finally:
        manifest = _with_parts(manifest, records, parts)
        manifest.write(path)
    return manifest


def _with_parts(
    manifest: ShardManifest, records: Mapping[str, PartRecord], parts: Sequence[Part]
) -> ShardManifest:
    """`manifest` with `records`, in the order of `parts`, which are all that its shard has to make."""
    done = tuple(records[part.name] for part in parts if part.name in records)
    return dataclasses.replace(manifest, parts=done, finished=len(done) == len(parts))


class _PartMaker:
    """Makes the file of a part."""

    def __init__(
        self,
        runtime: Runtime,
        request: FilesRequest,
        files: Sequence[InputFile],
        on_line: Callable[[InputLine], None] | None,
    ) -> None:
        self._runtime = runtime
        self._request = request
        self._files = files
        self._reader = SequenceReader.of(runtime)
        stops = end_at_bad_line if request.on_error == "stop" else _pass_line
        self._on_line = on_line or stops
        all_parquet = all(file.format == "parquet" for file in files)
        self.part_format: PartFormat = request.part_format or ("parquet" if all_parquet else "jsonl")
        if self.part_format == "parquet":
            import_pyarrow()

    @property
    def options(self) -> dict[str, str | int | bool | None]:
        """What decides the parts' names and bytes, besides the inputs."""
        return {
            **identify_run(self._runtime, self._request.batching),
            **self._request.selection.identity,
            "part_rows": self._request.part_rows,
            "part_format": self.part_format,
        }

    def make(self, part: Part, folder: Path) -> PartRecord:
        """Write `part` into `folder`; nothing is there when a row ends the run."""
        file, path = self._files[part.input], folder / part.name
        refuse_link(path)
        line_format = None if file.format == "parquet" else file.format
        with (
            open_file(file.path, self._reader, line_format, part.rows) as source,
            replace_file(path, removes_torn=False) as stream,  # run_shard has removed all of its own
            self._open_writer(stream, source) as writer,
        ):
            selecting = select_results(writer, self._request.selection, self._runtime)
            totals = run_batches(self._runtime, source, selecting, self._request.batching, self._on_line)
            file.require_unchanged()
        rows, size = part.rows, path.stat().st_size
        return PartRecord(part.name, part.input, rows.first, rows.end, totals, size, sha256_of_file(path))

    @contextmanager
    def _open_writer(self, stream: BinaryIO, source: Source) -> Iterator[ResultWriter]:
        if self.part_format == "jsonl":
            require_json_types(source.extra_schema)
            yield JsonLinesWriter(stream, keeps_extra=True)
            return
        selection = self._request.selection
        has_texts = selection.top_k is not None and find_tokenizer(self._runtime) is not None
        outputs = list_outputs(self._runtime.spec, selection, has_texts=has_texts)
        with open_parquet(stream, ParquetColumns(outputs, source.extra_schema)) as writer:
            yield writer


def _pass_line(line: InputLine) -> None:
    pass


@contextmanager
def _hold_shard(folder: Path, shard: Shard) -> Iterator[None]:
    """Make the folder, and keep other processes of this machine from the shard during the block."""
    lock = folder / f".{shard.manifest_name}.lock"
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            "output", f"{folder}, a file", "a folder, for several files or shards", "choose another"
        )
    if not folder.parent.is_dir():
        raise OutputError("output", f"{folder}, whose folder does not exist", "one", "make it first")
    try:
        folder.mkdir(exist_ok=True)
        refuse_link(lock)
        with lock.open("ab") as stream:
            lock_stream(stream, folder / shard.manifest_name)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
