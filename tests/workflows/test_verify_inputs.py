"""verify on a user's own inputs, and by a user's own tolerance."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from reformer_export.artifact.manifest import read_manifest
from reformer_export.errors import InputError
from reformer_export.parity.compare import GivenTolerance
from reformer_export.reference.eager import EagerReformer
from reformer_export.workflows.verify import VerifyRequest, verify_artifact
from reformer_export.workflows.verify_inputs import cases_from_file
from tests.cli.program import run_program
from tests.hf_models import config_t, save_model


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    folder = save_model(root, config_t(), transformers.ReformerModel)
    assert run_program("onnx", folder, root / "out", "--no-verify").status == 0
    return root / "out"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [
    {"input_ids": [1] * 20},
    {"input_ids": [2] * 20, "attention_mask": [1] * 7 + [0] * 13},
    {"input_ids": [3]},
]


def test_rows_of_one_length_go_together(out: Path, tmp_path: Path) -> None:
    path, manifest = write_rows(tmp_path / "in.jsonl", [*ROWS, ROWS[0]]), read_manifest(out)
    shapes = [str(case) for case in cases_from_file(path, out, manifest, None)]
    assert shapes == [
        "in.jsonl, rows 0 to 1: batch 2, length 20, masked",
        "in.jsonl, rows 2 to 2: batch 1, length 1",
        "in.jsonl, rows 3 to 3: batch 1, length 20",
    ]
    alone = cases_from_file(path, out, manifest, (1, 2, 1))
    assert [(case.batch, case.masked) for case in alone] == [
        *((1, False), (1, True), (1, False), (1, False)),
        (2, True),  # those of one row are there already
    ]


def test_eager_and_the_artifact_get_them(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(0, 30, (20, 33))
    mask = (np.arange(33) < np.arange(14, 34)[:, None]).astype(np.int64)
    np.savez(tmp_path / "in.npz", input_ids=ids, attention_mask=mask)
    seen = []
    real = EagerReformer.run

    def run(self: Any, input_ids: Any, attention_mask: Any, *more: Any) -> Any:
        seen.append((input_ids.copy(), attention_mask.copy()))
        return real(self, input_ids, attention_mask, *more)

    monkeypatch.setattr(EagerReformer, "run", run)
    report = verify_artifact(out, inputs=tmp_path / "in.npz")
    assert report.passed
    np.testing.assert_array_equal(np.concatenate([each for each, _ in seen]), ids)
    np.testing.assert_array_equal(np.concatenate([each for _, each in seen]), mask)
    assert [len(each) for each, _ in seen] == [8, 8, 4]
    cases = report.to_dict()["cases"]
    assert cases[0]["case"] == {
        **{"length": 33, "batch": 8, "masked": True},
        "inputs": "in.npz, rows 0 to 7",
    }


def test_on_the_command_line_too(out: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", ROWS)
    outcome = run_program("verify", out, "--inputs", path, "--batch-sizes", 1)
    assert outcome.status == 0, outcome
    assert "in.jsonl, rows 1 to 1: batch 1, length 20, masked" in outcome.stdout
    assert "Passed: 3 cases" in outcome.stdout


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "a file without a line"),
        ([{"input_ids": [999999]}], "id 999999"),
        ([{"input_ids": [1], "attention_mask": [1, 1]}], "1 input_ids and 2 attention_mask values"),
        ([{"input_ids": [1] * 100_000}], "got 100000 tokens, expected at most"),
    ],
)
def test_what_the_model_does_not_take(out: Path, tmp_path: Path, rows: Any, message: str) -> None:
    outcome = run_program("verify", out, "--inputs", write_rows(tmp_path / "in.jsonl", rows))
    assert (outcome.status, outcome.stdout) == (2, "")
    assert message in outcome.error


@pytest.mark.parametrize("arrays", [{"ids": np.ones((1, 2), int)}, {"input_ids": np.ones((1, 2, 3), int)}])
def test_arrays_of_another_shape(out: Path, tmp_path: Path, arrays: Any) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    assert run_program("verify", out, "--inputs", tmp_path / "in.npz").status == 2


def test_a_file_has_its_own_lengths(out: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", ROWS)
    error = run_program("verify", out, "--inputs", path, "--lengths", "1").error
    assert "--inputs: got --lengths too, expected one of them" in error


@pytest.mark.parametrize(
    "options", [("--atol", "1e-3"), ("--rtol", "1e-3"), ("--atol", 1e-4, "--rtol", 1e-3)]
)
def test_a_given_tolerance_is_said_in_every_output(
    out: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    arguments = ("verify", out, "--lengths", "20", "--batch-sizes", "1", *options)
    outcome = run_program(*arguments, "--json", tmp_path / "v.json", "--report", tmp_path / "v.html")
    assert outcome.status == 0
    given = dict(zip(options[::2], map(float, options[1::2]), strict=True))  # type: ignore[arg-type]
    atol, rtol = given.get("--atol", 0.0), given.get("--rtol", 0.0)
    words = f"atol {atol:g} + rtol {rtol:g} x the largest expected output"
    assert words in outcome.stdout
    assert words in (tmp_path / "v.html").read_text()
    values = json.loads((tmp_path / "v.json").read_text())
    assert values["given_tolerance"] == {"atol": atol, "rtol": rtol}


def test_it_is_what_judges(out: Path) -> None:
    arguments = ("verify", out, "--lengths", "20", "--batch-sizes", "1")
    outcome = run_program(*arguments, "--atol", "1e-12")
    assert outcome.status == 1
    assert "atol 1e-12 + rtol 0 x the largest expected output" in outcome.stderr
    assert "eager itself moves" not in outcome.stderr  # a given tolerance is not widened
    plain = json.loads(run_program(*arguments, "--json").stdout)
    assert "given_tolerance" not in plain


def test_the_limit_is_atol_and_a_share_of_the_largest() -> None:
    assert GivenTolerance(0.5, 0.25).limit(8.0) == 2.5
    assert GivenTolerance(0.5).limit(8.0) == 0.5
    assert 0 < GivenTolerance(rtol=1e-3).limit(0.0) < 1e-300


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, True, "1"])
@pytest.mark.parametrize("name", ["atol", "rtol"])
def test_what_is_no_tolerance(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name}: got"):
        VerifyRequest(**{name: value})


def test_no_error_at_all_is_not_a_tolerance() -> None:
    with pytest.raises(InputError, match="atol: got a tolerance of 0"):
        VerifyRequest(atol=0.0)
