"""Files of any size through a runtime: read, put into batches, run and written, a window at a time."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.batch.batching import Batching, Totals, run_window, windows_from_lines
from reformer_export.batch.outputs import Output, ResultWriter, SelectingWriter, open_whole_file
from reformer_export.batch.results import SequenceResult
from reformer_export.batch.resume import Identity, Say, open_resumable_file
from reformer_export.batch.selection import OutputSelection, find_tokenizer, list_token_texts
from reformer_export.batch.sequences import InputLine, Source
from reformer_export.errors import InputError
from reformer_export.runtimes import LeftPaddingWarning, Runtime


def refuse_bad_line(line: InputLine) -> None:
    """InputError for a line that the model does not take."""
    if line.error is not None:
        raise InputError(f"{line.where}: {line.error}")


def end_at_bad_line(line: InputLine) -> None:
    """As `refuse_bad_line`, where `on_error` could be another; if the first is bad, all may be."""
    if line.index > 0 and line.error is not None:
        raise InputError(f'{line.where}: {line.error}, or pass over such lines with `on_error="skip"`')
    refuse_bad_line(line)


def run_batches(
    runtime: Runtime,
    source: Source,
    writer: ResultWriter,
    batching: Batching,
    on_line: Callable[[InputLine], None] = refuse_bad_line,
    on_progress: Callable[[int, float], None] = lambda lines, position: None,
) -> Totals:
    """Run what the source holds and give it to `writer`, in order; few lines are in memory at a time.

    with load("OUT") as runtime, open_file(Path("all.jsonl"), SequenceReader.of(runtime)) as source:
        batching = Batching(rows=32)
        with open_output(Output(Path("out.jsonl"), resume=True), runtime, source, batching) as writer:
            totals = run_batches(runtime, source, writer, batching)

    Args:
        runtime: what runs them.
        source: the sequences.
        writer: takes the results, and the bad lines that `on_line` lets pass.
        batching: how sequences become batches.
        on_line: sees every line as it is read; what it raises ends the run.
        on_progress: told how many lines are done and up to where that is in the unit of `source.progress`;
            the lines of a window are taken as equally long.

    Returns:
        What was done, by an interrupted run that this one goes on with too.

    Raises:
        InputError: a line is bad, or there is none.
    """
    totals, done, position = writer.begun, 0, float(source.progress[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeftPaddingWarning)  # which the lines' own warnings have said
        for window in windows_from_lines(_shown_to(on_line, source), batching, runtime.spec):
            units_a_line = (source.progress[0] - position) / len(window)

            def advance(lines: int, units_a_line: float = units_a_line) -> None:
                nonlocal done, position
                done += lines
                position += lines * units_a_line
                if lines:
                    on_progress(done, position)

            results, added = run_window(runtime, window, batching, advance)
            for result in results:
                if isinstance(result, SequenceResult):
                    writer.write(result)
                else:
                    writer.write_error(result)
            totals += added
            writer.end_window(source.consumed, totals)
    if totals.sequences + totals.skipped == 0:
        raise InputError("file", "a file without a line", "at least one sequence", "fill it")
    return totals


def _shown_to(on_line: Callable[[InputLine], None], source: Source) -> Iterator[InputLine]:
    for line in source:
        on_line(line)
        yield line


@contextmanager
def open_output(
    output: Output,
    runtime: Runtime,
    source: Source,
    batching: Batching,
    say: Say = lambda sentence: None,
) -> Iterator[ResultWriter]:
    """A writer for what `run_batches` makes; the output appears when the block ends well.

    A .jsonl file of a source that another process can read again keeps its lines when the block ends early,
    and with `output.resume` an interrupted run's are gone on with, if artifact, runtime and batching are the
    same: `say` tells.
    """
    if output.resume and not source.resumable:
        got, fix = "an input that can be read only once", "leave `resume` out"
        raise InputError("resume", got, "`file` with a file", fix)
    if output.is_jsonl and source.resumable:
        identity = {
            **identify_run(runtime, batching),
            "format": source.format,
            **output.selection.identity,
        }
        opened = open_resumable_file(output, source, identity, say)
    else:
        opened = open_whole_file(output.path)
    with opened as writer:
        yield select_results(writer, output.selection, runtime, has_arrays=output.is_npz)


def select_results(
    writer: ResultWriter, selection: OutputSelection, runtime: Runtime, *, has_arrays: bool = False
) -> ResultWriter:
    """`writer` for what `selection` keeps of the results; with `has_arrays`, texts are numpy's."""
    spec = runtime.spec
    if selection.keeps_all:
        return writer
    selection.check(spec)
    tokenizer = None if selection.top_k is None else find_tokenizer(runtime)
    texts: NDArray[Any] | None = None
    if tokenizer is not None:
        texts = list_token_texts(tokenizer, spec.vocab_size)
        texts = texts.astype(np.str_) if has_arrays else texts
    return SelectingWriter(writer, lambda result: selection.select(result, spec, texts))


def identify_run(runtime: Runtime, batching: Batching) -> Identity:
    """What of the artifact, its runtime and the options decides results, to the last bit."""
    files = json.dumps(runtime.manifest.files, sort_keys=True)
    return {
        "artifact": hashlib.sha256(files.encode()).hexdigest(),
        "execution": runtime.description,
        "engine": None if runtime.record is None else runtime.record.engine_sha256,
        **asdict(batching),
    }
