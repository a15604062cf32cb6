"""A custom module through the program: .npz in and out by name, and what does not work says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.program import run_program
from tests.runtimes.artifacts import custom_inputs, custom_outputs, write_custom_artifact

INPUTS = custom_inputs(5, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with out, rowless and inputs.npz; not to be changed."""
    folder = tmp_path_factory.mktemp("custom")
    write_custom_artifact(folder / "out")
    write_custom_artifact(folder / "rowless", has_rows=False)
    np.savez_compressed(folder / "inputs.npz", **INPUTS)  # type: ignore[arg-type]
    np.savez(folder / "less.npz", series=INPUTS["series"], context=INPUTS["context"])
    np.savez(folder / "fortran.npz", **{name: np.asfortranarray(value) for name, value in INPUTS.items()})  # type: ignore[arg-type]
    np.savez(folder / "wrong.npz", **{**INPUTS, "station": INPUTS["station"][:4]})  # type: ignore[arg-type]
    np.savez(folder / "texts.npz", **{**INPUTS, "station": np.array(["a"] * 5)})  # type: ignore[arg-type]
    return folder


def assert_outputs(path: Path, expected: dict[str, Any]) -> None:
    with np.load(path) as found:
        assert found.files == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("options", [(), ("--batch-size", 2), ("--batch-size", 9)])
def test_run_by_name(folder: Path, tmp_path: Path, options: Any) -> None:
    for name in ("inputs.npz", "fortran.npz"):
        files = ("--file", folder / name, "--output", tmp_path / "outputs.npz")
        outcome = run_program("run", folder / "out", *files, *options)
        assert outcome.status == 0, outcome.stderr
        assert outcome.stdout.startswith("Wrote forecast, known to ")
        assert_outputs(tmp_path / "outputs.npz", custom_outputs(INPUTS))


def test_run_shows_what_came_out(folder: Path, tmp_path: Path) -> None:
    outcome = run_program("run", folder / "rowless", "--file", folder / "inputs.npz", "--json", "-")
    assert outcome.status == 0, outcome.stderr
    assert json.loads(outcome.stdout)["outputs"]["known"] == {"dtype": "bool", "shape": []}
    outcome = run_program("run", folder / "rowless", "--file", folder / "inputs.npz")
    assert "forecast" in outcome.stdout
    assert "5, 6, 3" in outcome.stdout


def test_inspect_lists_what_goes_in_and_out(folder: Path) -> None:
    outcome = run_program("inspect", folder / "out")
    assert outcome.status == 0, outcome.stderr
    for words in (
        "custom (a module of a user's own)",
        "series float32 [batch, time, 3]",
        "known bool [batch]",
        "batch from 1, time from 2 to 48",
        "encoder.attn",
    ):
        assert words in outcome.stdout
    assert "vocabulary" not in outcome.stdout


def test_bench_draws_inputs_of_its_own(folder: Path, tmp_path: Path) -> None:
    options = ("--lengths", "2,8", "--repeat", 1, "--no-memory")
    outcome = run_program(
        "bench", folder / "out", *options, "--report", tmp_path / "a.html", "--json", tmp_path / "a.json"
    )
    assert outcome.status == 0, outcome.stderr
    assert "eager: left out, the module is not in the artifact" in outcome.stderr
    results = json.loads((tmp_path / "a.json").read_text())["results"]
    assert [(each["contender"], each["length"]) for each in results] == [("artifact", 2), ("artifact", 8)]
    assert "Unsqueeze" in (tmp_path / "a.html").read_text(encoding="utf-8")
    outcome = run_program("bench", folder / "out", "--lengths", "49", "--repeat", 1)
    assert "--lengths: got 49, expected batch from 1, time from 2 to 48" in outcome.error


def test_what_does_not_work_says_so_in_one_line(folder: Path, tmp_path: Path) -> None:
    out, file = folder / "out", ("--file", folder / "inputs.npz")
    for arguments, expected in (
        (("run", out, "some text"), "TEXT: got it for a custom module, expected --file with a .npz"),
        (("run", out, "--ids", "1,2"), "--ids: got it for a custom module"),
        (("run", out), "file: got 0 files, expected one, a .npz with series, context, station"),
        (("run", out, *file, "--pad"), "--pad: got it for a custom module"),
        (("run", out, *file, "--last"), "--last"),
        (("run", out, *file, "--output", tmp_path / "a.jsonl"), "--output: got a.jsonl, expected a name"),
        (("run", out, *file, "--output", tmp_path / "folder"), "where --output is a folder"),
        (("run", folder / "rowless", *file, "--batch-size", 2), "--batch-size: got 2, expected none"),
        (("run", out, "--file", folder / "less.npz"), "station: got none, expected it"),
        (("run", out, "--file", folder / "wrong.npz"), "station: got shape [4], expected [batch] with batch"),
        (("run", out, "--file", folder / "texts.npz"), "file: got station of type <U1"),
        (("run", out, "--file", folder / "none.npz"), "none.npz"),
        (("run", out, "--file", __file__), "file: got test_custom.py, expected a .npz file with series"),
        (("generate", out, "--prompt-ids", "1,2"), "task: got an artifact for custom, expected text-gen"),
        (("generate", out, "--prompt", "a"), "task: got an artifact for custom, expected text-gen"),
    ):
        outcome = run_program(*arguments)
        assert outcome.status == 2, (arguments, outcome)
        line = outcome.messages[-1]
        assert expected in line, line
    assert not list(tmp_path.iterdir())
