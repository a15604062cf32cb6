from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from reformer_export.cli.main import cli
from reformer_export.errors import InputError, OutputError, ReformerExportError
from reformer_export.spec import Task
from tests.runtimes.artifacts import next_token_table, write_artifact


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["run", *map(str, arguments)], catch_exceptions=True)


def run_json(*arguments: object) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def error_of(*arguments: object) -> ReformerExportError:
    result = invoke(*arguments)
    assert isinstance(result.exception, ReformerExportError), result.exception
    return result.exception


def test_text_gives_the_next_tokens(out: Path) -> None:
    result = invoke(out, "abc", "x")
    assert result.exit_code == 0
    assert "Sequence 0: 3 tokens -> logits [3, 258]" in result.stdout
    assert "102         0.1752       'd'" in result.stdout
    assert "Sequence 1: 1 tokens" in result.stdout


def test_json_says_the_same(out: Path) -> None:
    report = run_json(out, "--ids", "5,6,7", "--ids", "99")
    assert report["task"] == "text-generation"
    first, second = report["sequences"]
    assert (first["index"], first["tokens"], first["outputs"]) == (0, 3, {"logits": [3, 258]})
    assert [token["id"] for token in first["next_tokens"]] == [8, 0, 1, 2, 3]
    assert second["next_tokens"][0]["text"] == "b"
    assert second["next_tokens"][0]["probability"] == pytest.approx(np.exp(4) / (np.exp(4) + 257))


def test_last_logits_and_padded_rows(tmp_path: Path) -> None:
    for logits in ("all", "last"):
        out = write_artifact(tmp_path / logits, logits=logits)  # type: ignore[arg-type]
        (tmp_path / "rows.jsonl").write_text(
            '{"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0]}\n{"text": "a"}\n'
        )
        report = run_json(out, "--file", tmp_path / "rows.jsonl", "--batch-size", 2)
        assert [row["next_tokens"][0]["id"] for row in report["sequences"]] == [7, 100]


