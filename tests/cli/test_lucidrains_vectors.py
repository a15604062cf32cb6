"""A layer of reformer-pytorch that takes vectors through the program, and what does not work for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reformer_export.artifact.manifest import read_manifest
from tests.cli.program import run_program
from tests.lucidrains import SMALL_ATTENTION, save_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt, kwargs.json, series.npz and the artifact out; not to be changed."""
    folder = tmp_path_factory.mktemp("vectors")
    file, config = save_model(folder, SMALL_ATTENTION, None)
    outcome = run_program("onnx", file, folder / "out", "--config", config)
    assert outcome.status == 0, outcome.stderr
    assert "feature-extraction, 1 layers, float32, up to 64 tokens" in outcome.stdout
    assert "largest difference to eager" in outcome.stdout
    mask = np.ones((5, 24), np.int64)
    mask[1, 9:] = 0
    vectors = np.random.default_rng(0).standard_normal((5, 24, 32))
    np.savez(folder / "series.npz", inputs_embeds=vectors, attention_mask=mask)
    return folder


def test_verify_draws_vectors_or_takes_them(exported: Path, tmp_path: Path) -> None:
    outcome = run_program("verify", exported / "out", "--json", tmp_path / "a.json")
    assert outcome.status == 0, outcome.stdout
    cases = json.loads((tmp_path / "a.json").read_text())["cases"]
    assert {case["case"]["length"] for case in cases} >= {1, 4, 8, 64}
    assert any(layer["hashed"] for case in cases for layer in case["layers"])
    outcome = run_program("verify", exported / "out", "--inputs", exported / "series.npz")
    assert outcome.status == 0
    assert "series.npz, rows 0 to 4: batch 5, length 24, masked" in outcome.stdout


def test_verify_looks_inside(exported: Path, tmp_path: Path) -> None:
    looks = ("--bisect", tmp_path / "node", "--report", tmp_path / "page.html")
    outcome = run_program("verify", exported / "out", "--lengths", 24, "--batch-sizes", 2, *looks)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1].startswith("No node differs (batch 2, length 24")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    for words in ("Layer by layer", "Margins of the hashes in layer 0", "one input of 64 tokens"):
        assert words in html


def test_run_inspect_and_bench(exported: Path, tmp_path: Path) -> None:
    out = exported / "out"
    file = ("--file", exported / "series.npz", "--output", tmp_path / "a.npz", "--batch-size", 4)
    outcome = run_program("run", out, *file)
    assert outcome.status == 0, outcome.stderr
    assert np.load(tmp_path / "a.npz")["last_hidden_state"].shape == (5, 24, 32)
    outcome = run_program("run", out, *file[:2])
    assert "Sequence 4: 24 tokens -> last_hidden_state [24, 32]" in outcome.stdout
    outcome = run_program("inspect", out)
    assert "inputs_embeds, vectors of 32 numbers" in outcome.stdout
    assert "token ids only" not in outcome.stdout
    outcome = run_program("bench", out, "--lengths", 64, "--repeat", 1, "--no-memory")
    assert outcome.status == 0, outcome.stderr
    assert "eager" in outcome.stdout


def test_what_does_not_work_says_so_in_one_line(exported: Path, tmp_path: Path) -> None:
    out, file, config = exported / "out", exported / "model.pt", exported / "kwargs.json"
    assert read_manifest(out).source["class"] == "LSHSelfAttention"
    for arguments, expected in (
        (("run", out, "some text"), "TEXT 0: got a text, expected vectors"),
        (("run", out, "--ids", "1,2"), "expected rows of 32 real numbers"),
        (("generate", out, "--prompt", "a"), "task: got an artifact for feature-extraction"),
        (("generate", out, "--prompt-ids", "1,2"), "task: got an artifact for feature-extraction"),
        (("verify", out, "--data", config), "--data: got an artifact for feature-extraction"),
        (("verify", out, "--lengths", "15"), "15"),
        (
            ("onnx", file, tmp_path / "out", "--config", config, "--decode"),
            "--decode: got a model that takes",
        ),
        (
            ("onnx", file, tmp_path / "out", "--config", config, "--tokenizer", "bytes"),
            "--tokenizer: got bytes",
        ),
    ):
        outcome = run_program(*arguments)
        assert outcome.status == 2, arguments
        line = outcome.messages[-1]
        assert expected in line, line
    assert not (tmp_path / "out").exists()
