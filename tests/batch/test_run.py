"""`run_batches` as a server, a worker or a notebook calls it: no standard output, no terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export.batch import (
    Batching,
    GivenSequences,
    InputLine,
    InputSequence,
    Output,
    ResultWriter,
    SequenceReader,
    SequenceResult,
    Totals,
    open_file,
    open_output,
    run_batches,
)
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime, load
from tests.runtimes.artifacts import next_token_table, write_artifact


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with load(write_artifact(tmp_path / "out"), threads=1) as runtime:
        yield runtime


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten lines, the fourth of which is bad."""
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"input_ids": [5, 6, 7][: 1 + i % 3]}) if i != 3 else "{}" for i in range(10)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


class Collector(ResultWriter):
    """Keeps what it is given."""

    def __init__(self, begun: Totals = Totals()) -> None:  # noqa: B008
        self.begun = begun
        self.taken: list[InputLine | SequenceResult] = []
        self.windows: list[tuple[int, Totals]] = []

    def write(self, result: SequenceResult) -> None:
        self.taken.append(result)

    def write_error(self, line: InputLine) -> None:
        self.taken.append(line)

    def end_window(self, consumed: Any, totals: Totals) -> None:
        self.windows.append((consumed.lines, totals))


def test_a_file_of_lines(runtime: Runtime, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    writer = Collector(begun=Totals(sequences=100, tokens=100, cells=100))
    seen: list[InputLine] = []
    progress: list[tuple[int, float]] = []
    with open_file(file, SequenceReader.of(runtime)) as source:
        totals = run_batches(
            runtime,
            source,
            writer,
            Batching(rows=2, window=4),
            on_line=seen.append,
            on_progress=lambda lines, position: progress.append((lines, position)),
        )
        assert source.progress == (file.stat().st_size, file.stat().st_size)
    assert [line.index for line in seen] == [item.index for item in writer.taken] == list(range(10))
    for item in writer.taken:
        if isinstance(item, SequenceResult):
            expected = next_token_table(258)[item.sequence.ids]
            np.testing.assert_array_equal(item.outputs["logits"], expected)
    assert [type(item) for item in writer.taken].count(InputLine) == 1
    assert (totals.sequences, totals.skipped, totals.tokens) == (
        109,
        1,
        100 + 1 + 2 + 3 + 2 + 3 + 1 + 2 + 3 + 1,
    )
    assert [lines for lines, _ in writer.windows] == [4, 8, 10]
    assert writer.windows[-1][1] == totals
    assert progress == sorted(progress)
    assert progress[-1] == (10, pytest.approx(file.stat().st_size))
    whole = [position for lines, position in progress if lines == 4]
    assert whole == [pytest.approx(sum(len(line) for line in file.read_bytes().splitlines(True)[:4]))]
    assert capfd.readouterr() == ("", "")


def test_a_bad_line_ends_the_run_unless_told_otherwise(runtime: Runtime, file: Path) -> None:
    writer = Collector()
    with (
        open_file(file, SequenceReader.of(runtime)) as source,
        pytest.raises(InputError, match=r"in\.jsonl, line 4: got '\{\}', expected an object"),
    ):
        run_batches(runtime, source, writer, Batching())
    assert [item.index for item in writer.taken] == [0, 1, 2]


def test_sequences_that_are_there(runtime: Runtime) -> None:
    lines = [InputLine(i, "here", InputSequence(np.array([5, 6 + i]))) for i in range(3)]
    writer = Collector()
    totals = run_batches(runtime, GivenSequences(lines), writer, Batching(rows=None))
    assert totals == Totals(3, 0, 6, 6)
    assert [item.index for item in writer.taken] == [0, 1, 2]
    with pytest.raises(InputError, match=r"without a line, expected at least one sequence"):
        run_batches(runtime, GivenSequences([]), writer, Batching())


def test_a_run_that_was_stopped_goes_on(runtime: Runtime, file: Path, tmp_path: Path) -> None:
    target, said = tmp_path / "o.jsonl", []
    for resume in (False, True):
        with open_file(file, SequenceReader.of(runtime)) as source:
            if not resume:
                with (
                    pytest.raises(InputError, match="line 4"),
                    open_output(Output(target), runtime, source, Batching(), said.append) as writer,
                ):
                    run_batches(runtime, source, writer, Batching())
                file.write_text(file.read_text().replace("{}", '{"input_ids": [9]}'))
                assert not target.exists()
                continue
            output = Output(target, resume=True)
            with open_output(output, runtime, source, Batching(), said.append) as writer:
                assert writer.begun.sequences == 3
                assert run_batches(runtime, source, writer, Batching()).sequences == 10
    assert [json.loads(line)["index"] for line in target.read_text().splitlines()] == list(range(10))
    assert said == [
        f"Kept what was made of the first 3 lines in {target}.partial: the same command with "
        "`resume=True` goes on after them.",
        "Goes on after the first 3 lines.",
    ]


def test_only_what_can_be_read_again_is_gone_on_with(runtime: Runtime, tmp_path: Path) -> None:
    output = Output(tmp_path / "o.jsonl", resume=True)
    with (
        pytest.raises(InputError, match=r"^resume: got an input that can be read only once"),
        open_output(output, runtime, GivenSequences([]), Batching()),
    ):
        pass
    assert not output.path.exists()
