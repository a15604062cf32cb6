"""`run` over files of any size: constant memory, bad lines, standard input and output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from reformer_export.cli.main import cli
from tests.cli.test_hostile import measure
from tests.runtimes.artifacts import next_token_table, write_artifact

GOOD = '{"input_ids": [5, 6]}'
BAD_LINES = {
    2: ("", "got no JSON"),
    3: ('{"text": ""}', "empty text"),
    5: ('{"input_ids": [258]}', "got id 258 at position 0, expected ids from 0 to 257"),
    6: (json.dumps({"input_ids": [1] * 65}), "got 65 tokens, expected at most 64"),
    7: ('{"input_ids": [1, 2], "attention_mask": [1]}', "2 input_ids and 1 attention_mask"),
    8: ('{"input_ids": [1, 2], "attention_mask": [1, 2]}', "other than 0 and 1"),
    9: ('{"input_ids": [1, 2], "attention_mask": [0, 0]}', "only zeros"),
    10: ('{"text": "\\ud800"}', "half of a surrogate pair"),
    11: ('{"input_ids": [9e999]}', "float64"),
    12: ("x" * (2**20 + 5000), "got more than 1050624 bytes"),
    13: ('{"text": "\udcff"}', "no UTF-8 text"),
}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Good lines at 1, 4, 14 and 15, the last without its end."""
    path = tmp_path / "mixed.jsonl"
    lines = [BAD_LINES.get(number, (GOOD, ""))[0] for number in range(1, 16)]
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    return path


def invoke(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["run", *map(str, arguments)], input=stdin)


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("options", [[], ["--batch-size", 4], ["--batch-tokens", 50, "--window", 3]])
def test_skipped_lines_are_named_and_keep_their_place(
    out: Path, mixed: Path, tmp_path: Path, options: list[object]
) -> None:
    target = tmp_path / "o.jsonl"
    result = invoke(out, "--file", mixed, "--output", target, "--on-error", "skip", *options)
    assert result.exit_code == 1
    lines = read_lines(target)
    assert [line["index"] for line in lines] == list(range(15))
    for number, line in enumerate(lines, 1):
        if number not in BAD_LINES:
            np.testing.assert_array_equal(line["logits"], next_token_table(258)[[5, 6]])
        else:
            assert BAD_LINES[number][1] in line["error"]
            assert f"Skipped: {mixed}, line {number}: {' '.join(line['error'].split())}" in result.stderr
    assert "Done: 4 sequences, 11 skipped, 8 tokens" in result.stderr


