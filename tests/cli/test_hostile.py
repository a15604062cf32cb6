"""Files that a stranger made to do harm: each ends in one line, exit status 2 and a bounded peak of memory.

Every command runs in a process of its own, forked from a server that has imported what commands import, so
that what is measured is the command's own growth.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import struct
import sys
import traceback
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from tests.cli.program import Outcome, run_program
from tests.edits import change_json, edit_json, vouch_for
from tests.hf_models import config_t, save_model
from tests.runtimes.artifacts import make_model, make_spec, write_artifact

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")

REFUSED_MB = 200
"""Growth that a refusal may cost, MB: imports, and small files read whole."""

SECONDS = 60

PRELOADED = [
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "reformer_export.cli.main",
    __name__,
]


@dataclass(frozen=True)
class Measured:
    """How a command ended, and by how much its memory grew at most (MB)."""

    outcome: Outcome
    growth: float


def measure(*arguments: object) -> Measured:
    """`reformer-export` with `arguments` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, [str(argument) for argument in arguments]))
    process.start()
    sender.close()
    try:
        assert receiver.poll(SECONDS), "no answer: the command hangs"
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"the command died with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    assert isinstance(answer, Measured), answer
    return answer


def _run(sender: Any, arguments: list[str]) -> None:
    try:
        before = _memory("VmRSS")
        outcome = run_program(*arguments)
        sender.send(Measured(outcome, _memory("VmHWM") - before))
    except BaseException:
        sender.send(traceback.format_exc())


