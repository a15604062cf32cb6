"""kill -9 at random moments of a real export or engine build: the whole old one is there, or the new one.

$KILLS sets how many times (5 unless told otherwise). `test_artifact_folder.py` kills at every step of the
move; here it is the export as a whole that is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import transformers

from reformer_export.artifact.engine_record import engine_path, read_engine_record
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import check_files, read_manifest
from tests.cli.program import run_program
from tests.engine.real import require_tensorrt_rtx
from tests.hf_models import config_t, save_model

KILLS = int(os.environ.get("KILLS", "5"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs a fork server")]


def export(checkpoint: Path, out: Path, seed: int) -> None:
    """`reformer-export onnx --overwrite`; the seed tells one artifact from another."""
    outcome = run_program("onnx", checkpoint, out, "--overwrite", "--no-verify", "--hash-seed", seed)
    assert outcome.status == 0, outcome


def time_process(process: Any) -> float:
    """Seconds that the process takes to its good end."""
    began = time.monotonic()
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def kill_at(process: Any, seconds: float) -> bool:
    """Start the process and kill it after so long; whether it was still running."""
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


def draw_moments(seconds: float, seed: int) -> list[float]:
    """`KILLS` moments, one in each of as many equal parts of `seconds`."""
    random_part = random.Random(seed)
    return [(i + random_part.random()) / KILLS * seconds for i in range(KILLS)]


def test_a_killed_export_leaves_a_whole_artifact(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    out = tmp_path / "out"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "onnxscript", "tests.cli.program", __name__])
    time_process(context.Process(target=export, args=(checkpoint, out, 0)))  # cold
    seconds = time_process(context.Process(target=export, args=(checkpoint, out, 0)))
    expected, killed = {0}, 0
    for seed, moment in enumerate(draw_moments(seconds, 0), 1):
        killed += kill_at(context.Process(target=export, args=(checkpoint, out, seed)), moment)
        manifest = read_manifest(out)
        check_files(out, manifest)
        found = {manifest.spec.layers[index].hash_seed for index in manifest.spec.lsh_layers}
        assert found <= expected | {seed}
        expected = found
    assert killed > 0
    assert {path.name for path in out.iterdir()} == {"manifest.json", *manifest.files}


def build(out: Path, optimum: int) -> None:
    """`reformer-export engine --overwrite`; the length it is tuned for tells one engine from another."""
    shapes = ("--min", "1x1", "--opt", f"1x{optimum}", "--max", "2x64")
    where = ("--runtime", "tensorrt-rtx", "--compute-capability", "8.9")
    outcome = run_program("engine", out, "--overwrite", "--name", "one", *where, *shapes)
    assert outcome.status == 0, outcome


@pytest.mark.tensorrt
def test_a_killed_build_leaves_a_whole_engine(tmp_path: Path) -> None:
    require_tensorrt_rtx()
    checkpoint = save_model(tmp_path, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    out = tmp_path / "out"
    export(checkpoint, out, 0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cli.program", __name__])
    time_process(context.Process(target=build, args=(out, 8)))  # cold
    seconds = time_process(context.Process(target=build, args=(out, 8)))
    expected, killed = {8}, 0
    for optimum, moment in enumerate(draw_moments(seconds, 1), 9):
        killed += kill_at(context.Process(target=build, args=(out, optimum)), moment)
        record = read_engine_record(out, "one")
        assert sha256_of_file(engine_path(out, "one")) == record.engine_sha256
        assert record.profiles[0].optimum[1] in expected | {optimum}
        expected = {record.profiles[0].optimum[1]}
    assert killed > 0
    build(out, 64)  # what was left behind stops nobody
    assert read_engine_record(out, "one").profiles[0].optimum == (1, 64)