def test_skipped_lines_elsewhere(out: Path, mixed: Path, tmp_path: Path) -> None:
    options = ("--file", mixed, "--on-error", "skip")
    assert invoke(out, *options, "--output", tmp_path / "o.npz").exit_code == 1
    with np.load(tmp_path / "o.npz") as arrays:
        assert arrays["index"].tolist() == [0, 3, 13, 14]
        assert arrays["input_ids"].tolist() == [[5, 6]] * 4
    result = invoke(out, *options, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["skipped"] == 11
    assert [row["index"] for row in report["sequences"] if "error" not in row] == [0, 3, 13, 14]
    assert invoke(out, *options).stdout.count("Sequence ") == 4


def test_the_line_that_ends_a_run_may_be_passed_over(out: Path, tmp_path: Path) -> None:
    """Not the first: where that is bad, the file may be no such file."""
    file, target = tmp_path / "texts.txt", tmp_path / "o.jsonl"
    file.write_text("a\r\nb\r\n\r\n", newline="")
    error = str(invoke(out, "--file", file, "--output", target).exception)
    assert "line 3: got an empty text" in error
    assert error.endswith("or pass over such lines with --on-error skip")
    assert invoke(out, "--file", file, "--output", target, "--resume", "--on-error", "skip").exit_code == 1
    assert [line.get("input_ids") for line in read_lines(target)] == [[99], [100], None]
    file.write_text("\na\n")
    error = str(invoke(out, "--file", file, "--output", target).exception)
    assert error.endswith("line 1: got an empty text, expected at least one character; leave it out")


def test_many_bad_lines_are_counted(out: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("\n" * 100)
    result = invoke(out, "--file", tmp_path / "bad.txt", "--on-error", "skip", "--output", tmp_path / "o.npz")
    assert result.exit_code == 1
    assert result.stderr.count("got an empty text") == 20
    assert "Skipped: 80 more lines." in result.stderr
    with np.load(tmp_path / "o.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "index": (0,),
            "input_ids": (0, 0),
            "attention_mask": (0, 0),
        }


def test_a_bad_line_stops_the_run_by_default(out: Path, mixed: Path) -> None:
    result = invoke(out, "--file", mixed)
    assert str(result.exception).startswith(f"{mixed}, line 2: got no JSON")
    assert "Sequence 0: 2 tokens" in result.stdout


def test_standard_input_and_output(out: Path) -> None:
    result = invoke(out, "--file", "-", "--output", "-", stdin=f'{GOOD}\n{{"text": "ab\\ncd"}}\n')
    assert result.exit_code == 0
    first, second = map(json.loads, result.stdout.splitlines())
    np.testing.assert_array_equal(first["logits"], next_token_table(258)[[5, 6]])
    assert second["input_ids"] == [byte + 2 for byte in b"ab\ncd"]
    result = invoke(out, "--file", "-", "--format", "text", "--json", stdin="ab\r\ncd".encode("utf-8-sig"))
    assert [row["tokens"] for row in json.loads(result.stdout)["sequences"]] == [2, 2]
    assert "standard input, line 1: got no JSON" in str(invoke(out, "--file", "-", stdin="ab").exception)


def test_results_come_before_the_input_ends(out: Path) -> None:
    program = [sys.executable, "-m", "reformer_export.cli.main", "run", str(out), "--file", "-"]
    with subprocess.Popen(
        [*program, "--output", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for index in range(3):
            process.stdin.write(GOOD.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["index"] == index
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_reader_that_leaves_ends_the_run_quietly(out: Path, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("abc\n" * 20_000)
    program = [sys.executable, "-m", "reformer_export.cli.main", "run", str(out)]
    with subprocess.Popen(
        [*program, "--file", str(tmp_path / "many.txt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        messages = process.stderr.read().decode()
        assert process.wait(60) == 141
    assert [line.split(" ")[0] for line in messages.splitlines()] == ["Runs"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "-", "--json"], "got --output - too"),
        (["--resume"], "got no --output"),
        (["--output", "o.npz", "--restart"], "expected a .jsonl file"),
        (["--output", "o.jsonl", "--resume", "--restart"], "expected one of them"),
        (["--output", "o.jsonl", "--resume"], "can be read only once"),
        (["--format", "text"], "expected it with --file"),
    ],
)
def test_options_that_do_not_fit_together(
    out: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(out.parent)
    assert message in str(invoke(out, "ab", *options).exception)
    assert not list(out.parent.glob("o.*"))


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("suffix", [".jsonl", ".npz"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    """Ten times the lines cost no more memory."""
    out = write_artifact(tmp_path / "out", "text-classification")
    generator = np.random.default_rng(0)
    lines = [
        json.dumps({"input_ids": generator.integers(0, 258, generator.integers(1, 25)).tolist()}) + "\n"
        for _ in range(4000)
    ]
    growth = []
    for times in (1, 10):
        (tmp_path / "in.jsonl").write_text("".join(lines * times))
        options = ("--file", tmp_path / "in.jsonl", "--output", tmp_path / f"o{suffix}", "--threads", 1)
        measured = measure("run", out, *options, "--batch-size", 32)
        assert measured.outcome.status == 0, measured.outcome
        assert f"Wrote {4000 * times} sequences to" in measured.outcome.stdout
        growth.append(measured.growth)
    assert growth[1] < growth[0] + 5, growth
