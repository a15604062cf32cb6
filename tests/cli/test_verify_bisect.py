"""`verify --bisect DIR` and `replay DIR`: a planted defect is named, written, and found again alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import transformers

from tests.cli.program import Outcome, run_program, snapshot
from tests.cli.test_verify import change_model
from tests.edits import edit_json, vouch_for
from tests.export.test_export import NATIVE_MODES
from tests.hf_models import config_t, save_model
from tests.test_imports import EXPORT_ONLY

FEW = ("--lengths", "20", "--batch-sizes", "2")
VALUE = "encoder.layers.1.attention.self_attention.value"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its artifact `out`."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = save_model(folder, config_t(initializer_range=0.3), transformers.ReformerModel)
    assert run_program("onnx", checkpoint, folder / "out", "--no-verify").status == 0
    return folder


@pytest.fixture
def sound(exported: Path, tmp_path: Path) -> Path:
    """A copy of `exported`, to be changed."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.fixture
def damaged(sound: Path) -> Path:
    """As `sound`, with a value projection that is a tenth too large."""
    model = onnx.load(str(sound / "out" / "model.onnx"))
    scope = f"'{VALUE}'"
    (linear,) = (n for n in model.graph.node if any(scope in entry.value for entry in n.metadata_props))
    change_model(sound, linear.input[1], lambda w: w * np.float32(1.1))
    return sound


@pytest.fixture
def node(damaged: Path) -> Path:
    """The folder that names the node of `damaged`."""
    assert bisect(damaged, damaged / "node").status == 1
    return damaged / "node"


def bisect(folder: Path, out: Path, *options: object) -> Outcome:
    return run_program("verify", folder / "out", *FEW, "--bisect", out, *options)


@pytest.mark.parametrize("native", NATIVE_MODES)
def test_the_node_is_named_written_and_replayed(damaged: Path, native: str) -> None:
    out = damaged / "a node"
    outcome = bisect(damaged, out, "--native", native)
    assert outcome.status == 1
    stored, found = outcome.messages
    assert f" constants are not what the checkpoint gives; {VALUE}.weight in model.onnx: got " in stored
    assert "parity with eager: FAILED: " in found
    assert f"(MatMul), layer 1, {VALUE}: error " in found  # the headline, before what follows from it
    named, _, command = outcome.stdout.splitlines()[-3:]
    assert f"(MatMul), layer 1, {VALUE}: error " in named
    assert command == f"  reformer-export replay '{out}'"
    assert sorted(path.name for path in out.iterdir()) == ["node.json", "node.npz", "node.onnx"]

    replayed = run_program("replay", out, "--json")
    assert (replayed.status, replayed.messages) == (1, [])
    report = json.loads(replayed.stdout)
    assert (report["operator"], report["layer"], report["module"]) == ("MatMul", 1, VALUE)
    assert report["repeats"]
    assert report["error"] == pytest.approx(report["recorded_error"])
    assert report["error"] > 100 * report["tolerance"]


def test_the_files_are_eagers_inputs_and_results(node: Path) -> None:
    arrays = np.load(node / "node.npz")
    model = onnx.load(str(node / "node.onnx"))
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    (given,) = (value.name for value in model.graph.input)
    assert given == "eager.encoder.layers.1.attention.layer_norm"
    (weight,) = map(onnx.numpy_helper.to_array, model.graph.initializer)
    assert np.allclose(arrays["got"], arrays[given] @ weight, atol=1e-6)
    assert np.allclose(arrays["expected"], arrays[given] @ (weight / np.float32(1.1)), atol=1e-6)
    assert arrays["judged"].shape == arrays["expected"].shape == (2, 20, 16)


def test_an_attention_operator_brings_its_function_body(sound: Path) -> None:
    path = sound / "out" / "model.onnx"
    model = onnx.load(str(path))
    (node,) = (node for node in model.graph.node if node.op_type == "LSHAttention")
    (attribute,) = (a for a in node.attribute if a.name == "num_chunks_before")
    attribute.i = 0
    onnx.save(model, str(path))
    change_model(sound, "rotations", lambda r: r)  # the manifest's SHA-256 follows
    assert bisect(sound, sound / "node").status == 1
    alone = onnx.load(str(sound / "node" / "node.onnx"))
    assert [function.name for function in alone.functions] == ["LSHAttention"]
    for native in NATIVE_MODES:
        outcome = run_program("replay", sound / "node", "--native", native)
        assert (outcome.status, outcome.messages) == (1, [])
        assert "(LSHAttention), layer 1, " in outcome.stdout
        assert "DIFFERS" in outcome.stdout