def _memory(name: str) -> float:
    """MB, from this process's own account."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def refuse(message: str, *arguments: object, limit: float = REFUSED_MB) -> None:
    measured = measure(*arguments)
    assert measured.outcome.status == 2, measured.outcome
    assert re.search(message, measured.outcome.error), measured.outcome.error
    assert "Traceback" not in measured.outcome.stderr
    assert measured.growth < limit, f"{measured.growth:.0f} MB"


def replace_model(out: Path, content: Any) -> None:
    """Another model.onnx, and a manifest that vouches for it."""
    (out / "model.onnx").write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    vouch_for(out / "model.onnx")


def test_the_measurement_sees_memory(out: Path) -> None:
    """A good artifact runs, and a large input shows in the growth."""
    small = measure("run", out, "--ids", "5,6,7")
    assert small.outcome.status == 0
    np.save(out.parent / "ids.npy", np.ones((200, 64), np.int64))
    large = measure("run", out, "--file", out.parent / "ids.npy", "--batch-size", 200)
    assert large.outcome.status == 0
    assert large.growth > small.growth + 10


def test_a_model_that_is_a_link_to_another_file(out: Path) -> None:
    (out / "model.onnx").unlink()
    (out / "model.onnx").symlink_to("/etc/passwd")
    refuse("expected a path inside the artifact", "run", out, "--ids", "1")


def test_a_manifest_that_names_another_file(out: Path) -> None:
    edit_json(out / "manifest.json", lambda values: values["files"].update({"../../etc/passwd": "0" * 64}))
    refuse("expected a path inside the artifact", "run", out, "--ids", "1")


def test_external_data_elsewhere(out: Path) -> None:
    model = make_model(make_spec())
    table = model.graph.initializer[0]
    table.ClearField("raw_data")
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="/etc/passwd")
    replace_model(out, model)
    for command in (("run", out, "--ids", "1"), ("inspect", out)):
        refuse("expected a path inside the artifact", *command)


def test_external_data_shorter_than_its_tensor(out: Path) -> None:
    model = make_model(make_spec())
    table = model.graph.initializer[0]
    table.ClearField("raw_data")
    table.dims[:] = [2**18, 2**17]
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="model.onnx.data")
    (out / "model.onnx.data").write_bytes(b"few")
    replace_model(out, model)
    refuse("ONNX Runtime refuses it", "run", out, "--ids", "1")


@pytest.mark.parametrize("dims", [[-1, 4], [2**40, 2**40], [2**33]])
def test_tensors_of_absurd_shape(out: Path, dims: list[int]) -> None:
    model = make_model(make_spec())
    model.graph.initializer[0].dims[:] = dims
    replace_model(out, model)
    refuse("a tensor of shape", "run", out, "--ids", "1")


def test_functions_that_explode(out: Path) -> None:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("x", 1)]
    model = make_model(make_spec())
    for i in range(12):
        nodes = [helper.make_node(f"f{i + 1}", ["x"], ["y"], domain="x")] * 10
        model.functions.append(helper.make_function("x", f"f{i}", ["x"], ["y"], nodes, imports))
    model.graph.node.append(helper.make_node("f0", ["seen"], ["unused"], domain="x"))
    replace_model(out, model)
    refuse("functions that grow to more than", "run", out, "--ids", "1")


def test_a_function_of_ten_thousand_nodes_is_survived(out: Path) -> None:
    imports = [helper.make_opsetid("", 18)]
    nodes = [helper.make_node("Identity", [f"x{i}"], [f"x{i + 1}"]) for i in range(10_000)]
    model = make_model(make_spec())
    model.functions.append(helper.make_function("x", "long", ["x0"], ["x10000"], nodes, imports))
    model.graph.node.insert(1, helper.make_node("long", ["seen"], ["same"], domain="x"))
    model.graph.node[2].input[0] = "same"
    model.opset_import.append(helper.make_opsetid("x", 1))
    replace_model(out, model)
    measured = measure("run", out, "--ids", "5", "--json")
    assert measured.outcome.status == 0, measured.outcome
    assert measured.growth < 500


def test_graphs_nested_deep(out: Path) -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [value])
    for _ in range(25):
        graph = helper.make_graph([helper.make_node("Loop", ["x"], ["y"], body=graph)], "g", [], [value])
    replace_model(out, helper.make_model(graph))
    refuse("nested more than", "run", out, "--ids", "1")


def test_rubbish_in_place_of_a_model(out: Path) -> None:
    replace_model(out, os.urandom(2**20))
    refuse("expected", "run", out, "--ids", "1")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        '{"a":' * 10**5,
        "1" * 10**6,
        '{"manifest_version": 1, "spec": ' + "[" * 900 + "]" * 900 + "}",
    ],
    ids=["arrays", "objects", "a long number", "fields"],
)
def test_json_that_exhausts_a_reader(out: Path, text: str) -> None:
    (out / "manifest.json").write_text(text)
    for command in (("run", out, "--ids", "1"), ("inspect", out)):
        refuse("expected", *command)


def test_a_manifest_too_large_to_read(out: Path) -> None:
    with (out / "manifest.json").open("wb") as stream:
        stream.truncate(2**33)
    refuse("expected at most", "run", out, "--ids", "1")


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "num_labels", "max_position_embeddings"])
def test_a_manifest_with_absurd_sizes(out: Path, field: str) -> None:
    edit_json(out / "manifest.json", lambda values: values["spec"].update({field: 2**62}))
    refuse(field, "run", out, "--ids", "1")


def test_ids_for_which_memory_does_not_suffice(tmp_path: Path) -> None:
    """An .npy whose header promises 2^50 elements."""
    out = write_artifact(tmp_path / "out")
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1125899906842624, 1), }"
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    (tmp_path / "ids.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    refuse("ids.npy", "run", out, "--file", tmp_path / "ids.npy")


def test_ids_in_a_zip_bomb(tmp_path: Path) -> None:
    """An .npz of a megabyte that unpacks to a gigabyte."""
    out = write_artifact(tmp_path / "out")
    with (
        zipfile.ZipFile(tmp_path / "ids.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("input_ids.npy", "w") as member,
    ):
        header = {"descr": "<i8", "fortran_order": False, "shape": (1, 2**27)}
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(2**10):
            member.write(bytes(2**20))
    assert (tmp_path / "ids.npz").stat().st_size < 2 * 2**20
    refuse("ids.npz", "run", out, "--file", tmp_path / "ids.npz")


def test_ids_in_a_zip_bomb_of_good_rows(tmp_path: Path) -> None:
    """An .npz of some hundred kilobytes with millions of rows that the model would take: read as they come,
    up to the bad one in the middle."""
    out = write_artifact(tmp_path / "out", "text-classification")
    row = np.zeros((1, 64), np.int64).tobytes()
    with (
        zipfile.ZipFile(tmp_path / "ids.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("input_ids.npy", "w") as member,
    ):
        header = {"descr": "<i8", "fortran_order": False, "shape": (2**20, 64)}
        np.lib.format.write_array_header_1_0(member, header)
        for block in range(2**10):
            member.write(row * 2**10 if block != 1 else b"\xff" * len(row) * 2**10)
    assert (tmp_path / "ids.npz").stat().st_size < 2**20
    refuse("row 1024: input_ids: got id -1", "run", out, "--file", tmp_path / "ids.npz")


def test_a_zip_of_endless_directory(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "ids.npz", "w") as archive:
        for i in range(30_000):
            archive.writestr(f"{i:040}", b"")
    refuse("a directory of more than", "run", out, "--file", tmp_path / "ids.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_unpack_without_bound(tmp_path: Path, method: int) -> None:
    out = write_artifact(tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "ids.npz", "w", method) as archive:
        archive.writestr("input_ids.npy", bytes(2**28))
    refuse("compressed with method", "run", out, "--file", tmp_path / "ids.npz")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_a_line_without_end(tmp_path: Path, suffix: str) -> None:
    out = write_artifact(tmp_path / "out")
    path = tmp_path / f"ids{suffix}"
    with path.open("wb") as stream:
        stream.truncate(2**28)
    refuse("line 1: got more than .* bytes", "run", out, "--file", path)


@pytest.mark.parametrize(
    "line",
    ["[" * 2**20, '{"input_ids": ' + "[" * 10**5, '{"input_ids": [' + "[]," * 300_000, "9" * 10**6],
    ids=["arrays", "a nested list", "many lists", "a long number"],
)
def test_lines_that_exhaust_a_reader(tmp_path: Path, line: str) -> None:
    out = write_artifact(tmp_path / "out")
    (tmp_path / "ids.jsonl").write_text(line)
    refuse("line 1: got", "run", out, "--file", tmp_path / "ids.jsonl")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_model(tmp_path, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)


def refuse_checkpoint(message: str, checkpoint: Path, *options: str, limit: float = REFUSED_MB) -> None:
    refuse(message, "onnx", checkpoint, checkpoint.parent / "out", *options, limit=limit)
    assert not (checkpoint.parent / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(checkpoint: Path, value: float) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["lm_head.decoder.weight"].view(-1)[7] = value
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    refuse_checkpoint("1 of .* values of the tensor lm_head.decoder.weight", checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hashes": 2**24},
        {"num_buckets": 2**20, "num_hashes": 1024},
        {"vocab_size": 2**23},
        {"vocab_size": 2**40},
        {"feed_forward_size": 2**24},
        {"lsh_num_chunks_before": 2**23},
        {"attn_layers": ["lsh"] * 100_000, "num_hidden_layers": 100_000},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_configs_of_absurd_size(checkpoint: Path, changes: dict[str, Any]) -> None:
    change_json(checkpoint / "config.json", **changes)
    refuse_checkpoint("expected", checkpoint)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**8 + 1])
def test_a_safetensors_header_of_absurd_length(checkpoint: Path, length: int) -> None:
    content = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", length) + content[8:])
    refuse_checkpoint("no whole safetensors file", checkpoint)


def test_a_pickle_that_runs_a_command(checkpoint: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {checkpoint / 'harmed'}",)

    (checkpoint / "model.safetensors").unlink()
    torch.save({"weight": Harm()}, checkpoint / "pytorch_model.bin", pickle_module=pickle)
    refuse_checkpoint("a pickle, expected", checkpoint)
    refuse_checkpoint("does not load as tensors only", checkpoint, "--allow-pickle")
    assert not (checkpoint / "harmed").exists()


def test_a_pickle_that_is_a_zip_bomb(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(2**28)}, checkpoint / "whole.bin")
    with (
        zipfile.ZipFile(checkpoint / "whole.bin") as whole,
        zipfile.ZipFile(checkpoint / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    (checkpoint / "whole.bin").unlink()
    assert (checkpoint / "pytorch_model.bin").stat().st_size < 4 * 2**20
    refuse_checkpoint("expected", checkpoint, "--allow-pickle")


def test_a_shard_elsewhere(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.bias": "../../etc/passwd"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse_checkpoint("expected the name of a file beside the index", checkpoint)


def test_a_lone_onnx_file_with_rubbish_dimensions(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "t")
    tensor.dims[:] = [2**10, 2**10]
    graph = helper.make_graph([], "g", [], [], [tensor])
    onnx.save(helper.make_model(graph), str(tmp_path / "a.onnx"))
    refuse("with 16 bytes", "inspect", tmp_path / "a.onnx")
