"""verify_artifact, and `verify --module`, on an artifact of a user's own module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reformer_export import export_module, verify_artifact
from reformer_export.artifact.manifest import MANIFEST_NAME, read_manifest
from reformer_export.errors import InputError, ParityError
from reformer_export.workflows.export_module import compare_shortly
from reformer_export.workflows.verify_inputs import load_user_module
from tests import lucidrains
from tests.edits import change_json, edit_json

SOURCE = """
import torch
from reformer_pytorch import LSHSelfAttention


class Forecaster(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Linear(3, 16)
        self.attention = LSHSelfAttention(16, heads=2, bucket_size=4, n_hashes=4)
        self.project = torch.nn.Linear(16, 1)

    def forward(self, series, scale: float = 1.0):
        length = series[0].shape[1]
        x = self.embed(torch.cat(series, -1))
        x = torch.nn.functional.pad(x, (0, 0, 0, -length % 8))
        return scale * self.project(self.attention(x)[:, :length])


def build():
    torch.manual_seed(0)
    return Forecaster().eval()


def build_trained():
    return Forecaster()


def build_with_inputs():
    print("this is a user's code")
    return build(), ((torch.ones(2, 21, 1), torch.ones(2, 21, 2)), 2.0)


def fail():
    raise RuntimeError("no weights here")


number = 5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `forecaster.py`, and the artifact `out` of its module, called with scale 2."""
    lucidrains.require_package()
    folder = tmp_path_factory.mktemp("user")
    (folder / "forecaster.py").write_text(SOURCE, encoding="utf-8")
    series = torch.randn(2, 19, 1), torch.randn(2, 19, 2)
    export_module(build(), (series, 2.0), folder / "out", max_length=64)
    return folder


def build() -> Any:
    found: dict[str, Any] = {}
    exec(SOURCE, found)
    return found["build"]()


def run_verify(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reformer_export", "verify", "out", *options]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_a_new_artifact_is_compared_before_it_is_written(folder: Path) -> None:
    manifest = read_manifest(folder / "out")
    assert manifest.parity is not None
    assert (manifest.parity["passed"], manifest.parity["num_cases"]) == (True, 3)
    assert manifest.parity["hashed"] > 0
    other = build()
    other.project.weight.data *= 1.01
    with pytest.raises(ParityError, match=r"FAILED: 3 of 3 cases.*use `verify=False`"):
        compare_shortly(folder / "out", manifest, other, draw(2, 19))


def draw(batch: int, length: int) -> tuple[Any, float]:
    rng = np.random.default_rng(length)
    return tuple(torch.from_numpy(rng.random((batch, length, n), np.float32)) for n in (1, 2)), 2.0


def test_inputs_are_a_call_or_several(folder: Path) -> None:
    module = build()
    one = verify_artifact(folder / "out", module=module, inputs=draw(2, 30), details=True)
    assert one.passed
    assert str(one.runtimes[0].sweep.cases[0].case) == "inputs: batch 2, sequence 30"
    assert one.details is not None
    assert one.details.names == {0: "attention"}
    assert one.details.margins
    several = verify_artifact(folder / "out", module=module, inputs=[draw(1, 8), draw(3, 9)])
    assert [case.case.length for case in several.runtimes[0].sweep.cases] == [8, 9]
    with pytest.raises(InputError, match=r"unexpected keyword argument 'series_0'.*give `inputs`"):
        verify_artifact(folder / "out", module=module, lengths=[8])


def test_the_function_s_inputs_show_how_drawn_ones_are_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    heard: list[str] = []
    report = verify_artifact(
        "out", module="forecaster:build_with_inputs", lengths=[8, 13], batch_sizes=[2], say=heard.append
    )
    assert report.passed
    assert [str(case.case) for case in report.runtimes[0].sweep.cases] == [
        "batch 2, sequence 8",
        "batch 2, sequence 13",
    ]
    assert heard[0] == "Importing forecaster and calling its build_with_inputs(): this runs the code in it."


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "module: got none, for an artifact of a module of a user's own"),
        ({"checkpoint": "x", "module": 1}, "checkpoint: got it for an artifact of a module"),
        ({"module": 5}, r"module: got int, expected a torch\.nn\.Module"),
        ({"module": "forecaster"}, "module: got 'forecaster', expected package.module:function"),
        ({"module": "no_such_package:build"}, "ModuleNotFoundError"),
    ],
)
def test_refusals(folder: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        verify_artifact(folder / "out", **fields)


def test_what_a_function_does_wrong_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name, words in (("fail", "RuntimeError: no weights here"), ("number", "TypeError"), ("no", "no")):
        with pytest.raises(InputError, match=words):
            load_user_module(f"forecaster:{name}", lambda _line: None)
    with pytest.raises(InputError, match="module: got it in training mode, expected eval mode"):
        verify_artifact("out", module="forecaster:build_trained")
    assert str(folder) not in sys.path


def test_the_command_line(folder: Path) -> None:
    outcome = run_verify(folder, "--module", "forecaster:build_with_inputs", "--json", "parity.json")
    assert outcome.returncode == 0, outcome.stderr
    assert "Importing forecaster and calling its build_with_inputs()" in outcome.stderr
    report = json.loads((folder / "parity.json").read_text())
    assert report["passed"]
    assert report["cases"][0]["case"] == {
        "sizes": {"batch": 2, "sequence": 21},
        "masked": False,
        "inputs": "inputs",
    }


def test_the_command_line_refuses_in_one_line(folder: Path) -> None:
    outcome = run_verify(folder)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (2, 1)
    assert "give --module, e.g. package.module:function" in outcome.stderr


def test_an_artifact_cannot_name_code(folder: Path, tmp_path: Path) -> None:
    """What a stranger writes into a manifest is not looked for."""
    import shutil

    out = shutil.copytree(folder / "out", tmp_path / "out")
    change_json(out / MANIFEST_NAME, module="forecaster:build")
    edit_json(out / MANIFEST_NAME, lambda manifest: manifest["source"].update(module="forecaster:build"))
    (tmp_path / "forecaster.py").write_text("raise SystemExit(9)")
    outcome = run_verify(tmp_path)
    assert outcome.returncode == 2
    assert "give --module" in outcome.stderr