def test_without_tokenizer_ids_have_no_text(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", vocab_size=50)
    assert run_json(out, "--ids", "5")["sequences"][0]["next_tokens"][0] == {
        "id": 6,
        "probability": pytest.approx(np.exp(4) / (np.exp(4) + 49)),
        "text": None,
    }
    assert "give token ids" in str(error_of(out, "some text"))


def test_classification_names_the_labels(tmp_path: Path) -> None:
    files = {"config.json": b'{"id2label": {"0": "bad", "1": "good"}}'}
    out = write_artifact(tmp_path / "out", "text-classification", files=files)
    labels = run_json(out, "abc")["sequences"][0]["labels"]
    assert [row["label"] for row in labels] == ["bad", "good", "LABEL_2"]
    exponents = np.exp(np.array([0, 1, 2]) / 8)
    assert [row["probability"] for row in labels] == pytest.approx(list(exponents / exponents.sum()))
    assert "good" in invoke(out, "abc").stdout


def test_question_answering_takes_the_best_span(tmp_path: Path) -> None:
    """start prefers 'c' and end 'a': the best pair in order is not the pair of the best."""
    table = np.zeros((258, 2), np.float32)
    for letter, start, end in (("a", 1, 5), ("b", 3, 4), ("c", 4, 1)):
        table[ord(letter) + 2] = start, end
    out = write_artifact(tmp_path / "out", "question-answering", table=table)
    span = run_json(out, "abc")["sequences"][0]["span"]
    assert span == {"start": 1, "end": 1, "score": 7.0, "text": "b"}
    assert run_json(out, "cab")["sequences"][0]["span"] == {"start": 0, "end": 1, "score": 9.0, "text": "ca"}
    assert "tokens 1 to 1" in invoke(out, "abc").stdout


@pytest.mark.parametrize(
    ("task", "key", "words"),
    [("fill-mask", "likeliest_ids", "100,101,102"), ("feature-extraction", "values", "mean")],
)
def test_other_tasks_are_summed_up(tmp_path: Path, task: Task, key: str, words: str) -> None:
    out = write_artifact(tmp_path / "out", task)
    assert key in run_json(out, "abc")["sequences"][0]
    assert words in invoke(out, "abc").stdout


def test_npz_is_written_and_read(out: Path, tmp_path: Path) -> None:
    target = tmp_path / "logits.npz"
    assert (
        invoke(out, "--ids", "5,6,7", "--ids", "9", "--output", target).stdout
        == f"Wrote 2 sequences to {target}\n"
    )
    with np.load(target) as arrays:
        assert arrays["input_ids"].tolist() == [[5, 6, 7], [9, 0, 0]]
        assert arrays["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
        np.testing.assert_array_equal(arrays["logits"][0], next_token_table(258)[[5, 6, 7]])
        assert not arrays["logits"][1, 1:].any()
        assert arrays["index"].tolist() == [0, 1]
    report = run_json(out, "--file", target, "--output", tmp_path / "again.jsonl")
    assert report.pop("seconds") > 0
    assert report == {
        "output": str(tmp_path / "again.jsonl"),
        "sequences": 2,
        "skipped": 0,
        "tokens": 6,
        "padding_share": 0.0,
    }


def test_jsonl_has_a_line_a_sequence(out: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("ab\nc☃\n", encoding="utf-8")
    for batch_size in (1, 2):
        target = tmp_path / f"{batch_size}.jsonl"
        invoke(out, "--file", tmp_path / "lines.txt", "--batch-size", batch_size, "--output", target)
        first, second = (json.loads(line) for line in target.read_text().splitlines())
        assert (first["index"], first["input_ids"]) == (0, [99, 100])
        np.testing.assert_array_equal(first["logits"], next_token_table(258)[[99, 100]])
        assert len(second["input_ids"]) == len(second["logits"]) == 4


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    table = np.full((258, 3), np.inf, np.float32)
    table[:, 0] = 1
    out = write_artifact(tmp_path / "out", "text-classification", table=table)
    invoke(out, "a", "--output", tmp_path / "o.jsonl")
    assert json.loads((tmp_path / "o.jsonl").read_text())["logits"] == [1.0, None, None]


@pytest.mark.parametrize("name", ["ids.npy", "ids.npz"])
def test_arrays_are_read(out: Path, tmp_path: Path, name: str) -> None:
    ids = np.array([[5, 6], [7, 8]], np.int32)
    path = tmp_path / name
    np.save(path, ids) if name.endswith("npy") else np.savez(path, input_ids=ids, attention_mask=ids > 5)
    if name.endswith("npz"):
        np.savez(path, input_ids=ids, attention_mask=(ids > 5).astype(np.int64))
    result = invoke(out, "--file", path, "--json")
    assert [row["next_tokens"][0]["id"] for row in json.loads(result.stdout)["sequences"]] == [7, 9]
    warning = f"Warning: {path}, row 0: attention_mask: the row is padded on the left"
    assert (warning in result.stderr) == name.endswith("npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "without a line"),
        ("a.txt", b"a\n\nb\n", "line 2: got an empty text"),
        ("a.txt", b"\xff\xfe", "no UTF-8 text"),
        ("a.jsonl", b"{", "line 1: got no JSON"),
        ("a.jsonl", b"[1]", "expected an object"),
        ("a.jsonl", b'{"input_ids": 5}', "expected an object"),
        ("a.jsonl", b'{"input_ids": []}', "at least one integer"),
        ("a.jsonl", b'{"input_ids": [1.5]}', "float64"),
        ("a.jsonl", b'{"input_ids": [[1], 2]}', "unequal depth"),
        ("a.jsonl", b'{"input_ids": [1, 2], "attention_mask": [1]}', "2 input_ids and 1 attention_mask"),
        ("a.jsonl", b'{"input_ids": [999]}', "id 999"),
        ("a.npz", b"no zip", "numpy cannot read"),
        ("a.npy", b"", "numpy cannot read"),
    ],
)
def test_broken_files_are_refused(out: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = error_of(out, "--file", tmp_path / name)
    assert isinstance(error, InputError)
    assert message in str(error)


def test_arrays_that_do_not_fit_are_refused(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for arrays, message in (
        ({"ids": np.ones(3)}, "expected input_ids"),
        ({"input_ids": np.ones((1, 2, 3), np.int64)}, "expected [batch, sequence]"),
        ({"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((2, 2), np.int64)}, "for both"),
        ({"input_ids": np.ones((2, 3))}, "float64"),
        ({"input_ids": np.array([None])}, "type object"),
    ):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        assert message in str(error_of(out, "--file", path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "got none, expected one of TEXT, --ids, --file"),
        (("a", "--ids", "5"), "got TEXT and --ids"),
        (("",), "empty text"),
        (("--ids", "5,,6"), 'write e.g. "5,6,7"'),
        (("--ids", str(2**70)), "expected a list of at least one integer"),
        (("--file", "nowhere.txt"), "cannot be read (No such file or directory)"),
        (("a", "--output", "x.csv"), "ending in .npz or .jsonl"),
        (("a", "--output", "no/such/folder/x.npz"), "folder does not exist"),
    ],
)
def test_wrong_arguments_are_refused(out: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in str(error_of(out, *arguments))


def test_json_comes_with_totals_and_nothing_before_an_early_error(out: Path) -> None:
    report = run_json(out, "abc", "x")
    assert report.pop("seconds") > 0
    assert {name: report[name] for name in ("skipped", "tokens", "padding_share")} == {
        "skipped": 0,
        "tokens": 4,
        "padding_share": 0.0,
    }
    assert invoke(out, "", "--json").stdout == ""


@pytest.mark.parametrize("suffix", [".npz", ".jsonl"])
def test_a_failure_leaves_the_old_output(out: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "results" / f"old{suffix}"
    target.parent.mkdir()
    target.write_text("old")
    error_of(out, "--ids", "5", "--ids", "999", "--output", target)
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_an_output_that_cannot_be_replaced_is_an_output_error(out: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.npz").mkdir()
    error = error_of(out, "a", "--output", tmp_path / "taken.npz")
    assert isinstance(error, OutputError)
    assert not list((tmp_path / "taken.npz").iterdir())


def test_progress_is_plain_lines_without_a_terminal(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reformer_export.cli.tables.PLAIN_PROGRESS_SECONDS", 0)
    result = invoke(out, "a", "b", "c", "--batch-size", "2")
    lines = result.stderr.splitlines()
    assert lines[0].startswith("Runs on ONNX Runtime, CPU, ")
    assert [line.split(",")[0] for line in lines[1:3]] == ["Sequences: 2 of 3", "Sequences: 3 of 3"]
    assert lines[3].startswith("Done: 3 sequences, 0 skipped, 3 tokens in ")
    assert len(lines) == 4


def test_notes_go_to_standard_error(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", dtype="bfloat16")
    result = invoke(out, "a", "--provider", "cpu", "--json", "--threads", "1")
    assert "Note: " in result.stderr
    json.loads(result.stdout)


def test_the_program_leaves_one_line_and_status_2(out: Path) -> None:
    (out / "model.onnx").write_bytes(b"changed")
    program = [sys.executable, "-m", "reformer_export.cli.main", "run", str(out), "a"]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
