"""What is kept of logits: exactly those of the full output, whatever the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reformer_export.batch import OutputSelection
from reformer_export.batch import run as batch_run
from reformer_export.batch.batching import run_window
from reformer_export.batch.results import likeliest_tokens, softmax
from reformer_export.errors import InputError
from tests.cli.program import run_program
from tests.runtimes.artifacts import write_artifact

FLOATS = st.floats(-4, 4, width=32).map(lambda value: np.float32(round(value)))
"""Few different ones, so that many are equal."""


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=FLOATS | st.just(np.float32("nan"))),
    st.integers(1, 45),
)
def test_the_likeliest_are_those_of_a_full_sort(logits: Any, count: int) -> None:
    expected = np.argsort(-logits, kind="stable")[:count]
    assert likeliest_tokens(logits, count).tolist() == expected.tolist()


@pytest.fixture(scope="module")
def table() -> Any:
    return np.random.default_rng(0).normal(size=(258, 258)).astype(np.float32).round(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, table: Any) -> Path:
    folder = tmp_path_factory.mktemp("selection")
    for logits in ("all", "last"):
        write_artifact(folder / logits, logits=logits, table=table)  # type: ignore[arg-type]
    rows = [{"input_ids": [5, 6, 7], "attention_mask": [1, 1, 0]}, {"text": "abcd"}, {"input_ids": [9]}]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(root: Path, target: Path, *options: object, logits: str = "all") -> None:
    arguments = ("run", root / logits, "--file", root / "in.jsonl", "--output", target, "--batch-size", 2)
    outcome = run_program(*arguments, *options)
    assert outcome.status == 0, outcome


LAST = [1, 3, 0]
"""The position of each row's last attended token."""


@pytest.mark.parametrize("logits", ["all", "last"])
@pytest.mark.parametrize("last", [False, True])
def test_lines_have_the_best_of_the_full_output(
    root: Path, tmp_path: Path, table: Any, logits: str, last: bool
) -> None:
    options = ("--top-k", 4, *(["--last"] if last else []))
    run(root, tmp_path / "top.jsonl", *options, logits=logits)
    run(root, tmp_path / "full.jsonl", logits=logits)
    for place, got, full in zip(
        LAST, read_jsonl(tmp_path / "top.jsonl"), read_jsonl(tmp_path / "full.jsonl"), strict=True
    ):
        rows = np.array(full["logits"], np.float32)
        rows = rows[[place]] if last and logits == "all" else rows
        best = np.argsort(-rows, kind="stable", axis=-1)[:, :4]
        assert got["top_ids"] == best.tolist()
        assert got["top_logits"] == np.take_along_axis(rows, best, -1).tolist()
        expected = [softmax(row)[ids] for row, ids in zip(rows, best, strict=True)]
        np.testing.assert_array_equal(np.float32(got["top_probabilities"]), np.float32(expected))
        texts = [["" if i < 2 else bytes([i - 2]).decode("utf-8", "replace") for i in ids] for ids in best]
        assert got["top_texts"] == texts
        assert "logits" not in got
        assert got["input_ids"] == full["input_ids"]


def test_last_alone_keeps_one_row(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "last.jsonl", "--last")
    run(root, tmp_path / "full.jsonl")
    for place, got, full in zip(
        LAST, read_jsonl(tmp_path / "last.jsonl"), read_jsonl(tmp_path / "full.jsonl"), strict=True
    ):
        assert got["logits"] == [full["logits"][place]]


@pytest.mark.parametrize("last", [False, True])
def test_arrays_have_what_the_lines_have(root: Path, tmp_path: Path, last: bool) -> None:
    options = ("--top-k", 3, *(["--last"] if last else []))
    run(root, tmp_path / "top.jsonl", *options)
    run(root, tmp_path / "top.npz", *options)
    with np.load(tmp_path / "top.npz") as arrays:
        assert set(arrays) == {
            *("index", "input_ids", "attention_mask"),
            *("top_ids", "top_logits", "top_probabilities", "top_texts"),
        }
        assert arrays["top_ids"].dtype == np.int64
        assert arrays["top_probabilities"].dtype == np.float32
        for row, line in enumerate(read_jsonl(tmp_path / "top.jsonl")):
            for name in ("top_ids", "top_logits", "top_probabilities", "top_texts"):
                length = len(line[name])
                kept = arrays[name][row, :length].tolist()
                if name == "top_texts":  # numpy keeps no zero character at an end
                    line[name] = [[text.rstrip("\0") for text in texts] for texts in line[name]]
                if name == "top_probabilities":
                    kept = np.float32(kept).tolist()
                    line[name] = np.float32(line[name]).tolist()
                assert kept == line[name]


def test_a_short_line_takes_little(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a line of text\n" * 299)
    arguments = ("run", root / "all", "--file", tmp_path / "lines.txt", "--output")
    assert run_program(*arguments, tmp_path / "few.jsonl", "--last", "--top-k", 5).status == 0
    assert (tmp_path / "few.jsonl").stat().st_size < 299 * 800


def test_without_a_tokenizer_there_are_no_texts(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", vocab_size=50)
    assert run_program("run", out, "--ids", "5", "--output", tmp_path / "o.jsonl", "--top-k", 2).status == 0
    (line,) = read_jsonl(tmp_path / "o.jsonl")
    assert line.keys() == {"index", "input_ids", "top_ids", "top_logits", "top_probabilities"}
    assert line["top_ids"] == [[6, 0]]


def test_the_summary_shows_as_many(root: Path) -> None:
    report = json.loads(run_program("run", root / "all", "abc", "--top-k", 9, "--json", "-").stdout)
    assert len(report["sequences"][0]["next_tokens"]) == 9


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("text-classification", ("--top-k", 2), "--top-k: got it for an artifact for text-classification"),
        (
            "text-classification",
            ("--top-k", 2, "--output", "o.npz"),
            "expected one for text-generation or",
        ),
        ("feature-extraction", ("--last", "--output", "o.npz"), "--last: got it for an artifact for feature"),
        ("text-generation", ("--last",), "--last: got no --output"),
        ("text-generation", ("--top-k", 259), "--top-k: got 259, expected at most 258, the model's tokens"),
        ("fill-mask", ("--top-k", 2), "--top-k: got no --output"),
    ],
)
def test_what_has_no_such_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Any, options: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    out = write_artifact(tmp_path / "out", task)
    outcome = run_program("run", out, "abc", *options)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert message in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True, "5"])
def test_from_python_too(top_k: Any) -> None:
    with pytest.raises(InputError, match="top_k: got"):
        OutputSelection(top_k)


def test_an_interrupted_run_goes_on_with_the_same_part_only(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, source = tmp_path / "o.jsonl", tmp_path / "in.jsonl"
    source.write_text('{"input_ids": [5]}\n' * 3)
    arguments = ("run", root / "all", "--file", source, "--output", target)
    left = [run_window, run_window]

    def stop(*given: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        return left.pop()(*given)

    monkeypatch.setattr(batch_run, "run_window", stop)
    assert run_program(*arguments, "--top-k", 2).status == 130
    monkeypatch.undo()
    for other in (("--top-k", 3), (), ("--top-k", 2, "--last")):
        outcome = run_program(*arguments, "--resume", *other)
        assert outcome.status == 2
        assert "as in the run that left" in outcome.error
    assert run_program(*arguments, "--resume", "--top-k", 2).status == 0
    assert len(read_jsonl(target)) == 3
