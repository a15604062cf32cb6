"""The same checkpoint, options and versions give the same bytes, whatever the process and the folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reformer_export.export.bodies import BODIES

ROOT = Path(__file__).parents[2]

PRINT_BODIES = """
import hashlib
from reformer_export.export import bodies

for operator in bodies.BODIES:
    for opset in (18, 23):
        proto = bodies.function_body(operator, opset)
        print(operator.name, opset, hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest())
"""


def run_python(seed: int, folder: Path, *arguments: object) -> str:
    """What a process of hash seed `seed` in the folder `folder` prints."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": str(seed),
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
    }
    result = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_function_bodies_are_the_same_in_every_process(tmp_path: Path) -> None:
    printed = [run_python(seed, tmp_path, "-c", PRINT_BODIES) for seed in range(3)]
    assert len(printed[0].splitlines()) == 2 * len(BODIES)
    assert printed[1:] == printed[:1] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "options"),
    [
        ("models/duplication/lsh-4", []),
        ("models/kjv-bytes", ["--no-verify", "--max-hashes", "4", "--dtype", "float16", "--decode"]),
    ],
)
def test_exports_have_equal_bytes(tmp_path: Path, checkpoint: str, options: list[str]) -> None:
    """Other hash seed, other folder, other process; the checkpoint too lies elsewhere."""
    first, second = tmp_path / "first", tmp_path / "a" / "longer" / "way"
    exports = []
    for seed, folder in enumerate((first, second)):
        shutil.copytree(ROOT / checkpoint, folder / "model")
        run_python(seed, folder, "-m", "reformer_export.cli.main", "onnx", "model", "out", *options)
        exports.append(read_files(folder / "out"))
    assert {"model.onnx", "manifest.json"} <= exports[0].keys()
    assert exports[0] == exports[1]


def read_files(folder: Path) -> dict[str, Any]:
    """Each file's SHA-256; the manifest's values, which a differing one would show."""
    digests: dict[str, Any] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    return digests | {"values": json.loads((folder / "manifest.json").read_text())}
