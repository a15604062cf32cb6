"""`onnx --config`: a checkpoint of reformer-pytorch through the program, and what does not work for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from reformer_export.artifact.manifest import read_manifest
from tests.cli.program import run_program
from tests.cli.test_verify import change_model
from tests.edits import edit_json
from tests.lucidrains import SMALL, save_model

pytestmark = pytest.mark.slow


MEMORIES: Final = {"pkm_layers": [2], "pkm_num_keys": 40}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt, kwargs.json and the artifact out; not to be changed."""
    folder = tmp_path_factory.mktemp("lucidrains")
    file, config = save_model(
        folder, SMALL | {"full_attn_thres": 16, "n_local_attn_heads": 1, "ff_chunks": 9} | MEMORIES
    )
    outcome = run_program("onnx", file, folder / "out", "--config", config, "--max-hashes", 3)
    assert outcome.status == 0, outcome.stderr
    assert "text-generation, 2 layers, float32, up to 64 tokens" in outcome.stdout
    assert "largest difference to eager" in outcome.stdout
    return folder


def copy(exported: Path, folder: Path) -> Path:
    """All of it, to be changed; the artifact's folder."""
    return Path(shutil.copytree(exported, folder / "copy")) / "out"


def test_the_artifact_says_where_it_came_from(exported: Path) -> None:
    manifest = read_manifest(exported / "out")
    assert manifest.source["path"] == "../model.pt"
    assert manifest.source["wrapper"] == "TrainingWrapper"
    assert manifest.source["ignored_keywords"].keys() == {"ff_chunks"}
    assert manifest.rotations_sha256.keys() == {"0", "1"}
    assert sorted(manifest.files) == ["model.onnx"]
    assert manifest.parity is not None
    assert manifest.parity["unexplained_flips"] == 0


def test_verify_compares_every_number_of_hashes_with_the_package(exported: Path, tmp_path: Path) -> None:
    out = exported / "out"
    outcome = run_program("verify", out, "--json", tmp_path / "a.json")
    assert outcome.status == 0, outcome.stdout
    cases = json.loads((tmp_path / "a.json").read_text())["cases"]
    assert {case["case"].get("num_hashes") for case in cases} == {None, 1, 2}
    counted = {layer["kind"]: layer["hashed"] for case in cases for layer in case["layers"]}
    assert min(counted["hashes"], counted["memories"]) > 0


def test_other_rotations_are_found(exported: Path, tmp_path: Path) -> None:
    out = copy(exported, tmp_path)
    edit_json(out / "manifest.json", lambda values: values["spec"]["layers"][1].update(hash_seed=77))
    outcome = run_program("verify", out, "--lengths", "40")
    assert outcome.status == 1
    assert "FAILED" in outcome.stderr
    assert "misplaced" in outcome.stdout or "hashes" in outcome.stderr


def test_another_keyword_is_found(exported: Path, tmp_path: Path) -> None:
    out = copy(exported, tmp_path)
    edit_json(out / "manifest.json", lambda values: values["source"]["keywords"].update(bucket_size=8))
    outcome = run_program("verify", out, "--lengths", "48")
    assert outcome.status != 0


def test_another_checkpoint_is_refused(exported: Path, tmp_path: Path) -> None:
    out = copy(exported, tmp_path)
    save_model(out.parent, SMALL | {"full_attn_thres": 16, "n_local_attn_heads": 1} | MEMORIES, seed=1)
    outcome = run_program("verify", out)
    assert outcome.status == 2
    assert "another file than the one that" in outcome.stderr
    (out.parent / "model.pt").unlink()
    assert "no file" in run_program("verify", out).stderr
    given = run_program("verify", out, "--checkpoint", exported / "model.pt", "--lengths", "24")
    assert given.status == 0, given.stderr


def test_a_wrong_node_is_named_replayed_and_shown(exported: Path, tmp_path: Path) -> None:
    out = copy(exported, tmp_path)
    change_model(out.parent, "1.attention.self_attention.rotations", lambda r: r[:, :, ::-1].copy())
    node, page = tmp_path / "node", tmp_path / "page.html"
    few = ("--lengths", "40", "--batch-sizes", "2", "--num-hashes", "3")
    outcome = run_program("verify", out, *few, "--bisect", node, "--report", page)
    assert outcome.status == 1
    assert "(LSHBuckets), layer 1, encoder.layers.1.attention.self_attention: " in outcome.stdout
    replayed = run_program("replay", node, "--json")
    assert replayed.status == 1
    assert json.loads(replayed.stdout)["repeats"]
    html = page.read_text(encoding="utf-8")
    for words in ("Layer by layer", "Margins of the hashes in layer 1", "one input of 64 tokens"):
        assert words in html


def test_lengths_that_it_does_not_take_are_named(exported: Path) -> None:
    outcome = run_program("run", exported / "out", "--ids", "5,6,7,8,9")
    assert outcome.status == 2
    assert "multiples of 2 x bucket_size = 8 up to full_attn_thres = 16, for local heads" in outcome.stderr


def test_run_and_inspect(exported: Path, tmp_path: Path) -> None:
    out = exported / "out"
    ids = ",".join(map(str, range(24)))
    outcome = run_program("run", out, "--ids", ids, "--output", tmp_path / "a.npz")
    assert outcome.status == 0, outcome.stderr
    assert np.load(tmp_path / "a.npz")["logits"].shape == (1, 24, 50)
    outcome = run_program("inspect", out)
    assert outcome.status == 0
    assert "rotary, in the heads that hash" in outcome.stdout
    assert "in place of the feed-forward in layers 1: 40 x 40 memories each" in outcome.stdout


def test_an_export_without_the_comparison_says_so(exported: Path, tmp_path: Path) -> None:
    file, config = exported / "model.pt", exported / "kwargs.json"
    outcome = run_program("onnx", file, tmp_path / "out", "--config", config, "--no-verify")
    assert outcome.status == 0
    assert "not compared with eager" in outcome.stdout
    assert read_manifest(tmp_path / "out").parity is None


def test_refusals_leave_nothing_behind(exported: Path, tmp_path: Path) -> None:
    file, config = exported / "model.pt", tmp_path / "kwargs.json"
    values = json.loads((exported / "kwargs.json").read_text())
    for changes, expected in (
        ({"heads": 8}, "kwargs.json: heads x dim_head: got 8 x 8 = 64, expected 32 rows"),
        ({"more": 1}, "kwargs.json: more: got a keyword that it does not have"),
        ({"class": "ReformerEncDec"}, "kwargs.json: class"),
    ):
        config.write_text(json.dumps(values | changes))
        outcome = run_program("onnx", file, tmp_path / "out", "--config", config)
        assert outcome.status == 2
        (line,) = outcome.messages
        assert expected in line
        assert not (tmp_path / "out").exists()
    outcome = run_program("onnx", file, tmp_path / "out")
    assert outcome.status == 2
    assert "add --config for a model of reformer-pytorch" in outcome.stderr
    outcome = run_program("onnx", file, tmp_path / "out", "--config", config, "--num-buckets", 4)
    assert "--num-buckets" in outcome.stderr
