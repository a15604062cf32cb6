"""kill -9 at random moments of a real export: OUT is the whole old artifact or the whole new one.

$KILLS sets how many times (5 unless told otherwise). `test_artifact_folder.py` kills at every step of the
move; here it is the export as a whole that is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

import pytest
import transformers

from reformer_export.artifact import check_files, read_manifest
from tests.cli.program import run_program
from tests.hf_models import config_t, save_model

KILLS = int(os.environ.get("KILLS", "5"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs a fork server")]


def export(checkpoint: Path, out: Path, seed: int) -> None:
    """`reformer-export onnx --overwrite`; the seed tells one artifact from another."""
    outcome = run_program("onnx", checkpoint, out, "--overwrite", "--no-verify", "--hash-seed", seed)
    assert outcome.status == 0, outcome


def test_a_killed_export_leaves_a_whole_artifact(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    out = tmp_path / "out"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "onnxscript", "tests.cli.program", __name__])
    began = time.monotonic()
    process = context.Process(target=export, args=(checkpoint, out, 0))
    process.start()
    process.join()
    assert process.exitcode == 0
    seconds = time.monotonic() - began
    moments = random.Random(0)
    kept = replaced = 0
    for seed in range(1, KILLS + 1):
        before = read_manifest(out).spec
        process = context.Process(target=export, args=(checkpoint, out, seed))
        process.start()
        process.join(moments.uniform(0, 1.2 * seconds))
        process.kill()
        process.join()
        manifest = read_manifest(out)
        check_files(out, manifest)
        kept += manifest.spec == before
        replaced += manifest.spec != before
    assert kept > 0
    assert kept + replaced == KILLS
    assert {path.name for path in out.iterdir()} == {"manifest.json", *manifest.files}