def test_a_mended_node_agrees(damaged: Path, node: Path) -> None:
    """The same node with another weight, as somebody who mends an exporter would try it."""
    model = onnx.load(str(node / "node.onnx"))
    (weight,) = model.graph.initializer
    mended = onnx.numpy_helper.to_array(weight) / np.float32(1.1)
    weight.CopyFrom(onnx.numpy_helper.from_array(mended, weight.name))
    onnx.save(model, str(node / "node.onnx"))
    edit_json(node / "node.json", lambda record: record["files"].pop("node.onnx"))
    assert "got another file" in run_program("replay", node).error  # a file without a SHA-256 is none of ours
    vouch_for(node / "node.onnx", "node.json")
    outcome = run_program("replay", node)
    assert (outcome.status, outcome.messages) == (0, [])
    assert outcome.stdout.rstrip().endswith("agrees")


def test_replaying_needs_neither_torch_nor_onnx(node: Path) -> None:
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({[*EXPORT_ONLY, 'onnx', 'onnx_graphsurgeon']!r}))\n"
        f"sys.argv = ['reformer-export', 'replay', {str(node)!r}]\n"
        "from reformer_export.cli.main import main\n"
        "main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    assert VALUE in result.stdout


def test_a_sound_artifact_writes_nothing(sound: Path) -> None:
    before = snapshot(sound)
    outcome = bisect(sound, sound / "node")
    assert (outcome.status, outcome.messages) == (0, [])
    assert outcome.stdout.splitlines()[-1].startswith("No node differs (batch 2, length 20")
    assert snapshot(sound) == before


def test_what_json_says(damaged: Path) -> None:
    outcome = bisect(damaged, damaged / "node", "--json", "-")
    assert outcome.status == 1
    found = json.loads(outcome.stdout)["bisect"]
    assert found["node"]["operator"] == "MatMul"
    assert found["node"]["error"] == pytest.approx(found["node"]["pinned_error"], rel=1e-2)
    assert found["first_beyond"]["module"] == found["node"]["module"] == VALUE
    assert found["replay"] == f"reformer-export replay {damaged / 'node'}"


def test_only_an_earlier_one_is_replaced(damaged: Path, node: Path) -> None:
    (node / "node.npz").write_bytes(b"old")
    assert bisect(damaged, node).status == 1
    assert np.load(node / "node.npz")["got"].shape == (2, 20, 16)
    (node / "notes.txt").write_text("mine")
    before = snapshot(damaged)
    assert "which also holds notes.txt, expected a new folder" in bisect(damaged, node).error
    assert "is no folder" in bisect(damaged, damaged / "out" / "model.onnx").error
    assert bisect(damaged, damaged / "out").status == 2
    assert snapshot(damaged) == before


def test_nodes_of_an_engine_cannot_be_searched(exported: Path, tmp_path: Path) -> None:
    outcome = bisect(exported, tmp_path / "node", "--runtime", "tensorrt")
    assert outcome.status == 2
    assert "--bisect: got tensorrt, whose nodes" in outcome.error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("node.json", None, "node.json: got no such file"),
        ("node.json", b"{", "node.json: got text that is not JSON"),
        ("node.json", b"[]", "node.json: got a missing or wrong field"),
        ("node.json", b'{"layer": 1}', "node.json: got a missing or wrong field"),
        ("node.json", b" " * (2**20 + 1), "node.json: got 1048577 bytes"),
        ("node.npz", None, "node.npz: got none"),
        ("node.npz", b"changed", "node.npz: got another file"),
        ("node.onnx", b"changed", "node.onnx: got another file"),
    ],
)
def test_broken_folders_are_refused(node: Path, name: str, content: bytes | None, message: str) -> None:
    if content is None:
        (node / name).unlink()
    else:
        (node / name).write_bytes(content)
    outcome = run_program("replay", node)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert message in outcome.error
    assert "expected" in outcome.error


@pytest.mark.parametrize("save", [np.savez_compressed, np.savez])
def test_arrays_that_do_not_fit_are_refused(node: Path, save: object) -> None:
    save(node / "node.npz", got=np.zeros(3))  # type: ignore[operator]
    vouch_for(node / "node.npz", "node.json")
    message = "compressed arrays" if save is np.savez_compressed else "no array eager."
    assert message in run_program("replay", node).error
